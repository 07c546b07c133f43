"""The search for what ended tenants left behind. Its own process, of low priority: nobody's end waits for a walk.

Reads one order from stdin and writes one answer to stdout, both JSON (agent.host.searching); says on stderr how far it is.
"""

import contextlib
import json
import os
import stat
import struct
import sys
import time
from collections.abc import Collection
from pathlib import Path

if __name__ == "__main__":  # run by its path, with no package around it
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.host import archive
from agent.host.found import UNSEARCHED, Found, Search, SetGid
from agent.host.mounts import join_hosts_namespace, local_points, mounts, nodev_types
from agent.host.own import OwnRemover
from agent.host.trees import opened, printable

# What would start something first (at jobs: Debian's place, Fedora's), then where everybody may write.
FIRST = ("/var/spool/cron/atjobs", "/var/spool/at", "/var/spool/cron", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock",  # noqa: S108
         "/var/mail")  # fmt: skip
_KINDS = (
    ("/var/spool/cron/atjobs", "at"), ("/var/spool/at", "at"), ("/var/spool/cron", "cron"), ("/var/lib/systemd/linger", "linger"),
    ("/dev/shm", "posix-shm"), ("/dev/mqueue", "mqueue"), ("/var/mail", "mail"),  # noqa: S108
)  # fmt: skip
_DEPTH = 128  # levels of folders, each of which takes two descriptors
_NAMED_MAX = 64  # of one kind, of one uid
_ANSWER_MAX = 300_000  # bytes of names; the daemon reads 1 MiB
_FOREIGN_MAX = 2_000_000  # entries in the folders of one other tenant
_TENANTS = range(70000, 100000)
_JOURNALS = ("/var/log/journal/", "/run/log/journal/")
_ACL = ("system.posix_acl_access", "system.posix_acl_default")
_ACL_USER, _ACL_GROUP = 0x02, 0x08


