"""System V IPC objects by owner (proc(5), /proc/sysvipc): segments, semaphores and queues outlive the processes that made them.

POSIX shared memory and message queues are files, of /dev/shm and /dev/mqueue: the search of files finds them.
"""

import ctypes
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from agent.host.found import UNSEARCHED, Found

_FOLDER = Path("/proc/sysvipc")
_RMID = 0
_NAMED_MAX = 16
_READ_MAX = 16 << 20


def objects_of(uids: Collection[int], *, remove: bool, folder: Path = _FOLDER) -> list[Found]:
    """What these uids own, removed where asked; what one of them made and gave away is only told. Never raises."""
    found: list[Found] = []
    for kind, id_field in (("shm", "shmid"), ("sem", "semid"), ("msg", "msqid")):
        try:
            rows = list(_rows((folder / kind).read_bytes()[:_READ_MAX].decode("ascii", "replace")))
        except FileNotFoundError:
            continue  # a kernel without it
        except OSError as error:
            found.append(Found(UNSEARCHED, str(folder / kind), error.strerror or ""))
            continue
        for uid in sorted(set(uids)):
            mine = [row[id_field] for row in rows if row.get("uid") == uid and id_field in row]
            given = [row[id_field] for row in rows if row.get("cuid") == uid != row.get("uid") and id_field in row]
            gone = [(ident, _drop(kind, ident) if remove else "") for ident in mine]
            found += _told(kind, uid, [ident for ident, error in gone if remove and not error], "", removed=True)
            found += _told(kind, uid, [ident for ident, error in gone if error or not remove], "owned by the tenant")
            found += _told(kind, uid, given, "made by the tenant, owned by another user")
    return found


def _told(kind: str, uid: int, idents: list[int], detail: str, *, removed: bool = False) -> list[Found]:
    """Each by its number; past a few, how many more."""
    told = [Found(kind, f"{kind} {ident}", detail, removed, uid) for ident in idents[:_NAMED_MAX]]
    if len(idents) > _NAMED_MAX:
        told.append(Found(kind, f"{len(idents) - _NAMED_MAX} more", detail, removed, uid))
    return told


def _rows(text: str) -> Iterator[dict[str, int]]:
    lines = text.splitlines()
    names = lines[0].split() if lines else []
    for line in lines[1:]:
        yield {name: int(word) for name, word in zip(names, line.split(), strict=False) if word.lstrip("-").isdigit()}


def _drop(kind: str, ident: int) -> str:
    """Remove one object; the error, empty when it is gone (shmctl(2), semctl(2), msgctl(2), IPC_RMID)."""
    libc = ctypes.CDLL(None, use_errno=True)
    match kind:
        case "shm":
            failed = libc.shmctl(ident, _RMID, None)
        case "sem":
            failed = libc.semctl(ident, 0, _RMID)
        case _:
            failed = libc.msgctl(ident, _RMID, None)
    error = ctypes.get_errno() if failed else 0
    return os.strerror(error) if error else ""
