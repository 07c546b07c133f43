"""Accounts as JSON user records that nss-systemd reads from /run/userdb (systemd.io/USER_RECORD, nss-systemd(8)).

Measured: 0.26 ms to make one, 0.09 ms to remove it, gone after a reboot, and /etc is never written. A ``.membership``
file also puts an account of /etc/passwd into a group of /etc/group: initgroups, sshd, sudo and su all see it (an empty
file would be ignored, hence an object, which carries our mark).
"""

import contextlib
import json
import os
from pathlib import Path

from agent.errors import HostError
from agent.host import files
from agent.host.contract import Account

MARK = "_tidegate"
# Same length, so that locking is five bytes written over five others: it needs no space on a full disk.
_LOCKED, _UNLOCKED = b'"locked": true ', b'"locked": false'
_RECORD_MAX = 1 << 16


class UserdbAccounts:
    """Records in one folder of drop-ins. See :class:`agent.host.accounts.AccountBackend`."""

    name = "userdb"

    def __init__(self, root: Path = Path("/run/userdb")) -> None:
        self.root = root

    def owns(self, name: str, uid: int) -> bool:
        """Whether a record of that name and uid with our mark is there."""
        record = self._record(name, "user")
        return record is not None and record.get("uid") == uid and MARK in record

    def group_name(self, gid: int) -> str | None:
        """The name of the group record of ours that has this number; None where there is none."""
        try:
            link = str((self.root / f"{gid}.group").readlink())
            name = link.removesuffix(".group")
            record = self._record(name, "group") if link == f"{name}.group" and "/" not in name else None
        except (OSError, HostError):
            return None
        return name if record and record.get("gid") == gid and MARK in record else None

    def owned(self) -> list[tuple[str, int, str]]:
        """See AccountBackend. A group without its user, as a kill leaves it, counts too."""
        found: dict[str, tuple[str, int, str]] = {}
        for kind, key in (("group", "gid"), ("user", "uid")):
            for path in self.root.glob(f"*.{kind}"):
                with contextlib.suppress(HostError):  # no regular file: the link by number, or not ours
                    record = self._record(path.stem, kind) or {}
                    if MARK in record and isinstance(uid := record.get(key), int):
                        found[path.stem] = (path.stem, uid, str(record.get("homeDirectory", "")))
        return list(found.values())

    def owned_memberships(self) -> list[tuple[str, str]]:
        """See AccountBackend."""
        found = []
        for path in self.root.glob("*:*.membership"):
            with contextlib.suppress(HostError):
                if MARK.encode() in (files.read_bounded(path, _RECORD_MAX) or b""):
                    user, _, group = path.name.removesuffix(".membership").partition(":")
                    found.append((user, group))
        return found

    def left(self, name: str, uid: int) -> list[str]:
        """Record files of that name and uid, and membership files of that name."""
        found = [
            str(self.root / f"{name}.{kind}")
            for kind, key in (("user", "uid"), ("group", "gid"))
            if (self._record(name, kind) or {}).get(key) == uid
        ]
        return found + [str(self.root / entry) for entry in self._entries() if _is_membership(entry, name)]

    def create(self, account: Account) -> None:
        """Write the group, then the (locked) user, each with its link by number."""
        self._refuse_foreign(account)
        files.make_folder(self.root)
        group = {"groupName": account.name, "gid": account.uid, "disposition": "regular", MARK: True}
        user = {
            "userName": account.name,
            "uid": account.uid,
            "gid": account.uid,
            "realName": account.full_name or account.name,
            "homeDirectory": account.home,
            "shell": account.shell,
            "disposition": "regular",
            MARK: True,
        }
        text = json.dumps(user)[:-1].encode() + b", " + _LOCKED + b"}\n"
        self._write(f"{account.name}.group", json.dumps(group).encode() + b"\n")
        self._link(f"{account.uid}.group", f"{account.name}.group")
        self._write(f"{account.name}.user", text)
        self._link(f"{account.uid}.user", f"{account.name}.user")

    def set_locked(self, name: str, uid: int, locked: bool) -> None:
        """Flip the flag in place. A reader sees ``true`` or ``false``: the bytes lie in one page."""
        path = self.root / f"{name}.user"
        text = files.read_bounded(path, _RECORD_MAX)
        record = _parsed(text)
        if text is None or record is None or record.get("uid") != uid:
            if locked and text is None:
                return
            code = "account_missing" if text is None else "account_not_ours"
            raise HostError(code, f"no userdb record {name} of uid {uid}")
        old, new = (_UNLOCKED, _LOCKED) if locked else (_LOCKED, _UNLOCKED)
        if (at := text.rfind(old)) >= 0:
            files.overwrite(path, at, new)
        elif new not in text:  # somebody rewrote the record: say it in full
            record["locked"] = locked
            self._write(path.name, json.dumps(record).encode() + b"\n")

    def delete(self, name: str, uid: int) -> None:
        """The user first, so that a kill half-way leaves no login; then group, links and memberships."""
        for kind, key in (("user", "uid"), ("group", "gid")):
            record = self._record(name, kind)
            if record is not None and record.get(key) != uid:
                raise HostError("account_not_ours", f"userdb {kind} {name} has another id than {uid}")
        for kind in ("user", "group"):
            files.remove(self.root / f"{name}.{kind}")
            link = self.root / f"{uid}.{kind}"
            with contextlib.suppress(OSError):
                if str(link.readlink()) == f"{name}.{kind}":
                    files.remove(link)
        unfinished = (f"{files.TEMPORARY}{name}.", f"{files.TEMPORARY}{name}:")
        for entry in self._entries():  # once for both: the folder has several entries for each live grant
            if _is_membership(entry, name) or entry.startswith(unfinished):
                files.remove(self.root / entry)

    def add_membership(self, user: str, group: str) -> None:
        """One file, whether user and group are userdb's or /etc's."""
        files.make_folder(self.root)
        self._write(f"{user}:{group}.membership", f'{{"{MARK}": true}}\n'.encode())

    def drop_membership(self, user: str, group: str) -> None:
        """Unlink that file; a row of /etc/group is not ours and stays."""
        path = self.root / f"{user}:{group}.membership"
        files.remove(path)
        files.clear_unwritten(path)

    def _entries(self) -> list[str]:
        """All that is in the folder; nothing where there is none."""
        try:
            with os.scandir(self.root) as entries:
                return [entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise HostError("read_failed", f"{self.root} could not be listed: {error.strerror}") from error

    def _record(self, name: str, kind: str) -> dict[str, object] | None:
        return _parsed(files.read_bounded(self.root / f"{name}.{kind}", _RECORD_MAX))

    def _refuse_foreign(self, account: Account) -> None:
        for kind, key in (("user", "uid"), ("group", "gid")):
            record = self._record(account.name, kind)
            if record is not None and (record.get(key) != account.uid or MARK not in record):
                raise HostError("account_taken", f"a userdb {kind} record {account.name} is there already")

    def _write(self, name: str, data: bytes) -> None:
        files.clear_unwritten(self.root / name)
        files.atomic_write(self.root / name, data, 0o644)

    def _link(self, name: str, target: str) -> None:
        link = self.root / name
        try:
            link.symlink_to(target)
        except FileExistsError:
            if not link.is_symlink() or str(link.readlink()) != target:
                raise HostError("account_taken", f"{link} is there already") from None
        except OSError as error:
            raise HostError("write_failed", f"{link} could not be made: {error.strerror}") from error


def _parsed(text: bytes | None) -> dict[str, object] | None:
    """None where there is no record; nothing in one that can't be read."""
    if text is None:
        return None
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {}


def _is_membership(entry: str, user: str) -> bool:
    return entry.startswith(f"{user}:") and entry.endswith(".membership")
