"""A session by ssh on the host, recorded as every tenant's is: what the client saw is what the players must show."""

import json
import shlex

from agent.sessions.recording import Kind
from tests.hosts.errors import HostFailed
from tests.player.stage import Stage
from tests.player.tape import Shown, Tape
from tests.sessions.case import GO
from tests.sessions.play import Terminal

# Byte by byte with a flush and a pause, so that the recorder's reads cut the characters; then it waits for a new size.
_PROGRAM = """
import os, sys, time
def slowly(text):
    for byte in text.encode():
        os.write(1, bytes((byte,)))
        time.sleep(0.004)
for size in ((80, 24), (100, 30), (61, 20)):
    while tuple(os.get_terminal_size()) != size:
        time.sleep(0.01)
    os.write(1, b"\\x1b[0m\\x1b[H\\x1b[2J")
    slowly("gr\\u00fcn \\u20ac \\x1b[1;31m\\u6f22\\u5b57\\x1b[0m \\U0001f30a e\\u0301 " * 3 + "\\r\\n%dx%d ready" % size)
time.sleep(0.3)
slowly("\\r\\n\\u20ac bye")
"""
_SIZES = ((100, 30), (61, 20))
BEGIN = GO.decode()  # what comes before it is not the session's own, and the host's word to the tenant is not recorded


def recorded(stage: Stage) -> tuple[str, str, Tape]:
    """Play it; the recording's id, all text of the session, and a tape whose end is what the client saw last.

    Raises:
        HostFailed: the session or its recording is not there.
    """
    client = stage.bed.recorded
    command = f"printf '<''GO>'; exec python3 -c {shlex.quote(_PROGRAM)}"
    steps = [(rf"{columns}x{rows} ready".encode(), new) for (columns, rows), new in zip(((80, 24), *_SIZES), _SIZES, strict=False)]
    done = Terminal(client.argv(command, ("-tt",)), client, (80, 24)).play(steps, 30.0)
    screen = done["screen"]
    if done["status"] != 0 or not isinstance(screen, bytes) or GO not in screen:
        raise HostFailed(f"the session was not what it should be: {done}")
    listed = json.loads(stage.bed.host.run(["tidegate", "sessions", "list", "--recorded", "--json"]).stdout)["recordings"]
    mine = [entry["id"] for entry in listed if "python3" in str(entry["command"])]
    if len(mine) != 1:
        raise HostFailed(f"{len(mine)} recordings of one session")
    tape = Tape(*_SIZES[-1])
    tape.frames.append(Shown(0, Kind.RESIZE, _SIZES[-1]))
    tape.out(screen[screen.rindex(b"\x1b[H\x1b[2J") :])
    return mine[0], screen.partition(GO)[2].decode(), tape
