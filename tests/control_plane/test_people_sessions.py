"""tidegate-cp looks at sessions: live and replayed on a real terminal, where a tenant's bytes may draw and do nothing else."""

import json
import os
import pty
import select
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.control_plane.host import TestHost
from tests.control_plane.people_kit import ADMIN, Desk
from tests.control_plane.running import ROOT, ControlPlane
from tests.control_plane.test_sessions import Session

HOSTILE = "\x1b]52;c;ZXZpbA==\x07\x1b[6n\x1b]0;title\x07\x1b[31mred\x1b[0m\r\n"  # clipboard, an answer, a title; and a colour


@pytest.fixture(scope="module")
def jti(control_plane: ControlPlane, web1: TestHost) -> str:
    return f"{control_plane.approve('bob', control_plane.ask('alice', ['web1']))['id']}.1"


@pytest.fixture
def audra(control_plane: ControlPlane, tmp_path: Path) -> Desk:
    return Desk(control_plane, tmp_path / "audra", "audra")


def on_a_terminal(desk: Desk, *words: str, until: str) -> tuple[int, str]:
    """The command on a terminal of its own: its status, and all that reached the terminal."""
    master, slave = pty.openpty()
    reach = ["--url", desk.plane.people_url, "--ca-file", str(desk.plane.ca_file)]
    environment = {"HOME": str(desk.home), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    argv = [sys.executable, "-m", ADMIN, *reach, *words]
    with subprocess.Popen(argv, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
        os.close(slave)
        limit = threading.Timer(20, process.kill)
        limit.start()
        seen = b""
        while process.poll() is None or select.select([master], [], [], 0)[0]:
            try:
                seen += os.read(master, 65536) if select.select([master], [], [], 0.1)[0] else b""
            except OSError:
                break  # EIO: the other end is closed
        limit.cancel()
    os.close(master)
    shown = seen.decode("utf-8", "replace")
    assert until in shown, shown
    return process.returncode, shown


def check_harmless(shown: str) -> None:
    assert "\x1b[31mred" in shown
    for evil in ("\x1b]", "ZXZpbA", "\x1b[6n", "title"):
        assert evil not in shown


def test_a_session_is_watched_while_it_goes_on(control_plane: ControlPlane, web1: TestHost, jti: str, audra: Desk) -> None:
    session = Session(web1, "r-20261122T061500-0a1b2c3d", jti)
    session.show(f"begun\r\n{HOSTILE}")

    def go_on() -> None:
        control_plane.until("/v1/events?limit=500", "audra", lambda body: f"{session.ident}" in json.dumps(body), timeout=15)
        session.show("later\r\n")
        session.show("bye\r\n", final=True)

    other = threading.Thread(target=go_on)
    other.start()
    status, shown = on_a_terminal(audra, "sessions", "watch", f"web1/{session.ident}", until="*** ended ***")
    other.join(20)
    assert status == 0
    assert shown.index("begun") < shown.index("later") < shown.index("bye")
    check_harmless(shown)


def test_a_session_is_played_listed_and_exported(control_plane: ControlPlane, web1: TestHost, jti: str, audra: Desk) -> None:
    session = Session(web1, "r-20261122T061501-0a1b2c3d", jti)
    session.show(f"begun\r\n{HOSTILE}", final=True)
    which = f"web1/{session.ident}"
    status, shown = on_a_terminal(audra, "sessions", "play", which, "--speed", "1000", until="begun")
    assert status == 0
    check_harmless(shown)
    assert session.ident in audra.admin("sessions", "list", "--host", "web1").out
    assert audra.admin("sessions", "play", which, "--json").json["verified"]["ok"] is True
    file = audra.home / "out.cast"
    exported = audra.admin("sessions", "export", which, "--output", str(file), "--json")
    assert (exported.status, exported.json["bytes"]) == (0, file.stat().st_size)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text().splitlines()[0])["version"] == 2
    assert "recording_needs_terminal" in audra.admin("sessions", "play", which).err
    assert audra.admin("sessions", "watch", "no-slash").status == 2
    assert audra.admin("sessions", "watch", "web9/x").status == 2


def test_a_recording_that_was_changed_is_said_to_be_before_it_is_shown(
    control_plane: ControlPlane, web1: TestHost, jti: str, audra: Desk
) -> None:
    session = Session(web1, "r-20261122T061502-0a1b2c3d", jti)
    session.show("it was like this\r\n", final=True)
    path = control_plane.data / "recordings" / web1.token / f"{session.ident}.tgr"
    path.write_bytes(path.read_bytes().replace(b"like this", b"like that"))
    _, shown = on_a_terminal(audra, "sessions", "play", f"web1/{session.ident}", "--speed", "1000", until="damaged or was changed")
    assert "like that" not in shown or shown.index("damaged or was changed") < shown.index("like that")
