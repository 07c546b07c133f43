"""tidegate-shell: no grant, no session; and only what the grant's actions say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.sessions import shell

SFTP = "/usr/lib/openssh/sftp-server"
ALL = ["login", "exec", "sftp", "port-forwarding"]


@pytest.fixture(autouse=True)
def _sftp_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path == SFTP)


@pytest.mark.parametrize(
    ("command", "actions", "expected"),
    [
        (None, ["login"], ("/bin/bash", ["-bash"])),
        (None, ["exec", "sftp"], None),
        ("id", ["exec"], ("/bin/bash", ["bash", "-c", "id"])),
        ("id", ["login", "sftp"], None),
        ("", ["login"], None),
        (SFTP, ["sftp"], (SFTP, [SFTP])),
        ("internal-sftp", ["sftp"], (SFTP, [SFTP])),
        ("internal-sftp -l INFO", ["sftp"], (SFTP, [SFTP])),
        (SFTP, ["exec"], (SFTP, [SFTP])),
        (SFTP, ["login"], None),
        (f"{SFTP}; bash", ["sftp"], None),
        (f"{SFTP} $(bash)", ["sftp"], None),
        (f"{SFTP}\nbash", ["sftp"], None),
        (f"x {SFTP}", ["sftp"], None),
        ("/home/jit-a/sftp-server", ["sftp"], None),
        ("scp -t /tmp/x; bash", ["sftp"], None),
        ("id", [], None),
        (None, ["port-forwarding"], None),
    ],
)
def test_only_what_the_actions_say(command: str | None, actions: list[str], expected: tuple[str, list[str]] | None) -> None:
    if expected is None:
        with pytest.raises(shell.Refusal):
            shell.judge(command, "/bin/bash", actions)
    else:
        assert shell.judge(command, "/bin/bash", actions) == expected


def test_what_is_asked_comes_from_the_call_or_from_sshd(monkeypatch: pytest.MonkeyPatch) -> None:
    me = "/usr/lib/tidegate/tidegate-shell"
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", "id")
    assert shell.asked([me]) is None
    assert shell.asked([me, "-c", me]) == "id"
    assert shell.asked([me, "-c", "whoami"]) == "whoami"
    monkeypatch.delenv("SSH_ORIGINAL_COMMAND")
    assert shell.asked([me, "-c", me]) is None
    for strange in ([me, "-c"], [me, "-x", "y"], [me, "-c", "a", "b"], [me, "-l"]):
        with pytest.raises(shell.Refusal):
            shell.asked(strange)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"login":"jit-b","shell":"/bin/sh","actions":[]}',
        b'{"login":"jit-a","shell":"sh","actions":[]}',
        b'{"login":"jit-a","shell":"/bin/sh"}',
        b'{"login":"jit-a","shell":7,"actions":[]}',
    ],
)
def test_a_tenant_file_that_is_not_right_is_no_access(data: bytes) -> None:
    with pytest.raises(shell.Refusal):
        shell.tenant(data, "jit-a")


def test_a_tenant_file_is_read_as_json_reads_it() -> None:
    value = {"login": "jit-a", "shell": "/bin/sh", "actions": ALL, "reason": 'ü "\\ \n', "exp": 1, "x": {"y": [None, True]}}
    assert shell.parse(json.dumps(value)) == json.loads(json.dumps(value))
    assert shell.tenant(json.dumps(value).encode(), "jit-a") == ("/bin/sh", ALL)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own files as others")
def test_a_tenant_file_must_be_roots_alone(tmp_path: Path) -> None:
    good = tmp_path / "f"
    good.write_bytes(b"x")
    good.chmod(0o644)
    assert shell.read_file(str(good)) == b"x"
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "writable").write_bytes(b"x")
    (tmp_path / "writable").chmod(0o664)
    (tmp_path / "theirs").write_bytes(b"x")
    os.chown(tmp_path / "theirs", 70001, 0)
    for name in ("none", "link", "fifo", "writable", "theirs", "."):
        with pytest.raises(shell.Refusal):
            shell.read_file(str(tmp_path / name))


def test_it_runs_alone_and_imports_nothing_that_costs(tmp_path: Path) -> None:
    """As a script of its own, in isolated mode: without a tenant file it says so and exits 1."""
    alone = tmp_path / "tidegate-shell"
    alone.write_text(Path(shell.__file__).read_text())
    done = subprocess.run([sys.executable, "-ISE", "-X", "importtime", str(alone)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "tidegate: no access: no grant is open for this account" in done.stderr
    assert not {"json", "re", "typing", "agent", "socket"} & {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
