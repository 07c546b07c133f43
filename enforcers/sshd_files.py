"""Whether sshd would say of one tenant what it said of another: its files are the same, and no Match block but ours is in them.

``sshd -T -C`` costs a process of some 15 ms. What it prints for a login depends on the files that sshd reads and on their Match
blocks alone (sshd_config(5)). Where anything of them is not understood there is no fingerprint, and sshd is asked each time.
"""

import hashlib
import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path

from agent.errors import HostError
from agent.host.contract import Reader
from enforcers.programs import program

_MOST = 64  # files; and how deep they include each other
_WORD = re.compile(r"\s*([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*)")
_GLOB = re.compile(r"[*?\[\]{}~]")


def fingerprint(reader: Reader) -> bytes | None:
    """A digest of sshd's program and of all that it reads now.

    None where another Match block is among it, or where it can't be known.
    """
    paths, digest = reader.config.paths, hashlib.sha256()
    sshd = program(reader, "sshd")
    if sshd is None:
        return None
    digest.update(repr(sshd).encode())
    waiting, seen = [paths.sshd_config], 0
    try:
        while waiting:
            path, seen = waiting.pop(0), seen + 1
            content = reader.read(path)
            if content is None or seen > _MOST:
                return None
            digest.update(repr((str(path), content)).encode())
            if path == paths.sshd_drop_in:
                continue  # ours: one Match block, for the tenants' group
            included = _included(content.decode(), reader)
            if included is None:
                return None
            waiting += included
    except (HostError, UnicodeDecodeError):
        return None
    return digest.digest()


def _included(text: str, reader: Reader) -> list[Path] | None:
    """The files that this one includes; None where it has a Match block or an Include that is not plain."""
    found: list[Path] = []
    for line in text.splitlines():
        words = _WORD.match(line)
        keyword = words[1].lower() if words else ""
        if keyword == "match" or (not words and line.strip() and not line.lstrip().startswith("#")):
            return None
        if words and keyword == "include":
            for pattern in _patterns(words[2]) or [""]:
                path = Path("/etc/ssh") / pattern
                if not pattern or _GLOB.search(str(path.parent)):
                    return None
                names = reader.names(path.parent) if _GLOB.search(path.name) else (path.name,)
                found += [
                    path.parent / name for name in names if fnmatchcase(name, path.name) and reader.exists(path.parent / name)
                ]
    return found


def _patterns(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return []
