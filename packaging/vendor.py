"""Fetches the libraries that a package carries along (packaging/vendored.txt), by their hashes, once, and unpacks them."""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIST = HERE / "vendored.txt"
CACHE = HERE.parent / "build/vendored"  # `make clean` removes it
_TIMEOUT_S = 300


def unpack(folder: Path) -> None:
    """Put every library of the list under ``folder``, with what it says of itself (its dist-info).

    The text of its licence is not: a package has a place of its own for that (packaging/deb/PACKAGE.copyright).

    Which it is, is checked by hash each time, also of what was fetched before. Exits where that fails, or nothing can be fetched.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps", "--only-binary=:all:"]
    argv += ["--require-hashes", "--find-links", str(CACHE), "--dest", str(CACHE), "--requirement", str(LIST)]
    if _all_there():
        argv.append("--no-index")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        sys.exit(f"vendor.py: {done.stdout}{done.stderr}")
    for wheel in _fetched():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if "/licenses/" not in name])
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _fetched() -> list[Path]:
    """The files of the list that are there, known by their hashes."""
    wanted = re.findall(r"--hash=sha256:([0-9a-f]{64})", LIST.read_text())
    there = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in CACHE.glob("*.whl")}
    return [there[digest] for digest in wanted if digest in there]


def _all_there() -> bool:
    return len(_fetched()) == len(re.findall("^[^#\n]", LIST.read_text(), re.MULTILINE))
