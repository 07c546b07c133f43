"""Sessions recorded by something their user can't touch: whole, sealed, in the receipt; and none at all where it is required
and the recorder is away."""

import hashlib
import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.scene import ISSUER, Scene, account, public, set_up, ssh
from tests.hosts.machine import Host

pytestmark = pytest.mark.host
ALICE, BOB = "jit-alice", "jit-bob"
RECORDER = "tidegate-recorder.service"
POLICY = f"""\
rules:
  - name: recorded
    issuers: [{ISSUER}]
    subjects: [alice@example.com]
    max_duration: 1h
    accounts: {{ prefix: jit- }}
    ssh: {{ keys: true, actions: [login, exec, sftp, port-forwarding] }}
    recording: required
  - name: not-recorded
    issuers: [{ISSUER}]
    subjects: [bob@example.com]
    max_duration: 1h
    accounts: {{ prefix: jit- }}
    ssh: {{ keys: true, actions: [login, exec, sftp] }}
    recording: off
"""


@pytest.fixture(scope="module")
def scene(shared_tidegate_host: Host) -> Scene:
    return set_up(shared_tidegate_host, POLICY)


@pytest.fixture
def alice(scene: Scene, ssh_key: Path) -> Iterator[str]:
    """Her grant's jti; it is over afterwards."""
    jti = scene.open(account(ALICE), ssh(ALICE, public(ssh_key), actions=["login", "exec", "sftp", "port-forwarding"]))
    yield jti
    scene.tidegate("revoke", "--all")
    scene.host.wait_for(lambda: not scene.status()["grants"], 30, "the grant is over")


def recorded(scene: Scene, jti: str) -> list[dict[str, Any]]:
    """The recordings of one grant, oldest first."""
    found = json.loads(scene.tidegate("sessions", "list", "--recorded", "--json").stdout)["recordings"]
    return [entry for entry in found if entry["jti"] == jti]


def all_ended(scene: Scene, jti: str) -> list[dict[str, Any]]:
    """The same, once none of them goes on any more; there is at least one."""

    def found() -> list[dict[str, Any]] | None:
        listed = recorded(scene, jti)
        return listed if listed and all(entry["state"] == "ended" for entry in listed) else None

    return scene.host.wait_for(found, 10, "the recordings ended") or []


def text_of(scene: Scene, ident: str) -> str:
    return scene.tidegate("sessions", "export", ident, "--format", "text").stdout


class Terminal:
    """A login with a terminal of its own, as a person at a keyboard has it."""

    def __init__(self, scene: Scene, key: Path, login: str = ALICE) -> None:
        self.master, slave = pty.openpty()
        argv = scene.host.ssh_argv(login, key, options=("-tt",))
        self.client = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.seen = b""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str, seconds: float = 15) -> re.Match[bytes]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := re.search(pattern.encode(), self.seen):
                return found
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 65536)
                except OSError:
                    break
        raise AssertionError(f"{pattern!r} never came: {self.seen[-500:]!r}")

    def close(self) -> None:
        """Gone, as when the lid is shut: the client dies, and the terminal with it."""
        self.client.kill()
        self.client.wait(20)
        os.close(self.master)


@pytest.mark.host(everywhere=True)
def test_a_terminal_session_is_recorded_whole_and_stands_in_the_receipt(scene: Scene, ssh_key: Path, alice: str) -> None:
    terminal = Terminal(scene, ssh_key)
    terminal.wait_for(r"\$ ")
    terminal.type("echo mar$((40+2))ker; exit 7\r")
    terminal.wait_for("mar42ker")
    assert terminal.client.wait(20) == 7
    terminal.close()
    found_all = all_ended(scene, alice)
    (found,) = found_all
    assert "mar42ker" in text_of(scene, found["id"])
    done = scene.tidegate("sessions", "verify", found["id"])
    assert done.returncode == 0, done.stdout
    scene.tidegate("revoke", "--all")
    (listed,) = scene.receipt(alice)["recordings"]
    assert (listed["recording"], listed["whole"]) == (found["id"], True)


def test_an_altered_recording_fails_verification_and_says_where(scene: Scene, ssh_key: Path, alice: str) -> None:
    scene.host.ssh(ALICE, ssh_key, "echo something")
    found_all = all_ended(scene, alice)
    ident = found_all[0]["id"]
    path = scene.host.root / f"var/lib/tidegate/sessions/{ident}.tgr"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"something", b"somethinG"))
    done = scene.tidegate("sessions", "verify", ident)
    path.write_bytes(whole)
    assert done.returncode == 1
    assert re.search(r"byte \d+|offset \d+|at \d+", done.stdout + done.stderr)
    assert scene.tidegate("sessions", "verify", ident).returncode == 0


@pytest.mark.parametrize("status", [0, 1, 127, 255])
def test_a_commands_streams_and_status_are_as_without_a_recorder(scene: Scene, ssh_key: Path, alice: str, status: int) -> None:
    done = scene.host.ssh(ALICE, ssh_key, f"cat; echo err >&2; exit {status}", input="to and fro\n")
    assert (done.returncode, done.stdout, done.stderr) == (status, "to and fro\n", "err\n")


