"""Removing what one uid owns where it is not alone: in place, so that nothing of anybody else's goes, or gets another name.

An entry is judged by the owner of its inode, a folder by the open descriptor. Whoever swaps names meanwhile can only make this
remove a name in a folder that the swapper may write to, and never anything that another uid owns: no symlink is followed, no
mount entered.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable

from agent.host.trees import LEFT_MAX, clear_flags, mount_id, name_for_moved, opened, printable

DEPTH = 64  # folders emptied where they are; what lies deeper is moved up first
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class OwnRemover:
    """Removes entries of one uid. ``left`` names what stays and why, ``left_count`` counts it, ``removed`` what went.

    ``may``: what else an entry must fulfil, such as lying in an archive already.
    """

    def __init__(self, uid: int, deadline: float, may: Callable[[os.stat_result], bool] = lambda _: True) -> None:
        self._uid = uid
        self._deadline = deadline
        self._may = may
        self._lifted = 0
        self._top = -1
        self.removed = 0
        self.left: list[str] = []
        self.left_count = 0

    def remove(self, parent: int, name: str, label: str) -> bool:
        """Remove one entry of an open folder, if the uid owns it, with all in it that the uid owns. True when it is gone."""
        before = self.left_count
        try:
            found = os.lstat(name, dir_fd=parent)
            if found.st_uid != self._uid:
                return True  # another's by now: that one's is not looked for here
            if not stat.S_ISDIR(found.st_mode):
                self._unlink(parent, name, label, found)
            else:
                self._top = -1
                self._folder(parent, name, label, DEPTH)
        except FileNotFoundError:
            return True
        except OSError as error:
            self._leave(label, error.strerror or "")
        return self.left_count == before

    def _unlink(self, parent: int, name: str, label: str, found: os.stat_result) -> None:
        if not self._may(found):
            self._leave(label, "could not be archived")
            return
        self._forced(lambda: os.unlink(name, dir_fd=parent), parent, name)
        self.removed += 1

    def _folder(self, parent: int, name: str, label: str, depth: int) -> None:
        """Empty it and take it away; raises OSError when it can't."""
        with opened(name, parent) as fd:
            if os.fstat(fd).st_uid != self._uid:
                raise OSError(0, "another user's by now")
            if mount_id(fd) != mount_id(parent):
                raise OSError(0, "another file system is mounted there")
            outermost = self._top < 0
            if outermost:
                self._top = fd
            try:
                clean = self._empty(fd, label, depth)
            finally:
                if outermost:
                    self._top = -1
        if clean:
            self._forced(lambda: os.rmdir(name, dir_fd=parent), parent, name)
            self.removed += 1

    def _empty(self, fd: int, label: str, depth: int) -> bool:
        """Pass after pass, since a folder that changes while it is read may hide a name; True when nothing is in it."""
        while True:
            changes, left = self.removed + self._lifted, self.left_count
            kept, listed = self.left[:], self.left_count
            entries = 0
            with os.scandir(fd) as names:
                for entry in names:
                    entries += 1
                    if entries % 256 == 0 and time.monotonic() > self._deadline:
                        self._leave(label, "out of time")
                        return False
                    self._entry(fd, entry.name, f"{label}/{printable(entry.name)}", depth)
            if entries == 0:
                return True
            if changes == self.removed + self._lifted:
                return self.left_count == left and entries == 0
            self.left, self.left_count = kept, listed  # what stays is told by the last pass

    def _entry(self, fd: int, name: str, label: str, depth: int) -> None:
        try:
            found = os.lstat(name, dir_fd=fd)
            if found.st_uid != self._uid:
                self._leave(label, f"owned by uid {found.st_uid}, in a folder of the tenant's")
            elif not stat.S_ISDIR(found.st_mode):
                self._unlink(fd, name, label, found)
            elif depth > 0:
                self._folder(fd, name, label, depth - 1)
            else:
                self._lift(fd, name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._leave(label, error.strerror or "")

    def _lift(self, parent: int, name: str) -> None:
        """A folder too deep to go into is moved up to the outermost one, which gets another pass."""
        self._lifted, target = name_for_moved(self._top, self._lifted)
        self._forced(lambda: os.rename(name, target, src_dir_fd=parent, dst_dir_fd=self._top), parent, name)

    def _forced(self, act: Callable[[], None], parent: int, name: str) -> None:
        """Do it; where chattr(1)'s flags forbid it, take them off, but never those of a folder that is another's."""
        try:
            act()
        except PermissionError:
            if os.fstat(parent).st_uid == self._uid:
                clear_flags(parent)
            with contextlib.suppress(OSError):
                fd = os.open(name, _OPEN, dir_fd=parent)
                try:
                    found = os.fstat(fd)
                    if found.st_uid == self._uid and stat.S_IFMT(found.st_mode) in {stat.S_IFREG, stat.S_IFDIR}:
                        clear_flags(fd)
                finally:
                    os.close(fd)
            act()

    def _leave(self, label: str, why: str) -> None:
        self.left_count += 1
        if len(self.left) < LEFT_MAX:
            self.left.append(f"{label}: {why}")