class Searcher:
    """One search. ``found`` is what it says in the end; ``pack`` takes what is to be archived, and then removes nothing."""

    def __init__(
        self, order: Search, *, remove: bool, pack: "archive.Archives | None" = None, foreign_max: int = _FOREIGN_MAX
    ) -> None:
        self._order = order
        self._remove = remove
        self._pack = pack
        self._packed: Collection[tuple[int, int]] = ()
        self._deadline = time.monotonic() + order.patience_s
        self._began = self._told = time.monotonic()
        self._setgid = {found.gid for found in order.setgid}
        self._keep = frozenset(map(str, order.keep))
        self._foreign_max = foreign_max
        self._points: frozenset[str] = frozenset()
        self._skip: set[tuple[int, int]] = set()
        self._foreign: dict[int, int] = {}
        self._counts: dict[tuple[int | None, str, bool], tuple[int, int]] = {}  # named, and not
        self._room = _ANSWER_MAX
        self._late = False
        self.entries = 0
        self.found: list[Found] = []

    def run(self, points: Collection[str], first: Collection[str] = FIRST, packed: Collection[tuple[int, int]] = ()) -> None:
        """Go through the first places, then through all of ``points``. ``packed``: what may be removed of who has an archive."""
        self._packed = packed
        self._points = frozenset(points)
        for place in (*first, *(points if self._order.whole else ())):
            try:
                with opened(place) as fd:
                    found = os.fstat(fd)
                    if (found.st_dev, found.st_ino) not in self._skip:
                        self._folder(fd, "" if place == "/" else place, found, _DEPTH)
                        self._skip.add((found.st_dev, found.st_ino))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                self._note(Found(UNSEARCHED, place, error.strerror or ""))
        self.found += [
            Found(kind, f"{unnamed} more", "", removed, uid)
            for (uid, kind, removed), (_, unnamed) in self._counts.items()
            if unnamed
        ]

    def _folder(self, fd: int, label: str, about: os.stat_result, depth: int) -> None:
        """Everything in one open folder: what is looked for is dealt with, other folders are gone into.

        One that changes while it is read may hide a name, so after a removal it is read again, for what is looked for only.
        """
        if label in self._keep or self._foreign.get(about.st_uid, 0) > self._foreign_max:
            return
        removed = self._pass(fd, label, about, depth)
        while removed and not self._late:
            removed = self._pass(fd, label, about, -1)

    def _pass(self, fd: int, label: str, about: os.stat_result, depth: int) -> bool:
        """Whether something was removed. ``depth`` -1: only what the uids own."""
        foreign = about.st_uid in _TENANTS and about.st_uid not in self._order.uids
        removed = False
        with os.scandir(fd) as entries:
            for entry in entries:
                self.entries += 1
                if self.entries % 2048 == 0:
                    self._tick(label or "/")
                if self._late or (foreign and self._weary(about.st_uid, label)):
                    break
                removed |= self._entry(fd, entry, label, about, depth)
        return removed

    def _entry(self, fd: int, entry: "os.DirEntry[str]", label: str, about: os.stat_result, depth: int) -> bool:
        """Whether something was removed."""
        try:
            found = entry.stat(follow_symlinks=False)
            if found.st_uid in self._order.uids:
                return self._own(fd, entry.name, f"{label}/{printable(entry.name)}", found)
            if depth >= 0:
                self._others(fd, entry.name, label, found, about, depth)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._note(Found(UNSEARCHED, f"{label}/{printable(entry.name)}", error.strerror or ""))
        return False

    def _others(self, fd: int, name: str, label: str, found: os.stat_result, about: os.stat_result, depth: int) -> None:
        """What somebody else owns: whether it lets the tenant in, and what is in it."""
        if found.st_gid in self._order.uids:
            detail = f"of the tenant's group, owned by uid {found.st_uid}"
            self._note(Found("group-file", f"{label}/{printable(name)}", detail, uid=found.st_gid))
        if (self._order.acls or label.startswith(_JOURNALS)) and not stat.S_ISLNK(found.st_mode):
            self._acl(fd, name, label)
        if stat.S_ISDIR(found.st_mode):
            self._descend(fd, name, label, found, about, depth)
        elif found.st_mode & stat.S_ISGID and found.st_gid in self._setgid:
            self._set_gid(f"{label}/{printable(name)}", found)

    def _descend(self, fd: int, name: str, label: str, found: os.stat_result, about: os.stat_result, depth: int) -> None:
        inner = f"{label}/{name}"
        if found.st_dev != about.st_dev or inner in self._points or (found.st_dev, found.st_ino) in self._skip:
            return  # another file system, which has its own turn, or seen already
        if depth <= 0:
            self._note(Found(UNSEARCHED, printable(inner), f"more than {_DEPTH} folders deep, owned by uid {found.st_uid}"))
            return
        with opened(name, fd) as below:
            self._folder(below, printable(inner), os.fstat(below), depth - 1)

    def _own(self, parent: int, name: str, label: str, found: os.stat_result) -> bool:
        """Pack, remove or tell what one of the uids owns."""
        uid, kind = found.st_uid, self._kind(label, found)
        if label in self._keep:
            return False
        if self._pack is not None:
            if uid in self._order.archives:
                self._pack.add(uid, parent, name, label)
            return False
        if not self._remove:
            self._note(Found(kind, label, "owned by the tenant", uid=uid))
            return False
        archived = uid in self._order.archives
        remover = OwnRemover(uid, self._deadline, self._is_packed if archived else lambda _: True)
        gone = remover.remove(parent, name, label)
        for left in remover.left:
            where, _, why = left.rpartition(": ")
            self._note(Found(kind, where, why, uid=uid))
        if gone:
            inside = f", {remover.removed} entries" if remover.removed > 1 else ""
            self._note(Found(kind, label, f"owned by the tenant{inside}{', archived' if archived else ''}", True, uid))
        return gone

    def _is_packed(self, found: os.stat_result) -> bool:
        """What can't be packed at all (a socket, a FIFO) holds nothing that anybody could miss."""
        kept = stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)
        return not kept or (found.st_dev, found.st_ino) in self._packed

    def _kind(self, label: str, found: os.stat_result) -> str:
        if stat.S_ISREG(found.st_mode) and found.st_mode & (stat.S_ISUID | stat.S_ISGID):
            return "setuid" if found.st_mode & stat.S_ISUID else "setgid"
        return next((kind for folder, kind in _KINDS if label.startswith(f"{folder}/")), "file")

    def _set_gid(self, label: str, found: os.stat_result) -> None:
        """A lent group's rights, kept in a file by whom it was lent to."""
        for lent in self._order.setgid:
            if (lent.gid, lent.owner) == (found.st_gid, found.st_uid) and found.st_ctime_ns >= lent.since_ns:
                detail = f"setgid of the lent group {lent.gid}, owned by uid {lent.owner}, made or changed since the grant opened"
                self._note(Found("setgid", label, detail))

    def _acl(self, fd: int, name: str, label: str) -> None:
        """Who is named in an access list (acl(5)) would be let in again as the next holder of the number.

        journald names whom a journal is about in its access list: that entry is the tenant's own, and goes; the journal stays.
        """
        path = f"/proc/self/fd/{fd}/{name}"
        with contextlib.suppress(OSError):  # gone, or of a file system that has none
            for attribute in os.listxattr(path, follow_symlinks=False):
                if attribute not in _ACL:
                    continue
                raw = os.getxattr(path, attribute, follow_symlinks=False)
                named = acl_ids(raw) & self._order.uids
                goes = bool(named) and self._remove and label.startswith(_JOURNALS)
                if goes:
                    os.setxattr(path, attribute, acl_without(raw, named), follow_symlinks=False)
                for uid in named:
                    detail = "was let read its journal" if goes else "its access list names the tenant"
                    self._note(Found("acl", f"{label}/{printable(name)}", detail, goes, uid))

    def _weary(self, uid: int, label: str) -> bool:
        """Whether another tenant's folders have taken more than their share; told once."""
        self._foreign[uid] = self._foreign.get(uid, 0) + 1
        if self._foreign[uid] == self._foreign_max + 1:
            self._note(Found(UNSEARCHED, label, f"uid {uid} has more than {self._foreign_max} entries in its folders"))
        return self._foreign[uid] > self._foreign_max

    def _tick(self, where: str) -> None:
        now = time.monotonic()
        if now > self._deadline and not self._late:
            self._late = True
            took = f"{self.entries} entries in {now - self._began:.0f} s, then at {where}"
            self._note(Found(UNSEARCHED, "/" if self._order.whole else "shared folders", f"not looked through in time: {took}"))
        if now - self._told >= 0.5:
            self._told = now
            sys.stderr.write(f"{self.entries} {where}\n")
            sys.stderr.flush()

    def _note(self, found: Found) -> None:
        """Named up to a number for each kind, and to what an answer can hold; then counted."""
        key = (found.uid, found.kind, found.removed)
        named, unnamed = self._counts.get(key, (0, 0))
        size = len(json.dumps([found.where, found.detail]))
        if named < _NAMED_MAX and self._room >= size:
            self._room -= size
            self._counts[key] = named + 1, unnamed
            self.found.append(found)
        else:
            self._counts[key] = named, unnamed + 1


