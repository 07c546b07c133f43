"""The backstop's program, kept ready: a private copy of Tidegate's own code, and the unit that systemd's timers start.

A host whose /usr/lib/tidegate was deleted, or is being exchanged by an upgrade, still has to end what is open. So the daemon
keeps what it runs by itself in a folder that only root reads, on disk, where a reboot finds it too. Python and the libraries it
needs are the host's.
"""

import ast
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.config import Config
from agent.errors import HostError
from agent.host import files, lock
from agent.host.timers import PREFIX

HOME = Path("/var/lib/tidegate/backstop")
CURRENT = HOME / "current"
PROGRAM = "tidegate-backstop"
UNIT = Path(f"/run/systemd/system/{PREFIX}@.service")
_PACKAGES = ("agent", "enforcers")
_SOURCE = Path(__file__).resolve().parents[2]

_LAUNCHER = """\
# Written by tidegated. Ends what is past its deadline when tidegated does not; started by systemd; see tidegated(8).
import sys

sys.path.insert(0, {folder!r})

from agent import early

begun = early.begin(*{places!r}, sys.argv[1:])
if sys.flags.no_site:  # what follows needs the host's libraries
    import site

    site.main()

from agent.backstop import main

main([*{arguments!r}, *sys.argv[1:]], begun)
"""
_UNIT = """\
# Written by tidegated; changes are overwritten.
[Unit]
Description=Tidegate: ends what is past its deadline, should tidegated not
StartLimitIntervalSec=0
CollectMode=inactive-or-failed

[Service]
Type=oneshot
ExecStart={python} -I -S {program}
Restart=on-failure
RestartSec=5s
TimeoutStartSec=10min
OOMScoreAdjust=-900
Nice=-10
CPUWeight=1000
LimitNOFILE=65536
UMask=0077
"""


def keep(main_file: Path | None, config: Config, home: Path = HOME, unit: Path = UNIT, source: Path = _SOURCE) -> str:
    """Have the copy and the unit as this code is now; returns what is wrong, empty when nothing is. Never raises.

    ``main_file``: of the configuration, None for the default one; ``config``: as it is in force.
    A copy that can't be made (a full disk) leaves the earlier one in use, or the code where it is.
    """
    arguments = ("--config", str(main_file)) if main_file else ()
    places = tuple(map(str, (config.paths.run_dir / lock.ALIVE, config.paths.state_db, config.paths.control_socket)))
    trouble = ""
    try:
        _copy(home, source, {"arguments": arguments, "places": places})
    except (HostError, OSError) as error:
        trouble = f"no copy of the backstop's program could be made in {home}: {error}"
    program = home / "current" / PROGRAM
    if unit.parent.is_dir():
        try:
            write_unit(program, unit)
        except HostError as error:
            trouble = f"{trouble}; {error}" if trouble else str(error)
    return trouble if trouble or program.exists() else f"{program} is missing"


def config_file(home: Path = HOME) -> Path | None:
    """That of the daemon which kept the program last, as its backstop has it; None for the default one."""
    with contextlib.suppress(HostError, ValueError, SyntaxError):
        text = (files.read_bounded(home / "current" / PROGRAM) or b"").decode()
        found = re.search(r"^main\(\[\*(\(.*\)), \*sys\.argv\[1:\]\](?:, begun)?\)$", text, re.MULTILINE)
        words = ast.literal_eval(found[1]) if found else ()
        return Path(words[1]) if words else None
    return None


def forget(home: Path = HOME, unit: Path = UNIT) -> None:
    """Take both away, when Tidegate leaves this host: nothing is open that they would end."""
    shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(OSError):
        unit.unlink()


def write_unit(program: Path = CURRENT / PROGRAM, unit: Path = UNIT) -> None:
    """The template that timers start. Raises HostError ``write_failed``."""
    text = _UNIT.format(python=sys.executable, program=program).encode()
    if files.read_bounded(unit) != text:
        files.atomic_write(unit, text, 0o644)


def _copy(home: Path, source: Path, told: dict[str, tuple[str, ...]]) -> None:
    """A folder for each state of the code, named by its digest; ``current`` leads to it, exchanged in one rename."""
    found = list(_files(source))
    digest = hashlib.sha256(repr(told).encode())
    for path in found:
        if path.suffix != ".pyc":
            digest.update(f"{path.relative_to(source)}\0".encode() + path.read_bytes() + b"\0")
    name = digest.hexdigest()[:16]
    target = home / name
    files.make_folder(home, 0o700)
    if not target.is_dir():
        half = home / f".{name}.{secrets.token_hex(4)}"
        try:
            for path in found:
                _take_over(path, half / path.relative_to(source))
            _write(half / PROGRAM, _LAUNCHER.format(folder=str(target), **told).encode())
            half.rename(target)
        except OSError:
            shutil.rmtree(half, ignore_errors=True)
            raise
    _point(home, name)
    for other in home.iterdir():
        if other.name not in {name, "current"}:
            shutil.rmtree(other, ignore_errors=True)


def _take_over(path: Path, place: Path) -> None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if path.suffix == ".pyc":
            return  # a package's script makes byte code anew: Python does without
        raise
    place.parent.mkdir(parents=True, exist_ok=True)
    _write(place, data)
    with contextlib.suppress(FileNotFoundError):
        shutil.copystat(path, place)  # the times: by them Python knows that a .pyc is of this source


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _files(source: Path) -> Iterator[Path]:
    for package in _PACKAGES:
        for path in sorted((source / package).rglob("*")):
            if path.is_file() and path.suffix in {".py", ".pyc", ".sql", ".json"}:
                yield path


def _point(home: Path, name: str) -> None:
    current = home / "current"
    with contextlib.suppress(OSError):
        if str(current.readlink()) == name:
            return
    temporary = home / f".current.{secrets.token_hex(4)}"
    temporary.symlink_to(name)
    temporary.rename(current)
