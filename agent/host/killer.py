"""Signalling everything of a uid, from a process that is that uid: the one way that no fork can outrun (kill(2), pid -1).

Also a program of its own: ``python3 -I -S killer.py UID...`` prints the uids that could not be signalled. It imports nothing
of the package, so that it starts in the time of a bare interpreter.
"""

import os
import signal
import sys

UID_FIRST, UID_LAST = 70000, 99999  # the contract's range; whatever the configuration says, nothing else is ever signalled


def kill_as(uid: int) -> str:
    """Fork a child that becomes the uid for good and kills all it may; returns an error text, empty when done.

    Refuses anything but a tenant's uid before it forks.
    """
    if not UID_FIRST <= uid <= UID_LAST:
        return f"uid {uid} is outside the tenants' range"
    child = os.fork()
    if child == 0:
        _become_and_kill(uid)
    _, status = os.waitpid(child, 0)
    return "" if os.waitstatus_to_exitcode(status) == 0 else f"could not signal as uid {uid}"


def _become_and_kill(uid: int) -> None:
    """In the child; never returns. kill(-1) spares the caller itself, so it ends by its own exit."""
    code = 1
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        if os.getresuid() == (uid, uid, uid):
            os.kill(-1, signal.SIGKILL)
            code = 0
    except ProcessLookupError:
        code = 0  # nobody there to signal
    finally:
        os._exit(code)


if __name__ == "__main__":
    print(*(uid for uid in map(int, sys.argv[1:]) if kill_as(uid)))
