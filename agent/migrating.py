"""The admin's files, brought to the form that this version writes: all of them or none, each with a backup beside it.

Nothing depends on it: an older form is read as well. It is for the person who reads the file next, and is run by the packages'
scripts after an upgrade. Nothing is replaced before the real loaders have read every file as it is to be, and found that it says
exactly what it said before.
"""

import contextlib
import difflib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.config import DEFAULT_PATH, Config, load_config
from agent.errors import ConfigError, HostError
from agent.forms import CONFIGURATION, COURIER, POLICY, Form, version_of
from agent.host import files
from agent.policy import Decoders, load_policy
from agent.policy.model import Origin, Policy
from agent.rewriting import rewritten
from agent.settings import yaml_files
from agent.strictyaml import FILE_MAX, parse_yaml, read_yaml

_MAIN, _CONF, _POLICY, _COURIER = "tidegate.yaml", "conf.d", "policy.d", "courier.yaml"  # in the copy
_BACKUPS_MAX = 9  # of one file's one version; who has more has something else going on


@dataclass(frozen=True, slots=True)
class Change:
    """One file as it is and as it is to be. ``version``: the one it is of now. ``backup``: where the old one will lie."""

    path: Path
    form: Form
    version: int
    old: bytes
    new: bytes
    backup: Path

    def diff(self) -> str:
        """Unified, as patch(1) takes it."""
        old, new = (data.decode("utf-8").splitlines(keepends=True) for data in (self.old, self.new))
        return "".join(difflib.unified_diff(old, new, str(self.path), f"{self.path} (version {self.form.version})", n=2))


@dataclass(frozen=True, slots=True)
class _Place:
    """A file that is there, and where it goes in a copy of them all."""

    path: Path
    form: Form
    copy: Path


def plan(main: Path | None, decoders: Decoders, *, default: Path = DEFAULT_PATH) -> list[Change]:
    """What is to be changed, each file by itself and all together tried out in a private folder; nothing is touched.

    Args:
        main: the configuration's file as named, None for the default one, which may be absent.
        decoders: as in :func:`agent.policy.load_policy`.

    Raises:
        ConfigError: a file is bad as it is; ``migration_failed``, ``backup_exists``.
        HostError: the private folder could not be made.
    """
    config = load_config(main, default=default)
    policy, courier = config.paths.policy_dir, config.paths.courier_config
    said = _said(main, default, policy, courier, decoders)
    places = list(_places(main or default, config))
    changes = [change for place in places if (change := _change(place)) is not None]
    with tempfile.TemporaryDirectory(prefix="tidegate-") as name:  # mode 0700
        folder = Path(name)
        _copy(folder, changes, places)
        copied = folder / _MAIN
        try:
            again = _said(copied if main else None, copied, folder / _POLICY, folder / _COURIER, decoders)
        except ConfigError as error:
            at = next((place.path for place in places if folder / place.copy == error.path), error.path)
            raise ConfigError("migration_failed", f"would not be read again: {error.reason}", path=at, line=error.line) from error
    if again != said:
        raise ConfigError("migration_failed", "the files would say something else afterwards", path=main or default)
    return changes


def carry_out(changes: Sequence[Change]) -> None:
    """Keep each old file under its backup's name and put the new one in its place; where one fails, those before are put back.

    A kill in between leaves some files in the old form and some in the new: each is whole, and both forms are read.

    Raises:
        ConfigError: ``file_changed``: somebody has written to one since it was looked at; ``file_unwritable``.
    """
    done: list[tuple[Change, bool]] = []
    try:
        for change in changes:
            done.append((change, _replace(change)))
    except ConfigError:
        for change, linked in reversed(done):
            with contextlib.suppress(HostError, OSError):  # the new form stays then, which is read as well
                _put_back(change, linked)
        raise


def _places(main: Path, config: Config) -> Iterator[_Place]:
    """Every file that a form is known of, in the order in which they are read."""
    if files.exists(main):
        yield _Place(main, CONFIGURATION, Path(_MAIN))
    for path in yaml_files(main.parent / _CONF):
        yield _Place(path, CONFIGURATION, Path(_CONF) / path.name)
    for path in yaml_files(config.paths.policy_dir):
        yield _Place(path, POLICY, Path(_POLICY) / path.name)
    if files.exists(config.paths.courier_config):
        yield _Place(config.paths.courier_config, COURIER, Path(_COURIER))


