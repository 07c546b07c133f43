"""Programs in C that are compiled when they are needed: what a thing costs with nothing around it."""

import subprocess
from pathlib import Path

from benchmarks.frame.row import Absent
from tests.hosts import tools
from tests.hosts.errors import HostError


def compiled(text: str, made: Path, *options: str) -> Path:
    """The program of that source, at ``made``. Raises Absent: there is no compiler to be had, or it does not take it."""
    try:
        tools.need("cc")
    except HostError as error:
        raise Absent(str(error)) from error
    source = made.with_suffix(".c")
    source.write_text(text)
    ran("cc", "-O2", "-o", str(made), str(source), *options)
    return made


def ran(*argv: str, cwd: Path | None = None) -> None:
    """A program to its end. Raises Absent, with what it said."""
    try:
        subprocess.run(argv, cwd=cwd, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise Absent(f"{error} {said.decode(errors='replace').strip()[-200:]}") from error
