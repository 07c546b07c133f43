"""Every folder the daemon watches, kept watched though it be deleted, exchanged by a rename, or not there yet.

inotify(7) watches an inode: a folder that configuration management puts in place of another would never be heard of. So the
parents of the admin's folders are watched too, and whatever happens to such a folder renews all watches.
"""

import contextlib
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from agent.config import Config
from agent.errors import HostError
from agent.host import courier, recorder, start
from agent.spool import Watch

log = logging.getLogger("tidegate")
INTERPRETERS = recorder.PYTHON.parent  # an upgrade of python: tidegate-shell's copy of it is made anew


class Watching:
    """The inbox, the admin's folders and those of the configuration (``configured``).

    ``told(folder, name)`` of what changed, ``gone()`` when the watches must be renewed; both come from threads of its own.
    """

    def __init__(
        self, config: Config, configured: Collection[Path], told: Callable[[Path, str], None], gone: Callable[[], None]
    ) -> None:
        self._config = config
        self._configured = configured
        self._told = told
        self._gone = gone
        self._exchangeable = {config.paths.inbox, config.paths.policy_dir, config.paths.trust_dir}
        self._watches: list[Watch] = []

    def renew(self) -> str:
        """Watch all that is there now, in place of what was watched before; returns what is wrong, empty when nothing is.

        What changed while nothing was watched is the caller's to look for, after this returns.
        """
        old, self._watches = self._watches, []
        with contextlib.suppress(OSError):  # ours to make; the admin's are not: one is perhaps about to be moved there
            self._config.paths.inbox.mkdir(mode=0o700)
            courier.share(self._config.paths)
        troubles = [self._watch([self._config.paths.inbox], removals=False), self._watch(self._admin(), removals=True)]
        troubles.append(self._watch([INTERPRETERS], removals=False))
        for watch in old:
            watch.stop()
        return "; ".join(trouble for trouble in troubles if trouble)

    def stop(self) -> None:
        """No call after this."""
        for watch in self._watches:
            watch.stop()

    def _watch(self, folders: list[Path], *, removals: bool) -> str:
        links = [str(folder) for folder in folders if folder.is_symlink()]
        watch = Watch([folder for folder in folders if folder.is_dir() and not folder.is_symlink()], self._seen, removals=removals)
        try:
            watch.start()
        except HostError as error:
            return str(error)
        self._watches.append(watch)
        return f"{', '.join(links)} is a symbolic link and not watched: send SIGHUP after a change" if links else ""

    def _seen(self, folder: Path, name: str) -> None:
        if folder == INTERPRETERS and not name.startswith(recorder.PYTHON.name):
            return
        if not name or folder / name in self._exchangeable:
            self._gone()
        else:
            self._told(folder, name)

    def _admin(self) -> list[Path]:
        own = {self._config.paths.policy_dir, self._config.paths.trust_dir}
        others = {*self._configured, *start.tool_folders(self._config)}
        return sorted(own | {folder.parent for folder in own} | {folder for folder in others if folder.is_dir()})
