"""What goes through a recorded terminal in a second, on this machine, with no ssh in between."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.frame.row import OURS, Absent, Goal, Plot, Row, Run
from benchmarks.ground import cpu_times
from benchmarks.peers import log_server, recorders
from tests.hosts.errors import HostError
from tests.hosts.machine import Host
from tests.unit.recorder_kit import Rig, Terminal

_BYTES = 100_000_000
_CASE = "through a terminal"
_KERNEL, _OWN = "the recorder's processor time in the kernel, for each 100 MB", "the same in its own code: interpreter and SHA-256"
_BARE, _COPY, _SCRIPT, _TLOG, _SUDO = "bare", "copy", "script", "tlog", "sudo"
_THERE = "/srv/blob"


def measure(run: Run) -> None:
    """``cat`` of the same bytes in each way, from the first byte shown to the last."""
    with tempfile.TemporaryDirectory(prefix="tidegate-benchmark-") as name:
        folder = Path(name)
        blob = folder / "blob"
        size = run.times(_BYTES, _BYTES // 5)
        blob.write_bytes(os.urandom(size * 3 // 4).translate(bytes(33 + each % 90 for each in range(256))))
        cat = ["/bin/sh", "-c", f"stty raw -echo; cat {blob}"]
        with _rig(folder) as rig, contextlib.ExitStack() as stack:
            ways = {_BARE: cat, OURS: rig.argv(cat[2])}
            made: dict[str, Callable[[], list[str]]] = {
                _COPY: lambda: [str(recorders.copy_in_c(folder)), *cat],
                _SCRIPT: lambda: recorders.script(folder, cat[2]),
                _TLOG: lambda: recorders.tlog_rec(folder, cat),
                _SUDO: lambda: log_server.argv(_by_sudo(stack, blob), ["/bin/sh", "-c", f"stty raw -echo; cat {_THERE}"]),
            }
            ways |= run.had(made)
            run.turns(5, 1, {way: _one(run, way, argv, blob, rig) for way, argv in ways.items()})


def _one(run: Run, way: str, argv: Sequence[str], blob: Path, rig: Rig) -> Callable[[], None]:
    def act() -> None:
        size, before = blob.stat().st_size, cpu_times(rig.pid)
        run.add(_CASE, way, "MB/s", _rate(argv, size))
        if way == OURS:
            user, kernel = (now - then for now, then in zip(cpu_times(rig.pid), before, strict=True))
            run.part(_CASE, _KERNEL, "s", kernel * _BYTES / size)
            run.part(_CASE, _OWN, "s", user * _BYTES / size)

    return act


def _by_sudo(stack: contextlib.ExitStack, blob: Path) -> Host:
    """A host for it: sudo's rules are changed on no other machine. Raises Absent."""

    def prepare(root: Path) -> None:
        shutil.copy(blob, root / _THERE.lstrip("/"))

    try:
        host = stack.enter_context(Host.boot(prepare=prepare))
        host.run(["useradd", "-m", "-s", "/bin/bash", log_server.LOGIN])
    except HostError as error:
        raise Absent(str(error)) from error
    log_server.start(host)
    return host


@contextlib.contextmanager
def _rig(folder: Path) -> Iterator[Rig]:
    rig = Rig(folder)
    try:
        yield rig
    finally:
        rig.close()


def _rate(argv: Sequence[str], size: int) -> float:
    """MB/s, from the first byte shown to the last."""
    terminal = Terminal(list(argv), {"SHELL": "/bin/sh"})
    seen, began = 0, 0.0
    for data in terminal.pieces():
        began = began or time.monotonic()
        seen += len(data)
    took = time.monotonic() - began
    terminal.status()
    os.close(terminal.master)
    if seen < size:
        raise RuntimeError(f"{argv}: {seen} of {size} bytes came through")
    return seen / took / 1e6


ROW = Row(
    name="throughput",
    title="The recorder's throughput",
    about="A large file shown by `cat` on a terminal, from the first byte to the last: recorded, copied by a few lines of "
    "C, recorded by script(1) and by tlog-rec(8), sent by sudo to its own log server, and with nothing in between.",
    measure=measure,
    goals=(Goal(_CASE, "ratio", 1.0, against=_SCRIPT, least=True), Goal(_CASE, "ratio", 1.0, against=_TLOG, least=True)),
    ways={
        OURS: "Tidegate's recorder",
        _BARE: "nothing",
        _COPY: "a bare copy in C",
        _SCRIPT: "script(1)",
        _TLOG: "tlog-rec(8)",
        _SUDO: "sudo, to its own log server",
    },
    limits={_CASE: (_COPY,)},
    plots=(Plot("spread", "Through a terminal", (_CASE,)),),
    more_is_better=True,
)
