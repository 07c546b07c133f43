"""Archives of what tenants left outside their homes: one tar for each, whole and on disk before anything of it is removed."""

import contextlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from agent.errors import HostError
from agent.host import files
from agent.host.found import Found
from agent.host.packing import Packer
from agent.host.trees import mount_id

_TRIES = 1000


class Archives:
    """A context manager: nothing is made for whom nothing is added. ``taken`` and ``found`` are good after it.

    What could not be written whole is not there, and nothing of it counts as taken.
    """

    def __init__(self, targets: Mapping[int, Path]) -> None:
        self._targets = targets
        self._open: dict[int, tuple[Path, io.BufferedWriter, Packer]] = {}
        self._failed: set[int] = set()
        self.taken: set[tuple[int, int]] = set()
        self.found: list[Found] = []

    def __enter__(self) -> Self:
        """Nothing yet."""
        return self

    def add(self, uid: int, parent: int, name: str, label: str) -> None:
        """Pack one entry of an open folder, with all that is in it, under its whole path. Errors are told by ``found``."""
        if uid in self._failed:
            return
        try:
            packer = self._packer(uid)
            packer.mount = mount_id(parent)
            packer.add(parent, name, label.lstrip("/"))
        except (OSError, tarfile.TarError) as error:
            self._fail(uid, str(error))

    def __exit__(self, *_: object) -> None:
        """Finish each, or take it away again."""
        for uid, (temporary, raw, packer) in list(self._open.items()):
            try:
                packer.list_skipped("elsewhere")
                packer.tar.close()
                raw.flush()
                os.fsync(raw.fileno())
                raw.close()
                target = _unused(self._targets[uid])
                temporary.rename(target)
                files.sync_folder(target.parent)
            except (OSError, tarfile.TarError, HostError) as error:
                self._fail(uid, str(error))
            else:
                self.taken |= packer.taken or set()
                self.found.append(Found("archive", str(target), "what the tenant left outside its home", True, uid))

    def _packer(self, uid: int) -> Packer:
        if uid not in self._open:
            target = self._targets[uid]
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = files.temporary_for(target)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            raw = os.fdopen(fd, "wb")
            tar = tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3, format=tarfile.PAX_FORMAT)  # noqa: SIM115  # __exit__ closes
            self._open[uid] = (temporary, raw, Packer(tar, -1, taken=set()))
        return self._open[uid][2]

    def _fail(self, uid: int, why: str) -> None:
        self._failed.add(uid)
        temporary, raw, _ = self._open.pop(uid, (None, None, None))
        if temporary is not None and raw is not None:
            with contextlib.suppress(OSError):
                raw.close()
            temporary.unlink(missing_ok=True)
        self.found.append(
            Found("archive", str(self._targets[uid]), f"could not be written, so nothing of it was removed: {why}", uid=uid)
        )


def _unused(target: Path) -> Path:
    """An earlier try may have finished one: that is kept too."""
    for number in range(1, _TRIES):
        path = target if number == 1 else target.with_name(f"{number}-{target.name}")
        if not os.path.lexists(path):
            return path
    raise OSError(0, f"{_TRIES} archives of that name are there")
