"""A folder that anyone may drop files into, and the queue that takes them: hostile names, kinds, links, sizes and contents."""

import contextlib
import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from agent import trust
from agent.errors import UntrustedError
from agent.host.clock import FakeClock
from agent.intake import Intake
from agent.journal import Journal
from agent.pipeline import Pipeline
from agent.spool import Inbox, Outbox
from tests.fuzz.source import Source
from tests.unit.intake_kit import turn
from tests.vectors import make

MAX_LEN = 4096
WORDS = ()
_GOOD = trust.sign_compact(make.claims(), trust.TYP_GRANT, make.private("cp-1")).encode()
_CANARY = b"not of the inbox"
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def check(data: bytes) -> None:
    """Every file is answered and gone (or hidden for the admin), what is outside is as it was, and it comes to an end."""
    source = Source(data)
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        base = Path(folder)
        inbox, outbox, canary = base / "inbox", base / "outbox", base / "canary"
        inbox.mkdir()
        outbox.mkdir()
        canary.write_bytes(_CANARY)
        intake, opened = _intake(base, inbox, outbox)
        made = [_entry(source, inbox, canary) for _ in range(1 + source.number(7))]
        for name in made:
            if name and source.flag():
                intake.sorting.hint(name)
        intake.sorting.hint(source.text(300))
        for _ in range(200):
            if not turn(intake):
                break
        else:
            raise AssertionError("it never ends")
        assert canary.read_bytes() == _CANARY and canary.stat().st_nlink >= 1
        left = [
            name
            for name in (path.name for path in inbox.iterdir())
            if not name.startswith(".") and not name.endswith((".tmp", ".part"))
        ]
        assert left == [] or intake.sorting.stuck(), left
        assert len(opened) <= len(made)
        for path in outbox.iterdir():
            assert path.name.isascii() and path.name.isprintable() and path.stat().st_size < 20_000
        intake._pipeline.journal.close()


def _entry(source: Source, inbox: Path, canary: Path) -> str:
    """Put one thing there; its name, empty when the file system would not have it."""
    name = source.mostly(("a.jwt", "b", "-rf", "Ω", "x" * 255, ".hidden", "a.tmp", "a\nb", "\udcff"), 60)
    path = inbox / name
    with contextlib.suppress(OSError, ValueError):
        if os.path.lexists(path):  # a FIFO, say: writing to it would wait for ever
            return ""
        match source.number(9):
            case 1:
                path.symlink_to(source.choice((str(canary), "/dev/zero", "loop", ".", "/proc/self/mem")))
            case 2:
                os.mkfifo(path)
            case 3:
                path.mkdir()
                if source.flag():
                    (path / "inner").write_bytes(b"x")
            case 4:
                os.link(canary, path)
            case 5:
                with socket.socket(socket.AF_UNIX) as bound:
                    bound.bind(str(path))
            case 6:
                path.write_bytes(b"x" * (60_000 + source.number(10_000)))
            case 7:
                path.write_bytes(_GOOD + source.bytes_of(3))
            case 8:
                path.write_bytes(source.bytes_of(200))
                path.chmod(source.number(0o7777))
            case _:
                path.write_bytes(source.bytes_of(300))
        return name
    return ""


def _intake(base: Path, inbox: Path, outbox: Path) -> tuple[Intake, list[bytes]]:
    opened: list[bytes] = []
    ring, clock = trust.keyring(make.jwks()), FakeClock()

    def opening(token: bytes) -> Any:
        trust.verify(token, ring, typ=trust.TYP_GRANT)
        if token in opened:
            raise UntrustedError("jti_replayed", "twice")
        opened.append(token)
        return SimpleNamespace(record=SimpleNamespace(jti="grant-1"))

    pipeline = SimpleNamespace(
        inbox=Inbox(inbox),
        outbox=Outbox(outbox, clock, lambda _typ, _claims: "signed"),
        clock=clock,
        open=opening,
        clear=list,
        journal=Journal(base / "state.db"),
        trail=SimpleNamespace(emit=lambda _: None),
        ring=lambda: ring,
    )
    intake = Intake(cast(Pipeline, pipeline))
    intake.begin()
    return intake, opened
