"""The lines of a grant's file of execs: NDJSON, ASCII only, the member ``type`` first. Pure.

Texts have bytes that were no UTF-8 as lone surrogates (Python's ``surrogateescape``). They are a tenant's: whoever shows one goes
through :func:`agent.model.text.one_line`. In the file itself JSON escapes all that is not plain ASCII.
"""

import errno
import json
from collections.abc import Mapping

from agent.host.clock import rfc3339
from agent.host.kaudit.exits import Exit
from agent.host.kaudit.records import Exec

BEGIN, EXEC, EXIT, GAP, LIMIT, END = "begin", "exec", "exit", "gap", "limit", "end"
LINE_MAX = 128 * 1024  # an exec has at most 8 KiB of arguments and three paths of 4 KiB, of which each byte may take 6 characters


def line(kind: str, **members: object) -> bytes:
    """One line, its newline at the end."""
    return json.dumps({"type": kind, **members}, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def kind_of(text: bytes) -> str:
    """What a line of ours is, without reading the rest of it."""
    head, _, rest = text.partition(b'{"type":"')
    return rest.partition(b'"')[0].decode("ascii", "replace") if not head else ""


def of_exec(found: Exec) -> bytes:
    """An exec. ``argc`` only where ``argv`` is not all of it."""
    members: dict[str, object] = {
        "at": rfc3339(found.at_ns), "serial": found.serial, "ses": found.ses, "auid": found.auid, "uid": found.uid,
        "euid": found.euid, "pid": found.pid, "ppid": found.ppid, "exe": found.exe, "file": found.file, "argv": [*found.argv],
        "cwd": found.cwd, "success": found.success,
    }  # fmt: skip
    if found.error:
        members["error"] = errno.errorcode.get(found.error, str(found.error))
    if found.cut:
        members |= {"cut": True, "argc": found.argc}
    return line(EXEC, **members)


def of_exit(found: Exit, serial: int, at_ns: int) -> bytes:
    """How a process ended; ``serial`` is its last exec's."""
    how = {"signal": found.signal} if found.signal is not None else {"status": found.status}
    return line(EXIT, at=rfc3339(at_ns), pid=found.pid, serial=serial, **how)


def of_gap(at_ns: int, why: str, lost: int | None, **more: object) -> bytes:
    """Something may be missing here. ``lost``: how many events of the whole host; None where nobody knows."""
    return line(GAP, at=rfc3339(at_ns), why=why, lost=lost, **more)


def gap_in(text: bytes) -> int:
    """How many events a gap line says are lost, 0 where it does not know."""
    try:
        value = json.loads(text)
    except ValueError:
        return 0
    lost = value.get("lost") if isinstance(value, Mapping) else None
    return lost if isinstance(lost, int) else 0
