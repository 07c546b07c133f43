"""The first milliseconds of a backstop: whether a daemon is there, and where none is, the kill of whoever is past the deadline.

A daemon holds a lock as long as it lives, and the kernel lets go of it at its death, so nobody has to wait to see whether it will
still do its job. What tenants left in their user slices dies before anything large is imported: the interpreter with nothing in it
takes 10 ms, all that the teardown needs a quarter of a second. Nothing is over by that: the whole teardown follows
(agent.backstop), closes the doors, kills again, proves, and writes it down. Hence the few imports, bare ones (``signal`` would take
5 ms, ``sqlite3`` another 5), some where they are needed.
"""

import _signal
import fcntl
import os
import sys
import time

WAIT_S = 0.275  # for a daemon that lives: with the timer's own delay 0.3 s, by when one that is well has ended the grant
_AGAIN_S = 0.05
_ASK_S = 1.0  # a daemon that says nothing for so long is looked at by the whole program
_ANSWER_MAX = 65536  # bytes; a longer list of grants is one, whoever is on it
_KILLED_LISTED, _GROUPS_LISTED = 64, 256
UID_FIRST, UID_LAST = 70000, 99999  # the contract's range, as in agent.host.killer
_BUSY_S = 0.05  # for a journal that somebody holds
_SLICES = ("/sys/fs/cgroup/user.slice", "/sys/fs/cgroup/unified/user.slice")
_PAST = (
    "SELECT uids.uid FROM grants JOIN uids ON uids.grant_id = grants.id WHERE grants.state <> 'ended' AND uids.state = 'reserved'"
    " AND (grants.exp <= ? OR (grants.boot_id = ? AND grants.boot_deadline_ns <= ?))"
)

Seen = dict[int, dict[int, str]]  # uid → pid → the process's name


class Begun:
    """What was done. ``gone``: no daemon lives, or it says nothing; ``trouble`` says what went wrong."""

    def __init__(self, *, gone: bool = False, seen: Seen | None = None, trouble: str = "", journal: object = None) -> None:
        self.gone = gone
        self.seen = seen or {}
        self.trouble = trouble
        self.journal = journal  # open as long as this is: whoever closes it last writes the WAL back, before anyone has checked it

    def killed(self, uid: int) -> tuple[int, list[str]]:
        """How many of the uid's processes have died since they were seen, and the first of them as receipts name them."""
        dead = [(pid, name) for pid, name in self.seen.get(uid, {}).items() if _owner(pid) != uid]
        return len(dead), [f"{name}[{pid}] uid={uid} by=uid" for pid, name in dead[:_KILLED_LISTED]]


def begin(alive: str, state_db: str, control: str, argv: list[str]) -> Begun:
    """What :func:`agent.backstop.main` is to start with. Where a daemon is there and nothing is over, the program ends here.

    ``alive``: the file that a daemon holds locked; ``argv``: the program's own arguments, where it was started by no timer.
    """
    if argv:  # at boot, or to check it: nobody waits
        return Begun()
    gone = False
    try:
        if not is_free(alive, WAIT_S):
            overdue = ask(control)
            if overdue is False:
                sys.exit(0)
            if overdue:
                return Begun()  # it is at it
        gone = True
        journal, uids = past(state_db, time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), _boot_id())
        return Begun(gone=gone, seen=kill(uids), journal=journal)
    except Exception as error:  # the teardown follows, and says what is wrong with this host
        return Begun(gone=gone, trouble=f"nobody was killed early: {type(error).__name__}: {error}")


