"""Accounts as rows of /etc/passwd, shadow, group and gshadow, for hosts without nss-systemd (docs/decisions/0002).

Under the lock of lckpwdf(3), which useradd, usermod, vipw, passwd and systemd-sysusers take too. Order of making: group,
gshadow, shadow (expired), passwd; of removing: the reverse. A kill at any point leaves no usable login, and the next try
finds its own rows and goes on. The ``-`` backup files are never touched.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.errors import HostError
from agent.host import files, rows
from agent.host.contract import Account

DATABASE_MAX = 64 << 20  # bytes
GECOS_MARK = "tidegate"  # the fifth GECOS subfield; chfn(1) lets only root change it
NO_PASSWORD = b"!*"
# shadow(5) account expiry, days since 1970. Of one width: locking can write over it where there is no space for a new file.
LOCKED, UNLOCKED = b"00001", b"99999"
LOCK_WAIT_S = 10.0
SHUT_WAIT_S = 0.1  # for what shuts: it is tried again, and everybody else's end waits behind it
_threads = threading.Lock()  # a POSIX lock is the whole process's, so threads need one of their own


class PasswdAccounts:
    """Rows under ``etc``. See :class:`agent.host.accounts.AccountBackend`.

    ``state`` holds one empty file for each membership that was added to a group's row, made before the row is changed:
    that is how one that somebody else added is told from ours.
    """

    name = "passwd"

    def __init__(self, etc: Path = Path("/etc"), *, state: Path, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self.etc = etc
        self.state = state
        self.lock_wait_s = lock_wait_s
        self._busy_at = float("-inf")  # monotonic: when the lock was last not to be had

    def owns(self, name: str, uid: int) -> bool:
        """Whether passwd has the name with that uid and our mark."""
        row = rows.get(self._read("passwd"), name)
        return row is not None and row[2:3] == (b"%d" % uid,) and row[4:5] != () and row[4].endswith(b"," + GECOS_MARK.encode())

    def owned(self) -> list[tuple[str, int, str]]:
        """See AccountBackend."""
        found = []
        for line in self._read("passwd").splitlines():
            row = line.split(b":")
            if len(row) == 7 and row[4].endswith(b"," + GECOS_MARK.encode()) and row[2].isdigit():
                found.append((row[0].decode(errors="replace"), int(row[2]), row[5].decode(errors="replace")))
        return found

    def owned_memberships(self) -> list[tuple[str, str]]:
        """See AccountBackend."""
        markers = (name.partition(":") for name in files.names(self.state) if not name.startswith("."))
        return [(user, group) for user, colon, group in markers if colon]

    def left(self, name: str, uid: int) -> list[str]:
        """Rows of that name and id in passwd and group, and groups that list the name."""
        found = [
            f"{self.etc / base}: {name}"
            for base in ("passwd", "group")
            if (row := rows.get(self._read(base), name)) is not None and row[2:3] == (b"%d" % uid,)
        ]
        listed = rows.groups_listing(self._read("group"), name) if found else []
        return found + [f"{self.etc / 'group'}: {group} lists {name}" for group in listed]

    def create(self, account: Account) -> None:
        """Add the four rows, each only where it is missing; passwd last."""
        name, number = account.name.encode(), b"%d" % account.uid
        gecos = f"{account.full_name},,,,{GECOS_MARK}".encode()
        wanted: tuple[tuple[str, rows.Row], ...] = (
            ("group", (name, b"x", number, b"")),
            ("gshadow", (name, b"!", b"", b"")),
            ("shadow", (name, NO_PASSWORD, b"", b"", b"", b"", b"", LOCKED, b"")),
            ("passwd", (name, b"x", number, number, gecos, account.home.encode(), account.shell.encode())),
        )
        with self._locked():
            old = {base: self._read(base) for base, _ in wanted}
            for base, row in wanted:
                found = rows.get(old[base], account.name)
                if found is not None and not _same(base, found, row):
                    raise HostError("account_taken", f"{self.etc / base} has a row {account.name} already")
            for base, row in wanted:
                if base == "gshadow" and not (self.etc / base).exists():
                    continue  # shadowed groups are optional (pwconv(8))
                if rows.get(old[base], account.name) is None:
                    self._edit(base, lambda data, row=row: rows.add(data, row))  # type: ignore[misc]  # a default binds the row

    def set_locked(self, name: str, uid: int, locked: bool) -> None:
        """Set the account's expiry to 2 January 1970 or to 2243: sshd and PAM refuse an expired account, key or not."""
        if not self._has(name, uid):
            if locked:
                return
            raise HostError("account_missing", f"no account {name} of uid {uid}")
        expiry = LOCKED if locked else UNLOCKED
        row = rows.get(self._read("shadow"), name)
        if row is None or len(row) != 9:
            raise HostError("account_missing", f"{self.etc / 'shadow'} has no row {name}")
        if row[7] == expiry:
            return
        try:
            with self._locked(self._shut_wait_s() if locked else self.lock_wait_s):
                self._edit("shadow", lambda data: rows.put(data, (*row[:7], expiry, row[8])))
        except HostError as error:
            if not locked or len(row[7]) != len(expiry):
                raise
            self._overwrite_expiry(name, expiry)
            if error.code == "accounts_busy":  # who holds the lock may put an older copy in place: it is looked at again
                raise

    def delete(self, name: str, uid: int) -> None:
        """Remove the rows; the name also leaves every group's list (``usermod -aG`` writes it there whoever made the account)."""
        passwd, group = self._read("passwd"), self._read("group")
        held = rows.get(passwd, name)
        if held is not None and held[2:3] != (b"%d" % uid,):
            raise HostError("account_not_ours", f"{self.etc / 'passwd'} has {name} with another uid than {uid}")
        listed = rows.groups_listing(group, name)
        own_group = (rows.get(group, name) or ())[2:3] == (b"%d" % uid,)
        orphan = (rows.get(self._read("shadow"), name) or ())[1:2] == (NO_PASSWORD,)
        if held is None and not listed and not own_group and not orphan and not any(self._leftovers()):
            self._forget(name)
            return
        with self._locked():
            self._edit("passwd", lambda data: rows.drop(data, name))
            if held is not None or orphan:
                self._edit("shadow", lambda data: rows.drop(data, name))
            if own_group:
                self._edit("gshadow", lambda data: rows.drop(data, name))
            for base in ("group", "gshadow"):
                self._edit(base, lambda data: _without_member(data, name))
            if own_group:
                self._edit("group", lambda data: rows.drop(data, name))
        self._forget(name)

    def add_membership(self, user: str, group: str) -> None:
        """Add the name to the group's row, where it is not in it."""
        with self._locked():
            data = self._read("group")
            row = rows.get(data, group)
            if row is None:
                raise HostError("group_not_local", f"group {group} is not in {self.etc / 'group'}")
            if user.encode() in rows.members(row):
                return
            files.make_folder(self.state, 0o700)
            files.clear_leftovers(self.state / f"{user}:{group}")
            files.atomic_write(self.state / f"{user}:{group}", b"", 0o600)
            self._edit("group", lambda data: rows.add_member(data, group, user))

    def drop_membership(self, user: str, group: str) -> None:
        """Take the name out, if it was this class that put it in."""
        marker = self.state / f"{user}:{group}"
        files.clear_leftovers(marker)
        if not marker.exists():
            return
        with self._locked(self._shut_wait_s()):
            if marker.exists():
                self._edit("group", lambda data: rows.drop_member(data, group, user))
                files.remove(marker)  # inside: who puts the name in again does both in one too

    def _has(self, name: str, uid: int) -> bool:
        row = rows.get(self._read("passwd"), name)
        return row is not None and row[2:3] == (b"%d" % uid,)

    def _read(self, base: str) -> bytes:
        return files.read_bounded(Path(os.path.realpath(self.etc / base)), DATABASE_MAX) or b""

    def _edit(self, base: str, change: Callable[[bytes], bytes]) -> None:
        """Replace one database by its changed content, owner, mode and attributes kept; nothing is written if it is the same."""
        path = Path(os.path.realpath(self.etc / base))
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError("read_failed", f"{path} could not be opened: {error.strerror}") from error
        try:
            old = files.read_fd(fd, DATABASE_MAX, str(path))
            new = change(old)
            if new != old:
                files.atomic_write(path, new, like=fd)
        finally:
            os.close(fd)

    def _overwrite_expiry(self, name: str, expiry: bytes) -> None:
        """Write over the expiry in place, only to lock: when a new file finds no room, or another tool holds the lock."""
        path = Path(os.path.realpath(self.etc / "shadow"))
        data = self._read("shadow")
        span = rows.find(data, name)
        if span is None:
            return
        fields = data[span[0] : span[1]].split(b":")
        at = span[0] + len(b":".join(fields[:7])) + 1
        files.overwrite(path, at, expiry)

    def _leftovers(self) -> list[Path]:
        """Half-written databases of a killed edit: copies of shadow may be among them, so they must not stay."""
        return list(self.etc.glob(f"{files.TEMPORARY}*"))

    def _forget(self, name: str) -> None:
        if self.state.is_dir():
            for pattern in (f"{name}:*", f"{files.TEMPORARY}{name}:*"):
                for marker in self.state.glob(pattern):
                    files.remove(marker)

    def _wait_for(self, fd: int, deadline: float) -> None:
        """Take the lock, trying every 10 ms: a blocking F_SETLKW could not be given up without a signal."""
        while True:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                self._busy_at = time.monotonic()
                if self._busy_at >= deadline:
                    raise HostError("accounts_busy", "another tool holds the lock on the account files") from None
                time.sleep(0.01)
            else:
                self._busy_at = float("-inf")
                return

    def _shut_wait_s(self) -> float:
        """A moment; none while somebody waits in vain: the rest of a batch need not find that out one by one."""
        return SHUT_WAIT_S if time.monotonic() > self._busy_at + 1 else 0.0

    @contextlib.contextmanager
    def _locked(self, wait_s: float | None = None) -> Iterator[None]:
        """Hold lckpwdf(3)'s lock: a POSIX write lock on .pwd.lock. Leftovers of a killed edit go, since nobody else edits now.

        Raises:
            HostError: ``accounts_busy`` when another tool held it for ``wait_s`` seconds (default: ``lock_wait_s``).
        """
        wait_s = self.lock_wait_s if wait_s is None else min(wait_s, self.lock_wait_s)
        deadline = time.monotonic() + wait_s
        if not _threads.acquire(timeout=wait_s):
            raise HostError("accounts_busy", "another thread holds the account files")
        try:
            fd = os.open(self.etc / ".pwd.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                self._wait_for(fd, deadline)
                for left in self._leftovers():
                    files.remove(left)
                yield
            finally:
                os.close(fd)
        except OSError as error:
            raise HostError("accounts_busy", f"{self.etc / '.pwd.lock'}: {error.strerror}") from error
        finally:
            _threads.release()


def _same(base: str, found: rows.Row, row: rows.Row) -> bool:
    """Whether a row is one we made, perhaps in an earlier try: an unlocked shadow row and a used group are still ours."""
    match base:
        case "shadow":
            return found[:7] == row[:7] and found[7:8] in {(LOCKED,), (UNLOCKED,)}
        case "group":
            return found[:3] == row[:3]
        case _:
            return found == row


def _without_member(data: bytes, user: str) -> bytes:
    for group in rows.groups_listing(data, user):
        data = rows.drop_member(data, group, user)
    return data
