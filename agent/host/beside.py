"""A program of ours that runs beside the daemon for as long as it is wanted: by the daemon's own interpreter."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.errors import HostError
from agent.host.command import ENVIRONMENT


def start(program: Path, arguments: Sequence[str], descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start it, in a session of its own; what it says on stderr is the daemon's. Raises HostError ``tool_failed``."""
    try:
        return subprocess.Popen(
            [sys.executable, "-I", str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=dict(ENVIRONMENT),
            cwd="/",
            start_new_session=True,
            pass_fds=descriptors,
        )
    except (OSError, ValueError) as error:
        raise HostError("tool_failed", f"{program} could not be started: {error}") from error
