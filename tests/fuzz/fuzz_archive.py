"""A home packed away at the end: its tenant chose every name, link and mode in it, and root reads the archive later."""

import contextlib
import os
import stat
import tarfile
import tempfile
from pathlib import Path

from agent.errors import HostError
from agent.host.homes import dispose_home
from tests.fuzz.source import Source

MAX_LEN = 2048
WORDS = ()
_CANARY = b"not of the home"
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def check(data: bytes) -> None:
    """The archive lists the tree and nothing outside it, unpacks nowhere but below its own folder, and the home is gone."""
    source = Source(data)
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        base = Path(folder)
        home, canary, archive = base / "homes" / "jit-a", base / "canary", base / "archive" / "a.tar.gz"
        home.mkdir(parents=True)
        canary.write_bytes(_CANARY)
        files = _tree(source, home, canary)
        try:
            done = dispose_home(home, os.geteuid(), archive)
        except HostError as error:
            raise AssertionError(f"it can't be packed: {error}") from error
        assert done.left == () and not os.path.lexists(home), done.left
        assert canary.read_bytes() == _CANARY
        assert stat.S_IMODE(archive.stat().st_mode) == 0o600
        _contains(archive, files)


def _contains(archive: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:
            assert member.name == "jit-a" or member.name.startswith("jit-a/"), member.name
            assert ".." not in member.name.split("/") and not member.islnk() and not member.isdev(), member
            assert member.isdir() or member.isreg() or member.issym()
        found = {}
        for member in members:
            if member.isreg() and member.name != "jit-a/TIDEGATE-NOT-ARCHIVED.txt":
                read = tar.extractfile(member)
                assert read is not None
                found[member.name] = read.read()
    assert found == {name: content for name, content in files.items() if name != "jit-a/TIDEGATE-NOT-ARCHIVED.txt"}


def _tree(source: Source, home: Path, canary: Path) -> dict[str, bytes]:
    """Make it; name in the archive → content of every regular file."""
    folders, files = [home], {}
    for _ in range(source.number(20)):
        parent = source.choice(folders)
        path = parent / source.mostly(("a", ".ssh", "x" * 200, "ü", "\udcfe\udcff", "a\nb", "-", "TIDEGATE-NOT-ARCHIVED.txt"), 100)
        with contextlib.suppress(OSError, ValueError):
            if path.parent != parent or os.path.lexists(path):
                continue
            match source.number(7):
                case 1 | 2:
                    path.mkdir()
                    folders.append(path)
                case 3:
                    path.symlink_to(source.choice((str(canary), "..", "../../..", "/", "\udc80", "x" * 300)))
                case 4:
                    os.mkfifo(path)
                case 5:
                    os.link(canary, path)
                    files[f"jit-a/{path.relative_to(home)}"] = _CANARY
                case _:
                    content = source.bytes_of(600)
                    path.write_bytes(content)
                    files[f"jit-a/{path.relative_to(home)}"] = content
                    path.chmod(source.number(0o7777))
                    os.utime(path, (0, source.choice((0, -1, 1 << 33, 1_800_000_000))))
    return files