def is_free(lock: str, wait_s: float) -> bool:
    """Whether nobody holds it, or whoever does lets go within so many seconds: the kernel wakes us. Raises OSError."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    before = _signal.signal(_signal.SIGALRM, _too_late)
    try:
        _signal.setitimer(_signal.ITIMER_REAL, wait_s, _AGAIN_S)  # one that comes before the call below would be spent
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # shared: several backstops may ask at once
    except TimeoutError:
        return False
    else:
        return True
    finally:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, before)
        os.close(descriptor)


def ask(control: str) -> bool | None:
    """Whether the daemon has yet to cut off something past its deadline; None where it gives no answer in a second."""
    import json  # noqa: PLC0415  (as above: only where there is a daemon to ask)
    import socket  # noqa: PLC0415

    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ASK_S)
            connection.connect(control)
            connection.sendall(b'{"op":"overdue"}\n')
            line = b""
            while not line.endswith(b"\n") and len(line) < _ANSWER_MAX and (chunk := connection.recv(_ANSWER_MAX)):
                line += chunk
        return len(line) >= _ANSWER_MAX or bool(json.loads(line)["result"]["grants"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def past(state_db: str, wall_ns: int, boot_ns: int, boot_id: str) -> tuple[object, list[int]]:
    """The journal, open, and the UIDs of accounts that live grants made whose deadline has passed on either clock."""
    import _sqlite3  # noqa: PLC0415  (as above)

    quoted = state_db.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    journal = _sqlite3.connect(f"file:{quoted}?mode=rw", uri=True, timeout=_BUSY_S, isolation_level=None)
    rows = journal.execute(_PAST, (wall_ns // 1_000_000_000, boot_id, boot_ns)).fetchall()
    return journal, sorted({uid for (uid,) in rows if UID_FIRST <= uid <= UID_LAST})


def kill(uids: list[int]) -> Seen:
    """SIGKILL the user slices of these, and who runs as one of them that has none; returns who was seen before.

    No slice's end waits for a walk of /proc: somebody's ten thousand processes would make it long.
    """
    seen, left = Seen(), []
    for uid in uids:
        folder = _slice(uid)
        listed = _listed(folder, uid) if folder else {}
        if not folder or not _kill_whole(folder):
            left.append(uid)
        elif listed:
            seen[uid] = listed
    running = _running(left) if left else {}
    if running:
        from agent.host import killer  # noqa: PLC0415  (as above)

        for uid in running:
            killer.kill_as(uid)
    return {**seen, **running}


def _slice(uid: int) -> str:
    """Its folder, or nothing."""
    folders = (f"{slices}/user-{uid}.slice" for slices in _SLICES)
    return next((folder for folder in folders if os.access(f"{folder}/cgroup.kill", os.W_OK)), "")


def _kill_whole(folder: str) -> bool:
    try:
        descriptor = os.open(f"{folder}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"1")
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def _listed(folder: str, uid: int) -> dict[int, str]:
    """Who is in a slice, of as many groups as agent.expiry.sever looks into; as many by name as a receipt has."""
    groups, pids = [folder], []
    for group in groups:  # which grows meanwhile
        try:
            with open(f"{group}/cgroup.procs", "rb") as file:  # noqa: PTH123
                pids += [int(word) for word in file.read().split()]
        except OSError:  # a threaded group can't be read, and may have children that can
            pass
        try:
            with os.scandir(group) as entries:
                below = (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
                groups += [path for _, path in zip(range(_GROUPS_LISTED - len(groups)), below, strict=False)]
        except OSError:
            continue  # gone
    pids.sort()
    named = {pid: _name(str(pid)) for pid in pids[:_KILLED_LISTED] if _owner(pid) == uid}
    return named | dict.fromkeys(pids[_KILLED_LISTED:], "?")


def _running(uids: list[int]) -> Seen:
    wanted, seen = set(uids), Seen()
    for name in os.listdir("/proc"):  # noqa: PTH208  (pathlib alone would cost as much as all of this)
        if name.isdigit() and (uid := _owner(int(name))) in wanted:
            seen.setdefault(uid, {})[int(name)] = _name(name)
    return seen


def _owner(pid: int) -> int:
    """The effective user of a process that lives; -1 of any other (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  (as above)
            state = file.read(4096).rpartition(b") ")[2][:1]
        return -1 if state in {b"Z", b"X", b""} else os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116
    except OSError:
        return -1


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:  # noqa: PTH123
            return file.read(64).removesuffix(b"\n").decode(errors="backslashreplace")
    except OSError:
        return "?"


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:  # noqa: PTH123
        return file.read(64).decode("ascii").strip()


def _too_late(*_: object) -> None:
    raise TimeoutError