def acl_ids(raw: bytes) -> set[int]:
    """The uids and gids an access list names: a header of 4 bytes, then tag, permissions and id (linux/posix_acl_xattr.h)."""
    entries = struct.iter_unpack("<HHI", raw[4 : 4 + (len(raw) - 4) // 8 * 8])
    return {ident for tag, _, ident in entries if tag in {_ACL_USER, _ACL_GROUP}}


def acl_without(raw: bytes, ids: Collection[int]) -> bytes:
    """The same access list without the entries of these uids and gids."""
    entries = [raw[at : at + 8] for at in range(4, len(raw) - 7, 8)]
    kept = [entry for entry in entries if not acl_ids(raw[:4] + entry) & set(ids)]
    return raw[:4] + b"".join(kept)


def search(order: Search) -> tuple[list[Found], int]:
    """Look, pack and remove as ordered; what was found, and how many entries were looked at. Raises OSError."""
    points = local_points(mounts(), nodev_types())
    if not (order.archives and order.remove):
        plain = Searcher(order, remove=order.remove)
        plain.run(points)
        return plain.found, plain.entries
    with archive.Archives(order.archives) as archives:
        packing = Searcher(order, remove=False, pack=archives)
        packing.run(points)
    removing = Searcher(order, remove=True)
    removing.run(points, packed=archives.taken)
    return removing.found + archives.found, packing.entries + removing.entries


def read_order(text: str) -> Search:
    """The inverse of agent.host.searching's; raises ValueError, KeyError, TypeError."""
    raw = json.loads(text)
    return Search(
        uids=frozenset(raw["uids"]),
        archives={int(uid): Path(path) for uid, path in raw["archives"].items()},
        setgid=tuple(SetGid(*found) for found in raw["setgid"]),
        keep=tuple(map(Path, raw["keep"])),
        whole=raw["whole"],
        remove=raw["remove"],
        acls=raw["acls"],
        patience_s=raw["patience_s"],
    )


def main() -> None:
    """One order, one answer."""
    os.nice(20)  # from wherever the daemon stands: to the end of the queue
    order = read_order(sys.stdin.read())
    join_hosts_namespace()
    found, entries = search(order)
    answer = [[each.kind, each.where, each.detail, each.removed, each.uid] for each in found]
    json.dump({"entries": entries, "found": answer}, sys.stdout)


if __name__ == "__main__":
    main()