def _change(place: _Place) -> Change | None:
    read_yaml(place.path)  # refuses what is no plain file of root's
    old = _read(place.path)
    new = rewritten(old, place.path, place.form)
    if new == old:
        return None
    version = version_of(parse_yaml(old, place.path), place.form) or 1
    return Change(place.path, place.form, version, old, new, _backup(place.path, version, old))


def _read(path: Path) -> bytes:
    try:
        return files.read_bounded(path, FILE_MAX) or b""
    except HostError as error:
        raise ConfigError("file_unreadable", error.reason, path=path) from error


def _backup(path: Path, version: int, old: bytes) -> Path:
    """A name that nothing has, or what has it is this very content."""
    for number in range(1, _BACKUPS_MAX + 1):
        found = path.with_name(f"{path.name}.~{version}~" if number == 1 else f"{path.name}.~{version}.{number}~")
        if not files.exists(found):
            return found
        with contextlib.suppress(HostError):
            if files.read_bounded(found, FILE_MAX) == old:
                return found
    raise ConfigError("backup_exists", f"{_BACKUPS_MAX} backups of its version {version} lie beside it already", path=path)


def _said(main: Path | None, default: Path, policy: Path, courier: Path, decoders: Decoders) -> tuple[Config, Policy, object]:
    """What the files say, as the loaders of the daemon and of the courier have it. Raises ConfigError."""
    return load_config(main, default=default), _unplaced(load_policy(policy, decoders)), _courier(courier)


def _courier(path: Path) -> object:
    """None where there is no such file, or no courier on this host that would read it."""
    try:
        from agent.courier.settings import load_settings  # noqa: PLC0415  # another package's, which may not be installed
    except ModuleNotFoundError:
        return None
    return load_settings(path) if files.exists(path) else None


def _unplaced(policy: Policy) -> Policy:
    """Without the files and lines of its rules and roles."""
    nowhere = Origin(Path(), 1)
    rules = tuple(replace(rule, origin=nowhere) for rule in policy.rules)
    return replace(policy, rules=rules, roles={name: replace(role, origin=nowhere) for name, role in policy.roles.items()})


def _copy(folder: Path, changes: Sequence[Change], places: Sequence[_Place]) -> None:
    """All of them as they are to be."""
    new = {change.path: change.new for change in changes}
    try:
        for name in (_CONF, _POLICY):
            (folder / name).mkdir()
        for place in places:
            target = folder / place.copy
            target.touch(mode=0o600)
            target.write_bytes(new[place.path] if place.path in new else _read(place.path))
    except OSError as error:
        raise HostError("write_failed", f"{folder} could not be written: {error.strerror}") from error


def _replace(change: Change) -> bool:
    """The old file keeps its inode, and so its owner, mode, times and labels, under the backup's name.

    Returns whether it did: a backup of the same content may lie there from before.
    """
    if _read(change.path) != change.old:
        raise ConfigError("file_changed", "was written to meanwhile, so nothing was changed", path=change.path)
    files.clear_leftovers(change.path)
    linked = False
    try:
        if not files.exists(change.backup):
            os.link(change.path, change.backup, follow_symlinks=False)
            linked = True
        _write(change.path, change.new)
    except (OSError, HostError) as error:
        if linked:
            with contextlib.suppress(OSError):
                change.backup.unlink()
        reason = error.reason if isinstance(error, HostError) else f"can't be written: {error.strerror}"
        raise ConfigError("file_unwritable", reason, path=change.path) from error
    return linked


def _put_back(change: Change, linked: bool) -> None:
    if linked:
        change.backup.rename(change.path)
        files.sync_folder(change.path.parent)
    else:
        _write(change.path, change.old)


def _write(path: Path, data: bytes) -> None:
    """Owner, mode and labels as the file has them now."""
    with files.opened_folder(path.parent) as folder:
        like = files.open_entry(path.name, folder)
        try:
            files.atomic_write(path, data, like=like)
        finally:
            os.close(like)
