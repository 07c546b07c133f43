"""When sshd is asked about a tenant anew, and when what it said of another one holds."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host.contract import Account, CommandResult
from agent.host.fake import FakeHost
from enforcers import sshd_files, sshd_match
from tests.unit.enforcer_fixtures import fake_host, sshd_says

MAIN = Path("/etc/ssh/sshd_config")
SSHD = Path("/usr/bin/sshd")
FOLDER = Path("/etc/ssh/sshd_config.d")
DEBIAN = b"# Debian's\nInclude /etc/ssh/sshd_config.d/*.conf\n\nKbdInteractiveAuthentication no\nUsePAM yes\n#Match User anoncvs\n"


def host_with(*logins: str, **files: bytes) -> FakeHost:
    """sshd as Debian sets it up, with our drop-in and these others beside it, and tenants of these names."""
    host = fake_host()
    host.identities[SSHD] = (1, 2, 3)
    host.files[MAIN] = (DEBIAN, 0o644)
    host.files[host.config.paths.sshd_drop_in] = (sshd_match.drop_in(host.config, tenant_shell=True), 0o644)
    for name, content in files.items():
        host.files[FOLDER / f"{name}.conf"] = (content, 0o644)
    for number, login in enumerate(logins):
        host.create_account(Account(login, 70000 + number, "", f"/home/{login}", "/bin/bash"))
        host.add_membership(login, host.config.tenant_group)
    return host


def times_asked(host: FakeHost, known: sshd_match.Known, *logins: str) -> int:
    said: list[object] = []

    def sshd(argv: Sequence[str], stdin: bytes | None) -> CommandResult:
        said.append(argv)
        return CommandResult(tuple(argv), 0, sshd_says(host.config)(argv, stdin).stdout, "")

    host.commands = {**host.commands, "sshd": sshd}
    for login in logins:
        known.check(host, login)
    return len(said)


def test_sshd_is_asked_about_the_first_tenant_and_not_about_the_next() -> None:
    host, known = host_with("jit-a", "jit-b", "jit-c"), sshd_match.Known()
    assert times_asked(host, known, "jit-a", "jit-b", "jit-c") == 1


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (MAIN, DEBIAN + b"PermitRootLogin no\n"),
        (FOLDER / "20-other.conf", b"X11Forwarding yes\n"),
        (FOLDER / "50-tidegate.conf", b"# not as it was\n"),
    ],
)
def test_a_changed_file_is_asked_about(path: Path, content: bytes) -> None:
    host, known = host_with("jit-a", "jit-b"), sshd_match.Known()
    assert times_asked(host, known, "jit-a") == 1
    host.files[path] = (content, 0o644)
    assert times_asked(host, known, "jit-b", "jit-b") == 1


@pytest.mark.parametrize(
    "content",
    [
        b"Match User jit-b\n  PasswordAuthentication yes\n",
        b"  match group adm\n",
        b"Match=User jit-b\n",
        b"\tMATCH\tAddress 10.0.0.0/8\n",
        b'Include "/etc/ssh/other\n',
        b"Include /etc/*/x.conf\n",
        b"Include\t\n",
        b"\xff\xfe\n",
        b'"Match" User jit-b\n',
    ],
)
def test_where_another_match_block_may_be_every_tenant_is_asked_about(content: bytes) -> None:
    host, known = host_with("jit-a", "jit-b", other=content), sshd_match.Known()
    assert times_asked(host, known, "jit-a", "jit-b", "jit-b") == 3


def test_what_is_included_by_an_included_file_counts() -> None:
    host, known = host_with("jit-a", "jit-b", other=b"Include deeper.conf\n"), sshd_match.Known()
    host.files[Path("/etc/ssh/deeper.conf")] = (b"Match User jit-b\n", 0o644)
    assert times_asked(host, known, "jit-a", "jit-b") == 2
    host.files[Path("/etc/ssh/deeper.conf")] = (b"UseDNS no\n", 0o644)
    assert times_asked(host, known, "jit-a", "jit-b") == 1


def test_files_that_include_themselves_end_it() -> None:
    host = host_with(other=b"Include /etc/ssh/sshd_config\n")
    assert sshd_files.fingerprint(host) is None


def test_a_login_outside_the_tenants_group_is_asked_about() -> None:
    host, known = host_with("jit-a", "jit-b"), sshd_match.Known()
    host.drop_membership("jit-b", host.config.tenant_group)
    assert times_asked(host, known, "jit-a", "jit-b") == 2


def test_a_conflict_is_never_remembered_as_right() -> None:
    host, known = host_with("jit-a", "jit-b"), sshd_match.Known()
    host.commands = {**host.commands, "sshd": sshd_says(host.config, PasswordAuthentication="yes")}
    for login in ("jit-a", "jit-b"):
        with pytest.raises(HostError, match="sshd_conflict"):
            known.check(host, login)
    assert times_asked(host, known, "jit-a") == 1


def test_a_file_that_changes_while_sshd_is_asked_leaves_nothing_known() -> None:
    host, known = host_with("jit-a", "jit-b"), sshd_match.Known()

    def changing(argv: Sequence[str], stdin: bytes | None) -> CommandResult:
        host.files[MAIN] = (DEBIAN + b"Match User jit-b\n", 0o644)
        return CommandResult(tuple(argv), 0, sshd_says(host.config)(argv, stdin).stdout, "")

    host.commands = {**host.commands, "sshd": changing}
    known.check(host, "jit-a")
    assert times_asked(host, known, "jit-b") == 1


def test_without_its_main_file_nothing_is_known() -> None:
    host = host_with()
    del host.files[MAIN]
    assert sshd_files.fingerprint(host) is None


def test_what_is_known_of_one_host_is_not_of_another() -> None:
    known = sshd_match.Known()
    assert times_asked(host_with("jit-a"), known, "jit-a") == 1
    assert times_asked(host_with("jit-a"), known, "jit-a") == 1
