"""Signalling everything of a uid, from a process that is that uid: the one way that no fork can outrun (kill(2), pid -1).

Also a program of its own: ``python3 -I -S killer.py UID...`` prints the uids that could not be signalled. It imports nothing
of the package, so that it starts in the time of a bare interpreter.
"""

import os
import signal
import sys
import time

CHILD_S = 1.0  # a child takes well under 1 ms
FORK_S = 0.2
AT_ONCE = 4  # children under way; more would only wait for each other's processor
UID_FIRST, UID_LAST = 70000, 99999  # the contract's range; whatever the configuration says, nothing else is ever signalled


def kill_as(uid: int) -> str:
    """Fork a child that becomes the uid for good and kills all it may; returns an error text, empty when done.

    Refuses anything but a tenant's uid before it forks.
    """
    try:
        child = _start(uid)
    except OSError as error:
        return f"could not fork: {error.strerror}"
    except ValueError as error:
        return str(error)
    return _outcome(uid, child)


def kill_as_each(uids: list[int]) -> list[int]:
    """The same for many, a few children at a time; returns the uids that could not be signalled.

    Each has a child of its own: what a tenant does to the one that is its uid (stop it, kill it) touches no other's.
    """
    under_way: list[tuple[int, int]] = []
    failed = []
    for uid in uids:
        if len(under_way) == AT_ONCE:
            failed += _reaped(under_way)
        try:
            under_way.append((uid, _start(uid)))
        except (OSError, ValueError):
            failed.append(uid)
    while under_way:
        failed += _reaped(under_way)
    return failed


def _reaped(under_way: list[tuple[int, int]]) -> list[int]:
    """The first of them, once its child has ended: its uid where that failed."""
    uid, child = under_way.pop(0)
    return [uid] if _outcome(uid, child) else []


def _start(uid: int) -> int:
    """The child's number. Raises ValueError before anything is forked, OSError."""
    if not UID_FIRST <= uid <= UID_LAST:
        raise ValueError(f"uid {uid} is outside the tenants' range")
    # No handler runs in the child: in the agent it would share the event loop's wake-up descriptor.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = _fork()
        if child == 0:
            _become_and_kill(uid)
        return child
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _outcome(uid: int, child: int) -> str:
    return "" if _exit_code(child, CHILD_S) == 0 else f"could not signal as uid {uid}"


def _fork() -> int:
    """Where a bomb has taken every process the host may have, one comes free now and then: be there when it does."""
    give_up = time.monotonic() + FORK_S
    while True:
        try:
            return os.fork()
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.0002)


def _exit_code(child: int, patience_s: float) -> int:
    """How the child ended; it is killed when it does not end in time.

    From the moment it is the uid its tenant may signal it: SIGKILL is no success then, and SIGSTOP holds up no teardown.
    """
    give_up = time.monotonic() + patience_s
    pause_s = 0.0001
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > give_up:
            os.kill(child, signal.SIGKILL)
            give_up = float("inf")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.3, 0.005)  # overslept by a third at most; no descriptor to wait on, there may be none left


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
    print(*kill_as_each([int(word) for word in sys.argv[1:]]))
