"""Each enforcer's own rules: what it refuses, what it writes, and what it never touches."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.admitted import refuse_unrecordable
from agent.config import Config
from agent.errors import HostError, InvalidGrantError, UnenforceableError
from agent.host.contract import Account, Group, RecorderSeen, User
from agent.host.fake import FakeHost
from agent.host.lent import Lent
from agent.model import Enforcer, Phase, PlanContext, Stage, Step, lent_by
from agent.planning import plan
from enforcers import ssh_keys, sshd_match, sudoers_rule
from enforcers.sudoers_rule import Rule, command, is_leaf, prove, render
from tests.unit.enforcer_fixtures import (
    BODIES,
    ENFORCERS,
    KEY,
    NBF,
    answer,
    fake_host,
    grant_of,
    needs_cvtsudoers,
    real,
    sshd_says,
)

ACCOUNT = {"type": "account", "identifier": "jit-alice"}
SSH = {"type": "ssh", "identifier": "jit-alice", "keys": [KEY]}
SUDO = {"type": "sudo", "identifier": "deploy", "commands": ["/usr/bin/id"]}
GROUP = {"type": "group", "identifier": "deploy", "groups": ["adm"]}
TIMES = "NOTAFTER=20270115080000Z TIMEOUT=60"  # NBF as sudoers writes it, and a minute


def steps_of(host: FakeHost, *bodies: dict[str, Any], **claims: Any) -> tuple[Step, ...]:
    return plan(grant_of(bodies, **claims), ENFORCERS, host, lambda _: 70001).steps


def refusal(host: FakeHost, *bodies: dict[str, Any]) -> str:
    before = host.snapshot()
    with pytest.raises(UnenforceableError) as refused:
        steps_of(host, *bodies)
    assert host.calls == []
    assert host.snapshot() == before
    assert (refused.value.field or "authorization_details[").startswith("authorization_details[")
    return refused.value.code


def invalid(body: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(InvalidGrantError) as refused:
        ENFORCERS[body["type"]].decode(body, "x")
    return refused.value.code, refused.value.field


# --- account


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"full_name": "Al:0:0"}, "full_name_invalid"),
        ({"full_name": "Al,x"}, "full_name_invalid"),
        ({"full_name": "Al\nroot::0"}, "text_unprintable"),
        ({"full_name": "Al\u202eice"}, "text_unprintable"),
        ({"full_name": ""}, "text_length"),
        ({"shell": "bash"}, "path_invalid"),
        ({"shell": "/bin/../bin/bash"}, "path_invalid"),
        ({"shell": "/bin//bash"}, "path_invalid"),
        ({"shell": "/bin/ba sh"}, "path_invalid"),
        ({"shell": "/bin/bash\n"}, "path_invalid"),
        ({"shell": "/bin/bash:x"}, "path_invalid"),
        ({"shell": ["/bin/bash"]}, "not_a_string"),
        ({"home": "/root"}, "unknown_value"),
        ({"home": "keep"}, "unknown_value"),
        ({"home": None}, "not_a_string"),
        ({"groups": ["adm", "adm"]}, "duplicate_entry"),
        ({"groups": "adm"}, "not_a_list"),
        ({"groups": ["a:b"]}, "group_invalid"),
        ({"groups": ["adm\n"]}, "group_invalid"),
        ({"groups": ["-adm"]}, "group_invalid"),
        ({"groups": ["a"] * 65}, "list_length"),
        ({"uid": 0}, "unknown_member"),
        ({"identifier": "tidegate-probe"}, "login_reserved"),
    ],
)
def test_an_account_with_bad_input_is_refused_by_name(change: dict[str, Any], code: str) -> None:
    found, field = invalid({**ACCOUNT, **change})
    assert found == code
    if code != "unknown_member":
        assert field is not None
        assert field.startswith(f"x.{next(iter(change))}")


def test_an_account_never_takes_over_what_is_there() -> None:
    host = fake_host()
    assert refusal(host, {**ACCOUNT, "identifier": "root"}) == "account_exists"
    assert refusal(host, {**ACCOUNT, "identifier": "deploy"}) == "account_exists"
    host.groups["jit-alice"] = Group("jit-alice", 5)
    assert refusal(host, ACCOUNT) == "group_exists"
    host = fake_host()
    host.files[Path("/home/jit-alice")] = (b"", 0o644)
    assert refusal(host, ACCOUNT) == "home_exists"
    host = fake_host()
    host.groups["adm"] = Group("adm", 4, ("jit-alice",))
    assert refusal(host, ACCOUNT) == "group_lists_name"
    assert refusal(fake_host(), {**ACCOUNT, "groups": ["nosuch"]}) == "group_missing"
    assert refusal(fake_host(), {**ACCOUNT, "shell": "/bin/nosuch"}) == "shell_missing"
    host = fake_host()
    del host.groups[Config().tenant_group]
    assert refusal(host, ACCOUNT) == "group_missing"


@pytest.mark.parametrize("own", [Config().tenant_group, Config().admin_group])
@pytest.mark.parametrize(
    "body", [ACCOUNT, {**GROUP, "identifier": "jit-alice"}, GROUP], ids=["account", "its group", "a person's group"]
)
def test_no_grant_puts_anyone_into_a_group_of_tidegates_own(own: str, body: dict[str, Any]) -> None:
    host = fake_host()
    host.groups[Config().admin_group] = Group(Config().admin_group, 601)
    asked = [ACCOUNT] if body["type"] == "group" and body["identifier"] == "jit-alice" else []
    assert refusal(host, *asked, {**body, "groups": [own]}) == "group_reserved"


def test_an_account_is_created_locked_and_opened_last_and_locked_first() -> None:
    steps = steps_of(fake_host(), ACCOUNT, SSH, {**GROUP, "identifier": "jit-alice"})
    assert [step.action for step in steps if step.stage is Stage.OPEN] == ["unlock"]
    assert (steps[0].action, steps[-1].action) == ("create", "unlock")
    closing = [step.action for step in reversed(steps) if step.phase is Phase.CLOSE]
    assert closing == ["unlock", "membership", "keys"]
    removing = [step.action for step in reversed(steps) if step.phase is Phase.REMOVE]
    assert removing == ["tenant", "membership", "home", "create"]


def test_the_tenant_group_outlives_the_doors_so_that_sshd_never_reads_a_tenants_own_keys() -> None:
    steps = steps_of(fake_host(), ACCOUNT, SSH)
    assert [s.phase for s in steps if s.data.get("group") == Config().tenant_group] == [Phase.REMOVE]


def test_the_login_shell_is_tidegates_and_the_real_one_stands_in_the_tenant_file() -> None:
    host = fake_host()
    steps = steps_of(host, {**ACCOUNT, "shell": "/usr/bin/bash"}, {**SSH, "actions": ["sftp"]})
    assert steps[0].data["shell"] == "/usr/lib/tidegate/tidegate-shell"
    tenant = json.loads(str(next(step for step in steps if step.action == "tenant").data["text"]))
    assert tenant == {
        "login": "jit-alice",
        "uid": steps[0].data["uid"],
        "shell": "/usr/bin/bash",
        "actions": ["sftp"],
        "grant": {"jti": "grant-1", "sub": "alice@example.com", "exp": NBF + 3600, "reason": "restart web", "ticket": ""},
        "recording": {
            "required": False,
            "input": False,
            "limit": 1 << 20,
            "on_failure": "close",
            "pause_s": 0,
            "recorder_uid": 998,
        },
    }
    host.commands = {name: tool for name, tool in host.commands.items() if name != "tidegate-shell"}
    assert steps_of(host, ACCOUNT)[0].data["shell"] == "/bin/bash"


def test_a_host_without_a_recorder_refuses_who_must_be_recorded_and_says_nothing_of_recording_to_others() -> None:
    host = fake_host()
    host.recorded_by = RecorderSeen(why="there is no account tidegate-recorder")
    tenant = json.loads(str(next(step for step in steps_of(host, ACCOUNT) if step.action == "tenant").data["text"]))
    assert "recording" not in tenant
    with pytest.raises(UnenforceableError, match="no account tidegate-recorder") as refused:
        refuse_unrecordable(grant_of((ACCOUNT,), recording_required=True), host.recorder(), "")
    assert (refused.value.code, refused.value.field) == ("recording_unavailable", "recording.required")


def test_who_must_be_recorded_gets_nothing_on_an_account_that_people_made() -> None:
    grant = grant_of((ACCOUNT, {"type": "group", "identifier": "deploy", "groups": ["games"]}), recording_required=True)
    with pytest.raises(UnenforceableError, match="deploy"):
        refuse_unrecordable(grant, fake_host().recorder(), "")


def test_without_a_journal_to_follow_who_must_be_recorded_gets_no_forwarding() -> None:
    forwarding = {**SSH, "actions": ["exec", "port-forwarding"]}
    recorder = fake_host().recorder()
    for required, entry in ((True, SSH), (False, forwarding)):
        refuse_unrecordable(grant_of((ACCOUNT, entry), recording_required=required), recorder, "no journald")
    with pytest.raises(UnenforceableError, match="no journald"):
        refuse_unrecordable(grant_of((ACCOUNT, forwarding), recording_required=True), recorder, "no journald")


# --- ssh


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"keys": []}, "ssh_no_credential"),
        ({"keys": [f'command="x" {KEY}']}, "key_invalid"),
        ({"keys": [f"no-pty {KEY}"]}, "key_invalid"),
        ({"keys": [f"cert-authority {KEY}"]}, "key_invalid"),
        ({"keys": [f"{KEY}\n{KEY}"]}, "key_invalid"),
        ({"keys": [f"{KEY} me\nssh-rsa AAAA"]}, "key_invalid"),
        ({"keys": [f" {KEY}"]}, "key_invalid"),
        ({"keys": [KEY.replace(" ", "\t")]}, "key_invalid"),
        ({"keys": [KEY.replace(" ", "  ")]}, "key_invalid"),
        ({"keys": [KEY + "\0"]}, "key_invalid"),
        ({"keys": [KEY, KEY + " a comment"]}, "duplicate_entry"),
        ({"keys": [KEY.replace("ssh-ed25519 ", "ssh-rsa ")]}, "key_blob"),
        ({"keys": [KEY.replace("ssh-ed25519 ", "ssh-ed25519-cert-v01@openssh.com ")]}, "key_type"),
        ({"keys": [KEY.replace("ssh-ed25519 ", "ssh-dss ")]}, "key_type"),
        ({"keys": [KEY[:-4]]}, "key_blob"),
        ({"keys": [KEY + "AAAA"]}, "key_blob"),
        ({"keys": [KEY + "===="]}, "key_invalid"),
        ({"keys": ["ssh-ed25519 " + "A" * 9000]}, "key_invalid"),
        ({"keys": [7]}, "not_a_string"),
        ({"principals": ["*"]}, "principal_invalid"),
        ({"principals": ["a,b"]}, "principal_invalid"),
        ({"principals": ['a" x']}, "principal_invalid"),
        ({"principals": ["a\n"]}, "principal_invalid"),
        ({"source_address": ["10.1.0.1/16"]}, "source_address_invalid"),
        ({"source_address": ["*"]}, "source_address_invalid"),
        ({"source_address": ["!10.0.0.0/8"]}, "source_address_invalid"),
        ({"source_address": ["10.0.0.0/8,::/0"]}, "source_address_invalid"),
        ({"source_address": ["fe80::1%eth0"]}, "source_address_invalid"),
        ({"source_address": [167772160]}, "not_a_string"),
        ({"actions": ["root"]}, "unknown_value"),
        ({"actions": []}, "list_length"),
        ({"actions": ["login", "login"]}, "duplicate_entry"),
        ({"command": "x"}, "unknown_member"),
    ],
)
def test_an_ssh_entry_with_bad_input_is_refused_by_name(change: dict[str, Any], code: str) -> None:
    assert invalid({**SSH, **change})[0] == code


def test_a_key_line_says_when_it_ends_and_gives_only_what_was_granted() -> None:
    body = {**SSH, "keys": [KEY + " alice@laptop"], "principals": ["alice@example.com"], "source_address": ["10.1.0.0/16", "::1"]}
    until = 'expiry-time="20270115085959Z"'
    for actions, given_options in (
        (["login"], "restrict,pty"),
        (["exec"], "restrict"),
        (["login", "port-forwarding"], "restrict,pty,port-forwarding"),
    ):
        steps = [s for s in steps_of(fake_host(), ACCOUNT, {**body, "actions": actions}) if s.enforcer == "ssh"]
        options = f'{until},{given_options},from="10.1.0.0/16,::1"'
        assert [s.data["text"] for s in steps] == [f"{options} {KEY}\n", f"{options} alice@example.com\n"]
        assert [s.target for s in steps] == ["/run/tidegate/keys/jit-alice", "/run/tidegate/principals/jit-alice"]


def test_ssh_is_only_for_an_account_of_the_same_grant() -> None:
    assert refusal(fake_host(), {**SSH, "identifier": "deploy"}) == "account_not_granted"
    assert refusal(fake_host(), {**SSH, "identifier": "root"}) == "account_not_granted"


def test_ssh_is_refused_where_the_host_can_not_keep_to_it() -> None:
    host = fake_host()
    host.files = {}
    assert refusal(host, ACCOUNT, {**SSH, "principals": ["a"]}) == "ssh_ca_missing"
    host = fake_host()
    host.files[Path("/run/tidegate/keys/jit-alice")] = (b"", 0o644)
    assert refusal(host, ACCOUNT, SSH) == "ssh_files_exist"
    for missing, code in (("sshd", "ssh_missing"), ("tidegate-shell", "tenant_shell_missing")):
        host = fake_host()
        host.commands = {name: tool for name, tool in host.commands.items() if name != missing}
        assert refusal(host, ACCOUNT, {**SSH, "actions": ["login"]}) == code


@pytest.mark.parametrize(
    "keyword", ["AuthorizedKeysFile", "PasswordAuthentication", "ForceCommand", "AuthorizedKeysCommand", "SetEnv", "PermitUserRC"]
)
def test_no_key_is_put_in_place_while_another_setting_of_sshds_wins(keyword: str) -> None:
    host = fake_host()
    steps = steps_of(host, ACCOUNT, SSH)
    host.commands = {**host.commands, "sshd": sshd_says(host.config, **{keyword: "yes"})}
    with pytest.raises(HostError, match="sshd_conflict") as conflict:
        ENFORCERS["ssh"].apply(next(s for s in steps if s.enforcer == "ssh"), host)
    assert keyword in conflict.value.reason
    assert Path("/run/tidegate/keys/jit-alice") not in host.files


def test_the_match_block_is_written_once_and_taken_back_when_it_does_not_hold() -> None:
    host = fake_host()
    drop_in = host.config.paths.sshd_drop_in
    before = host.snapshot()
    sshd_match.prepare(host)
    assert host.files[drop_in][0].decode().splitlines()[1] == "Match Group tidegate-tenants"
    assert host.snapshot()["users"] == before["users"]
    calls = len(host.calls)
    sshd_match.prepare(host)
    assert [call for call in host.calls[calls:] if "conf" in call] == []
    for old in (None, b"# an older one\n"):
        host = fake_host()
        if old is not None:
            host.files[drop_in] = (old, 0o644)
        before = host.snapshot()
        host.commands = {**host.commands, "sshd": sshd_says(host.config, PermitTTY="no")}
        with pytest.raises(HostError, match="sshd_conflict"):
            sshd_match.prepare(host)
        assert host.snapshot() == before


@pytest.mark.parametrize("enforcer", ENFORCERS.values(), ids=ENFORCERS)
def test_what_an_enforcer_put_in_place_it_takes_away_when_tidegate_leaves(enforcer: Enforcer) -> None:
    host = fake_host()
    host.commands = {**host.commands, "sudo": answer(f" (root) /nonexistent/{sudoers_rule.PROBE}\n")}
    before = host.snapshot()
    enforcer.prepare(host)
    for _ in range(2):
        enforcer.retire(host)
        assert host.snapshot() == before


def test_a_drop_in_that_somebody_else_wrote_stays_when_tidegate_leaves() -> None:
    host = fake_host()
    for path in (host.config.paths.sshd_drop_in, host.config.paths.sudoers_drop_in):
        host.files[path] = (b"# the admin's\n", 0o440)
    before = host.snapshot()
    for enforcer in ENFORCERS.values():
        enforcer.retire(host)
    assert (host.snapshot(), host.calls) == (before, [])


def test_sshd_whose_other_files_have_an_error_is_not_told_to_read_them_when_tidegate_leaves() -> None:
    """It would end by that, and nobody could log in."""
    host = fake_host()
    sshd_match.prepare(host)
    calls = len(host.calls)
    host.commands = {**host.commands, "sshd": answer(stderr="line 3: Bad configuration option", code=255)}
    with pytest.raises(HostError, match="sshd_failed"):
        sshd_match.retire(host)
    assert host.config.paths.sshd_drop_in not in host.files
    assert not [call for call in host.calls[calls:] if "HUP" in call]


@pytest.mark.parametrize("half", [True, False])
def test_a_probe_that_a_kill_left_does_not_keep_ssh_from_being_ready(half: bool) -> None:
    """Its group is made first: left alone, with no user of that name, it kept every later probe from being made."""
    host = fake_host()
    before = host.snapshot()
    host.create_account(Account(sshd_match.PROBE, host.config.uid_last, "", "/nonexistent", "/usr/sbin/nologin"))
    if half:
        del host.users[sshd_match.PROBE], host.locked[sshd_match.PROBE]
    sshd_match.prepare(host)
    assert host.snapshot()["users"] == before["users"]
    assert host.snapshot()["groups"] == before["groups"]


def test_a_group_of_the_probes_name_that_is_the_admins_own_stays() -> None:
    host = fake_host()
    host.groups[sshd_match.PROBE] = Group(sshd_match.PROBE, 500)
    with pytest.raises(HostError, match="account_taken"):
        sshd_match.prepare(host)
    assert host.groups[sshd_match.PROBE].gid == 500


def blob(*parts: bytes) -> str:
    return base64.b64encode(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).decode()


@pytest.mark.parametrize(
    "key",
    [
        "ssh-ed25519 " + blob(b"ssh-ed25519", b"x" * 31),
        "ssh-ed25519 " + blob(b"ssh-ed25519", b"x" * 32, b""),
        "ssh-rsa " + blob(b"ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 255),
        "ssh-rsa " + blob(b"ssh-rsa", b"\1\0\1", b"\xff" * 256),
        "ssh-rsa " + blob(b"ssh-rsa", b"\1\0\1", b"\0\0" + b"\xff" * 256),
        "ssh-rsa " + blob(b"ssh-rsa", b"\1", b"\0" + b"\xff" * 256),
        "ssh-rsa " + blob(b"ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 1025),
        "ecdsa-sha2-nistp256 " + blob(b"ecdsa-sha2-nistp256", b"nistp384", b"\4" + b"x" * 96),
        "ecdsa-sha2-nistp256 " + blob(b"ecdsa-sha2-nistp256", b"nistp256", b"\4" + b"x" * 64),
        "sk-ssh-ed25519@openssh.com " + blob(b"sk-ssh-ed25519@openssh.com", b"x" * 32, b"https://x"),
        "sk-ssh-ed25519@openssh.com " + blob(b"sk-ssh-ed25519@openssh.com", b"x" * 32),
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJpgTHRKhL0KR2iFXHY2yrkqSYqBNdpVvVZyTXFMNuHJ="[:-1] + "A",
        "ssh-ed25519 /////w==",
    ],
)
def test_a_blob_that_is_not_exactly_one_good_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidGrantError) as refused:
        ssh_keys.public_key(key, "x")
    assert refused.value.code == "key_blob"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@pytest.mark.parametrize(
    "kind", ["ed25519", "ecdsa -b 256", "ecdsa -b 384", "ecdsa -b 521", "rsa -b 2048", "rsa -b 3072", "rsa -b 1024", "dsa"]
)
def test_keys_are_taken_and_refused_as_ssh_keygen_makes_them(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "k"
    made = subprocess.run(
        ["ssh-keygen", "-q", "-N", "", "-C", "a comment", "-f", str(path), "-t", *kind.split()], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this ssh-keygen no longer makes such keys")
    line = (tmp_path / "k.pub").read_text().strip()
    if kind in {"rsa -b 1024", "dsa"}:
        with pytest.raises(InvalidGrantError):
            ssh_keys.public_key(line, "x")
        return
    assert ssh_keys.public_key(line, "x") == line.rsplit(" a comment", 1)[0]
    subprocess.run(["ssh-keygen", "-q", "-s", str(path), "-I", "id", "-n", "p", str(tmp_path / "k.pub")], check=True)
    with pytest.raises(InvalidGrantError):
        ssh_keys.public_key((tmp_path / "k-cert.pub").read_text().strip(), "x")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 50), st.integers(1, 255))
def test_whatever_blob_we_take_ssh_keygen_takes_too(at: int, bits: int) -> None:
    data = bytearray(base64.b64decode(KEY.split(" ")[1]))
    data[at] ^= bits
    line = f"ssh-ed25519 {base64.b64encode(bytes(data)).decode()}"
    try:
        ssh_keys.public_key(line, "x")
    except InvalidGrantError:
        return
    done = subprocess.run(["ssh-keygen", "-l", "-f", "-"], input=line.encode(), capture_output=True, check=False)
    assert done.returncode == 0


# --- sudo


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ALL", "path_invalid"),
        ("", "command_invalid"),
        (" ", "command_invalid"),
        ("id", "path_invalid"),
        ("./id", "path_invalid"),
        ("/usr/bin/../bin/id", "path_invalid"),
        ("/usr/bin/", "path_invalid"),
        ("/usr/bin/*", "path_invalid"),
        ("/usr/bin/i?", "path_invalid"),
        ("!/usr/bin/id", "path_invalid"),
        ("sudoedit /etc/hosts", "path_invalid"),
        ("/usr/bin/sudoedit /etc/hosts", "command_invalid"),
        ("NOPASSWD: /usr/bin/id", "path_invalid"),
        ("sha256:00 /usr/bin/id", "path_invalid"),
        ("^/usr/bin/.*$", "path_invalid"),
        ("/usr/bin/id *", "command_invalid"),
        ("/usr/bin/id [a]", "command_invalid"),
        ("/usr/bin/id a\\b", "command_invalid"),
        ("/usr/bin/id\n/bin/sh", "command_invalid"),
        ("/usr/bin/id\tx", "command_invalid"),
        ("/usr/bin/id\0", "command_invalid"),
        ("/usr/bin/id ä", "command_invalid"),
        ("/usr/bin/id 'a b'", "command_invalid"),
        ("/usr/bin/id ''", "command_invalid"),
        ("/usr/bin/id 'a", "command_invalid"),
        ('/usr/bin/id "\'"', "command_invalid"),
        ("/usr/bin/id ^.*$", "command_invalid"),
        ("/usr/bin/id ^a b$", "command_invalid"),
        ("/usr/bin/cat /var/log/../../etc/shadow", "command_invalid"),
        ("/usr/bin/cat ..", "command_invalid"),
        ("/usr/bin/id " + "a" * 1000, "command_invalid"),
        (["/usr/bin/id"], "not_a_string"),
    ],
)
def test_a_command_that_is_not_literal_is_refused(line: Any, code: str) -> None:
    assert invalid({**SUDO, "commands": [line]}) == (code, "x.commands[0]")


@pytest.mark.parametrize(
    "run_as", [["ALL"], ["#0"], ["%sudo"], ["root,bob"], ["root\n"], [], ["root", "root"], "root", ["!root"], ["root:root"]]
)
def test_run_as_is_a_list_of_plain_logins(run_as: Any) -> None:
    with pytest.raises(InvalidGrantError):
        ENFORCERS["sudo"].decode({**SUDO, "run_as": run_as}, "x")


def test_a_rule_is_one_line_and_a_command_without_arguments_allows_none() -> None:
    rule = Rule("jit-a", ("root", "www-data"), (("/usr/bin/id",), ("/usr/bin/x", "a=b,c:d", "#e")), NBF, 3600)
    assert render(rule) == (
        "jit-a ALL=(root,www-data) NOTAFTER=20270115080000Z TIMEOUT=3600 NOPASSWD:NOSETENV: "
        '/usr/bin/x a\\=b\\,c\\:d \\#e, NOEXEC: /usr/bin/id ""\n'
    )
    assert Rule.from_json(rule.to_json()) == rule


@needs_cvtsudoers
def test_a_login_of_ours_takes_nothing_of_its_environment_into_a_command_and_others_keep_their_settings() -> None:
    host = FakeHost(commands={"cvtsudoers": real})
    theirs = Rule("deploy", ("root",), (("/usr/bin/id",),), NBF, 60)
    assert "Defaults" not in render(theirs)
    ours = replace(theirs, login="jit-a", own=True)
    defaults, rule = render(ours).splitlines()
    assert defaults.startswith("Defaults:jit-a env_reset, !setenv, use_pty, !env_editor, env_keep = ")
    assert not {"PAGER", "EDITOR", "HOME", "PATH", "LESSOPEN"} & set(re.findall(r"[A-Z]+", defaults))
    prove(ours, render(ours), host)
    for text in (rule + "\n", render(ours).replace("!setenv", "setenv"), render(ours).replace("LANG ", "LANG PAGER ")):
        with pytest.raises(HostError, match="sudo_rule_unprovable"):
            prove(ours, text, host)


def test_only_programs_that_start_no_other_are_kept_from_it() -> None:
    assert is_leaf(("/usr/bin/systemctl", "restart", "nginx")) and is_leaf(("/bin/cat", "/var/log/syslog"))
    for path in ("/opt/bin/cat", "/usr/local/bin/id", "/usr/sbin/service", "/usr/bin/docker", "/usr/sbin/nginx"):
        assert not is_leaf((path,))


WORD = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1, max_size=12)


@needs_cvtsudoers
@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(WORD, max_size=4), min_size=1, max_size=3))
def test_every_command_we_take_is_provable_by_the_real_cvtsudoers(lines: list[list[str]]) -> None:
    host = FakeHost(commands={"cvtsudoers": real})
    taken = []
    for number, words in enumerate(lines):
        try:
            taken.append(command(" ".join([f"/usr/bin/t{number}", *words]), "x"))
        except InvalidGrantError:
            continue
    if taken:
        rule = Rule("jit-a", ("root",), tuple(taken), NBF, 60)
        prove(rule, render(rule), host)


@needs_cvtsudoers
@pytest.mark.parametrize(
    "text",
    [
        f"jit-a ALL=(root) {TIMES} NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id\n",
        f'jit-a ALL=(root) {TIMES} NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id "", ALL\n',
        f'jit-a ALL=(root) {TIMES} NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\njit-a ALL=(ALL) ALL\n',
        f'jit-a ALL=(ALL) {TIMES} NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\n',
        f'jit-a ALL=(root:root) {TIMES} NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\n',
        f'jit-a ALL=(root) {TIMES} NOPASSWD:SETENV:NOEXEC: /usr/bin/id ""\n',
        f'jit-a ALL=(root) {TIMES} NOSETENV:NOEXEC: /usr/bin/id ""\n',
        f'ALL ALL=(root) {TIMES} NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\n',
        f'jit-a, jit-b ALL=(root) {TIMES} NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\n',
        f'Defaults !authenticate\njit-a ALL=(root) {TIMES} NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\n',
        f"jit-a ALL=(root) {TIMES} NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id *\n",
        f'jit-a ALL=(root) {TIMES} NOPASSWD:NOSETENV:NOEXEC: !/usr/bin/id ""\n',
        'jit-a ALL=(root) NOTAFTER=20270115080001Z TIMEOUT=60 NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\n',
        'jit-a ALL=(root) NOTAFTER=20270115080000Z TIMEOUT=61 NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\n',
        'jit-a ALL=(root) NOTAFTER=20270115080000Z NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\n',
        'jit-a ALL=(root) TIMEOUT=60 NOPASSWD:NOSETENV:NOEXEC: /usr/bin/id ""\n',
        f'jit-a ALL=(root) {TIMES} NOPASSWD:NOEXEC: /usr/bin/id ""\n',
        f'jit-a ALL=(root) {TIMES} NOPASSWD:NOSETENV: /usr/bin/id ""\n',
        "",
        "nonsense\n",
    ],
)
def test_a_text_that_says_anything_else_is_not_proved(text: str) -> None:
    rule = Rule("jit-a", ("root",), (("/usr/bin/id",),), NBF, 60)
    assert TIMES in render(rule)
    prove(rule, render(rule), FakeHost(commands={"cvtsudoers": real}))
    with pytest.raises(HostError, match="sudo_rule_unprovable"):
        prove(rule, text, FakeHost(commands={"cvtsudoers": real}))


@needs_cvtsudoers
def test_sudo_is_refused_where_the_host_can_not_keep_to_it() -> None:
    assert refusal(fake_host(), {**SUDO, "identifier": "nosuch"}) == "account_missing"
    assert refusal(fake_host(), {**SUDO, "identifier": "root"}) == "account_is_root"
    assert refusal(fake_host(), {**SUDO, "run_as": ["nosuch"]}) == "run_as_missing"
    assert refusal(fake_host(), {**SUDO, "commands": ["/usr/bin/nosuch"]}) == "command_missing"
    for tool, code in (("sudo", "sudo_missing"), ("cvtsudoers", "sudo_rule_unprovable")):
        host = fake_host()
        host.commands = {name: answer for name, answer in host.commands.items() if name != tool}
        assert refusal(host, SUDO) == code


@needs_cvtsudoers
def test_each_key_file_names_the_backstop_that_a_receipt_tells() -> None:
    host = fake_host()
    (step,) = [step for step in steps_of(host, ACCOUNT, SSH) if step.action == "keys"]
    assert "expiry-time=" in str(step.data["text"]) and "expiry-time" in str(step.data["backstops"])


@needs_cvtsudoers
@pytest.mark.parametrize("says", [answer("sudo-rs 0.2.15\n"), answer(stderr="sudo-rs 0.2.5\n"), answer(), answer("doas\n")])
def test_a_sudo_that_would_not_keep_to_the_rule_is_refused(says: Any) -> None:
    host = fake_host()
    host.commands = {**host.commands, "sudo": says}
    assert refusal(host, SUDO) == "sudo_unsupported"


@needs_cvtsudoers
def test_the_file_is_one_sudo_reads_and_each_entry_has_its_own() -> None:
    two = steps_of(fake_host(), SUDO, {**SUDO, "commands": ["/usr/bin/ls"]}, jti="a.b~c")
    assert len({step.target for step in two}) == 2
    for step in two:
        assert Path(step.target).parent == Path("/run/tidegate/sudoers.d")
        assert not set(".~") & set(Path(step.target).name)
    host = fake_host()
    ENFORCERS["sudo"].apply(two[0], host)
    assert host.files[Path(two[0].target)][1] == 0o440


@needs_cvtsudoers
def test_a_text_changed_after_planning_is_not_put_in_place() -> None:
    host = fake_host()
    (step,) = steps_of(host, SUDO)
    changed = replace(step, data={**step.data, "text": "deploy ALL=(ALL) NOPASSWD: ALL\n"})
    with pytest.raises(HostError, match="sudo_rule_unprovable"):
        ENFORCERS["sudo"].apply(changed, host)
    assert host.calls == []


def test_the_sudoers_drop_in_is_taken_back_when_sudo_does_not_read_it() -> None:
    host = fake_host()
    paths = host.config.paths
    before = host.snapshot()
    host.commands = {**host.commands, "sudo": answer("User root may run the following commands:\n (ALL : ALL) ALL\n")}
    with pytest.raises(HostError, match="sudoers_unreached"):
        sudoers_rule.prepare(host)
    assert host.snapshot() == before
    host.commands = {**host.commands, "sudo": answer(f" (ALL : ALL) ALL\n (root) /nonexistent/{sudoers_rule.PROBE}\n")}
    sudoers_rule.prepare(host)
    assert set(host.files) - set(fake_host().files) == {paths.sudoers_drop_in}
    assert host.files[paths.sudoers_drop_in] == (
        b"# Written by tidegated; changes are overwritten.\n@includedir /run/tidegate/sudoers.d\n",
        0o440,
    )


# --- group


def test_a_membership_that_is_there_is_neither_made_nor_taken_away() -> None:
    host = fake_host()
    assert steps_of(host, {**GROUP, "groups": ["audio"]}) == ()
    assert [step.target for step in steps_of(host, {**GROUP, "groups": ["audio", "adm"]})] == ["deploy:adm"]


def test_a_group_entry_is_refused_for_root_for_nobody_and_for_another_grants_account() -> None:
    host = fake_host()
    host.users["toor"] = User("toor", 0, 0, "/root", "/bin/sh")
    host.users["jit-bob"] = User("jit-bob", 70009, 70009, "/home/jit-bob", "/bin/sh", ours=True)
    assert refusal(host, {**GROUP, "identifier": "toor"}) == "account_is_root"
    assert refusal(host, {**GROUP, "identifier": "nosuch"}) == "account_missing"
    assert refusal(host, {**GROUP, "identifier": "jit-bob"}) == "account_of_other_grant"
    assert refusal(host, {**GROUP, "groups": ["nosuch"]}) == "group_missing"
    assert invalid({**GROUP, "groups": []})[0] == "list_length"


# --- planning


@needs_cvtsudoers
def test_two_entries_for_one_thing_are_refused() -> None:
    assert refusal(fake_host(), GROUP, GROUP) == "same_target"
    assert refusal(fake_host(), {**ACCOUNT, "groups": ["adm"]}, {**GROUP, "identifier": "jit-alice"}) == "same_target"
    assert refusal(fake_host(), SUDO, SUDO) == "same_target"


def test_a_refused_grant_spends_no_uid() -> None:
    spent: list[str] = []

    def reserve(login: str) -> int:
        spent.append(login)
        return 70001

    with pytest.raises(UnenforceableError):
        plan(grant_of([ACCOUNT, {**GROUP, "identifier": "nosuch"}]), ENFORCERS, fake_host(), reserve)
    assert spent == []
    assert plan(grant_of([ACCOUNT]), ENFORCERS, fake_host(), reserve).uids == {"jit-alice": 70001}
    assert spent == ["jit-alice"]
    host = fake_host()
    host.groups["taken"] = Group("taken", 70001)
    with pytest.raises(UnenforceableError, match="uid_taken"):
        plan(grant_of([ACCOUNT]), ENFORCERS, host, reserve)


def test_a_refusal_names_the_entry_and_an_unknown_kind_has_no_enforcer() -> None:
    with pytest.raises(UnenforceableError) as refused:
        plan(grant_of([GROUP, {**SSH, "identifier": "jit-eve"}]), ENFORCERS, fake_host(), lambda _: 70001)
    assert refused.value.field == "authorization_details[1]"
    with pytest.raises(UnenforceableError, match="no_enforcer"):
        plan(grant_of([GROUP]), {}, fake_host(), lambda _: 70001)


def test_every_entry_kind_has_a_body_here() -> None:
    assert set(BODIES) == {*ENFORCERS, "all"}
    assert PlanContext(grant_of([ACCOUNT]), {"jit-alice": 1}).creates("jit-alice")


# What an end needs to know of what was lent to an account that was there before


def lent_of(steps: tuple[Step, ...]) -> list[Lent]:
    return [lent for step in steps if (lent := lent_by(step, 0)) is not None]


def test_a_membership_lent_to_a_person_names_uid_and_gid_and_one_of_the_grants_own_account_needs_neither() -> None:
    host = fake_host()
    assert lent_of(steps_of(host, {**GROUP, "groups": ["adm", "audio"]})) == [Lent("deploy", 1001, gids=frozenset({4}))]
    assert lent_of(steps_of(host, ACCOUNT, {**GROUP, "identifier": "jit-alice"})) == []


@needs_cvtsudoers
def test_a_sudo_rule_names_uid_run_as_uids_and_commands_and_whether_the_person_has_others() -> None:
    for says, alone in (("User deploy is not allowed to run sudo on h.\n", True), ("may run the following\n", False)):
        host = fake_host()
        host.commands = {**host.commands, "sudo": answer("Sudo version 1.9\n" + says)}
        rules = frozenset({(0, "/usr/bin/id"), (1001, "/usr/bin/id")})
        asked = {**SUDO, "run_as": ["root", "deploy"]}
        assert lent_of(steps_of(host, asked)) == [Lent("deploy", 1001, rules=rules, alone=alone)]
    own = steps_of(fake_host(), ACCOUNT, {**SUDO, "identifier": "jit-alice"})
    assert lent_of(own) == [Lent("jit-alice", 70001, rules=frozenset({(0, "/usr/bin/id")}), alone=True)]


# A tenant who may run nothing


@pytest.mark.parametrize(
    ("actions", "masked"),
    [
        (["sftp"], True),
        (["port-forwarding"], True),
        (["sftp", "port-forwarding"], True),
        (["sftp", "exec"], False),
        (["login"], False),
    ],
)
def test_who_may_run_nothing_gets_no_user_manager_either(actions: list[str], masked: bool) -> None:
    host = fake_host()
    host.files = {**host.files, Path("/run/systemd/system/x.service"): (b"", 0o644)}
    steps = steps_of(host, ACCOUNT, {**SSH, "actions": actions})
    path = Path("/run/systemd/system/user@70001.service")
    found = [step for step in steps if step.action == "manager"]
    assert [step.target for step in found] == ([str(path)] if masked else [])
    for step in found:
        assert (step.stage, step.phase) == (Stage.CREATE, Phase.REMOVE)
        ENFORCERS["account"].apply(step, host)
        assert host.files[path] == (b"", 0o644), "an empty unit file is a masked one"
        assert [left.where for left in ENFORCERS["account"].residue([step], host)] == [str(path)]
        ENFORCERS["account"].revert(step, host)
        assert path not in host.files


def test_where_systemd_is_not_nothing_is_masked() -> None:
    assert not [step for step in steps_of(fake_host(), ACCOUNT, {**SSH, "actions": ["sftp"]}) if step.action == "manager"]
