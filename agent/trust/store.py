"""The keys in force, file by file: one bad file neither keeps another's removed key trusted, nor goes unsaid."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from agent.errors import ConfigError
from agent.trust.keys import KeyRing, TrustedKey, key_files, read_jwks

_Held: TypeAlias = Mapping[Path, tuple[TrustedKey, ...]]  # file → those of its keys that are in force


class KeyStore:
    """Holds the key ring of one folder; ``ring`` may be read from any thread while another reloads.

    A good file counts as it is now, and a deleted one no more. A bad file keeps what was in force of it. Files that name one
    kid or one key twice add nothing: each keeps what was in force of it and still stands in it. While the folder itself can't
    be used, each file that is still there keeps its own. Before the first load nobody is trusted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: _Held = {}
        self._state: tuple[KeyRing, ConfigError | None] = (KeyRing({}), None)

    @property
    def ring(self) -> KeyRing:
        """The keys in force."""
        return self._state[0]

    @property
    def error(self) -> ConfigError | None:
        """The first file whose keys, as they are now, are not in force, and why; ``tidegate status`` shows it."""
        return self._state[1]

    def reload(self) -> bool:
        """Read the files again, from one thread at a time; True when all of them are now in force (else see :attr:`error`)."""
        try:
            found, error = _read(key_files(self._folder), self._held)
            held, clash = _settle(found, self._held)
        except ConfigError as caught:
            held, error, clash = {path: keys for path, keys in self._held.items() if os.path.lexists(path)}, caught, None
        self._held = held
        ring = KeyRing(MappingProxyType({key.kid: key for keys in held.values() for key in keys}))
        self._state = (ring, error or clash)
        return self.error is None


def _read(paths: list[Path], before: _Held) -> tuple[_Held, ConfigError | None]:
    """Each file's keys, and the first error; a bad file has those it had."""
    found: dict[Path, tuple[TrustedKey, ...]] = {}
    error = None
    for path in paths:
        try:
            found[path] = tuple(read_jwks(path))
        except ConfigError as caught:
            if caught.code == "key_file_missing":  # deleted since the folder was listed
                continue
            found[path] = before.get(path, ())
            error = error or caught
    return found, error


def _settle(found: _Held, before: _Held) -> tuple[_Held, ConfigError | None]:
    """What counts where files disagree; the first clash as the error. No kid and no key stands in the result twice."""
    owners: dict[tuple[str, str], Path] = {}
    torn: set[Path] = set()
    error = None
    for path, keys in found.items():
        for key in keys:
            for code, what, mark in (("key_kid_twice", "its kid", key.kid), ("key_twice", "the same key", key.thumbprint)):
                owner = owners.setdefault((code, mark), path)
                if owner != path:
                    torn |= {path, owner}
                    error = error or ConfigError(code, f"{what} stands in {owner.name} too", path=path, key=key.kid)
    return {path: _still(before.get(path, ()), keys) if path in torn else keys for path, keys in found.items()}, error


def _still(before: tuple[TrustedKey, ...], now: tuple[TrustedKey, ...]) -> tuple[TrustedKey, ...]:
    """The keys of both, each for the issuers of both; an approver that changed is trusted as neither."""
    old = {(key.kid, key.thumbprint, key.approver): key.issuers for key in before}
    kept = []
    for key in now:
        issuers = tuple(issuer for issuer in key.issuers if issuer in old.get((key.kid, key.thumbprint, key.approver), ()))
        if issuers:
            kept.append(dataclasses.replace(key, issuers=issuers))
    return tuple(kept)