def test_a_command_may_open_its_streams_anew(scene: Scene, ssh_key: Path, alice: str) -> None:
    """As `tee /dev/stderr` does; a pipe is a file, and opening it asks whose it is."""
    done = scene.host.ssh(ALICE, ssh_key, "tee /dev/stderr", input="twice\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "twice\n", "twice\n")


def test_a_hundred_megabytes_pass_untouched(scene: Scene, ssh_key: Path, alice: str) -> None:
    data = os.urandom(1 << 20) * 100
    argv = scene.host.ssh_argv(ALICE, ssh_key, "cat")
    done = subprocess.run(argv, input=data, capture_output=True, timeout=120, check=True)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


@pytest.mark.host(everywhere=True)
def test_a_file_sent_by_sftp_is_told_with_its_hash(scene: Scene, ssh_key: Path, alice: str, tmp_path: Path) -> None:
    sent = tmp_path / "report"
    sent.write_bytes(b"quarterly" * 1000)
    argv = scene.host.ssh_argv(ALICE, ssh_key)
    place = argv.index("-l")
    argv = ["sftp", "-b", "-", *argv[1:place], f"{ALICE}@{scene.host.address}"]
    done = subprocess.run(argv, input=f"put {sent} /home/{ALICE}/report\n".encode(), capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    found_all = all_ended(scene, alice)
    told = scene.tidegate("sessions", "export", found_all[-1]["id"], "--format", "ndjson").stdout
    assert hashlib.sha256(sent.read_bytes()).hexdigest() in told
    assert "/report" in told


def test_the_old_terminal_is_out_of_its_users_reach(scene: Scene, ssh_key: Path, alice: str) -> None:
    """Another session of hers opens every terminal that appears, at once, and holds it."""
    hold = (
        "import os,time\n"
        "held={}\nend=time.time()+6\n"
        "while time.time()<end:\n"
        "  for n in os.listdir('/dev/pts'):\n"
        "    if n.isdigit() and n not in held:\n"
        "      try: held[n]=os.open('/dev/pts/'+n,os.O_RDWR|os.O_NOCTTY|os.O_NONBLOCK)\n"
        "      except OSError: pass\n"
        "  time.sleep(0.0005)\n"
        "for n,fd in held.items():\n"
        "  try: os.write(fd,b'SMUGGLED'); print(n,'wrote')\n"
        "  except OSError as error: print(n,error.strerror)\n"
    )
    scene.host.write(f"/home/{ALICE}/hold.py", hold)
    thief = subprocess.Popen(scene.host.ssh_argv(ALICE, ssh_key, "python3 hold.py"), stdout=subprocess.PIPE, text=True)
    time.sleep(2)
    terminal = Terminal(scene, ssh_key)
    terminal.wait_for(r"\$ ")
    said, _ = thief.communicate(timeout=30)
    assert "Input/output error" in said, said  # sshd's own: held, and dead
    terminal.type("echo en''d\r")
    terminal.wait_for("end")
    smuggled = terminal.seen.count(b"SMUGGLED")
    terminal.close()
    found_all = all_ended(scene, alice)
    texts = [text_of(scene, entry["id"]) for entry in found_all]
    assert sum(text.count("SMUGGLED") for text in texts) >= smuggled


@pytest.mark.host(everywhere=True)
def test_without_its_recorder_nobody_gets_in_who_must_be_recorded(scene: Scene, ssh_key: Path, alice: str) -> None:
    scene.host.run(f"systemctl mask --runtime --now {RECORDER}")
    try:
        done = scene.host.ssh(ALICE, ssh_key, "echo in")
        assert (done.returncode, "in\n" in done.stdout) == (1, False)
        assert "record" in done.stderr
    finally:
        scene.host.run(f"systemctl unmask --runtime {RECORDER} && systemctl start {RECORDER}")
    assert scene.host.ssh(ALICE, ssh_key, "echo in").stdout == "in\n"


def test_a_recorder_that_is_killed_drops_no_session(scene: Scene, ssh_key: Path, alice: str) -> None:
    terminal = Terminal(scene, ssh_key)
    terminal.wait_for(r"\$ ")
    before = scene.host.run(f"systemctl show -P MainPID {RECORDER}").stdout
    scene.host.run(f"systemctl kill -s KILL {RECORDER}")
    scene.host.wait_for(lambda: scene.host.run(f"systemctl show -P MainPID {RECORDER}").stdout not in {before, "0\n"}, 10, "again")
    terminal.type("echo aft$((1+1))er; exit\r")
    terminal.wait_for("aft2er")
    assert terminal.client.wait(20) == 0
    terminal.close()
    found_all = all_ended(scene, alice)
    ident = found_all[-1]["id"]
    assert "aft2er" in text_of(scene, ident)
    assert scene.tidegate("sessions", "verify", ident).returncode == 0


def test_who_need_not_be_recorded_is_not(scene: Scene, ssh_key: Path) -> None:
    jti = scene.open(account(BOB), ssh(BOB, public(ssh_key)), sub="bob@example.com")
    assert scene.host.ssh(BOB, ssh_key, "echo private").stdout == "private\n"
    assert recorded(scene, jti) == []
    scene.tidegate("revoke", "--all")


def test_the_end_of_a_grant_ends_its_recording_with_its_reason(scene: Scene, ssh_key: Path, alice: str) -> None:
    terminal = Terminal(scene, ssh_key)
    terminal.wait_for(r"\$ ")
    scene.tidegate("revoke", "--all")
    assert terminal.client.wait(20) == 255
    terminal.close()
    assert [entry["whole"] for entry in scene.receipt(alice)["recordings"]] == [True]
