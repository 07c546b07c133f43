#!/usr/bin/env python3
"""Kill the making and the removing of an account at every system call, and see whether the next try repairs it.

Needs strace; works in a temporary folder, touches nothing else. About four minutes::

    PYTHONPATH=. python benchmarks/account_kill_points.py

For each point it counts: a login that is usable though the account was never opened, files that an undo does not bring
back to what they were, and files that a second try does not bring to what one whole try makes.
"""

import collections
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from agent.host import rows
from agent.host.contract import Account
from agent.host.passwd import LOCKED, PasswdAccounts
from agent.host.userdb import UserdbAccounts

ALICE = Account("jit-alice", 70001, "Alice Ng", "/home/jit-alice", "/bin/bash")
FILES = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "shadow": "root:*:19000:0:99999:7:::\n",
    "group": "root:x:0:\nadm:x:4:syslog\n",
    "gshadow": "root:*::\nadm:*::syslog\n",
}


def act(root: Path, kind: str, what: str) -> None:
    """What is killed; the two marks bound it in the trace."""
    backend = _backend(root, kind)
    Path("/mark-begin").exists()
    if what == "delete":
        backend.delete(ALICE.name, ALICE.uid)
    else:
        backend.create(ALICE)
    if what == "open":
        backend.add_membership(ALICE.name, "adm")
        backend.set_locked(ALICE.name, ALICE.uid, False)
    Path("/mark-end").exists()


def _backend(root: Path, kind: str) -> PasswdAccounts | UserdbAccounts:
    return PasswdAccounts(root / "etc", state=root / "state") if kind == "passwd" else UserdbAccounts(root / "userdb")


def _snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.read_bytes(), path.lstat().st_mode) for path in found}


def _usable(root: Path, kind: str) -> bool:
    if kind == "userdb":
        record = root / "userdb/jit-alice.user"
        return record.exists() and not json.loads(record.read_text()).get("locked")
    passwd, shadow = (rows.get((root / "etc" / base).read_bytes(), ALICE.name) for base in ("passwd", "shadow"))
    return passwd is not None and (shadow is None or shadow[7] != LOCKED)


def _run(root: Path, kind: str, what: str, *strace: str) -> int:
    this = [sys.executable, __file__, str(root), kind, what]
    return subprocess.run([*strace, *this], capture_output=True, check=False).returncode


def _points(root: Path, kind: str, what: str, trace: Path) -> list[tuple[str, int]]:
    """Each system call between the marks: its name, and the how-maniest of that name it is."""
    _run(root, kind, what, "strace", "-o", str(trace))
    counts: collections.Counter[str] = collections.Counter()
    points: list[tuple[str, int]] = []
    inside = False
    for line in trace.read_text(errors="replace").splitlines():
        if found := re.match(r"(\w+)\(", line):
            counts[found[1]] += 1
            if "/mark-" in line:
                inside = "/mark-begin" in line
            elif inside:
                points.append((found[1], counts[found[1]]))
    return points


def main() -> None:
    """Go through all points of both backends and print one line for each kind of run."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        base, opened = top / "base", top / "opened"
        for name in ("etc", "userdb", "state"):
            (base / name).mkdir(parents=True)
        for name, text in {**FILES, ".pwd.lock": ""}.items():
            (base / "etc" / name).write_text(text)
        for kind in ("passwd", "userdb"):
            shutil.rmtree(opened, ignore_errors=True)
            shutil.copytree(base, opened, symlinks=True)
            _run(opened, kind, "open")
            for what in ("create", "open", "delete"):
                _one(kind, what, top)


def _one(kind: str, what: str, top: Path) -> None:
    base, opened = top / "base", top / "opened"
    start = opened if what == "delete" else base
    work = top / "work"
    tally: collections.Counter[str] = collections.Counter()

    def fresh(source: Path) -> Path:
        shutil.rmtree(work, ignore_errors=True)
        return Path(shutil.copytree(source, work, symlinks=True))

    for name, number in _points(fresh(start), kind, what, top / "trace"):
        inject = ("strace", "-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")
        tally["points"] += 1
        tally["killed"] += _run(fresh(start), kind, what, *inject) != 0
        tally["usable"] += what == "create" and _usable(work, kind)
        dead = Path(shutil.copytree(work, top / "dead", symlinks=True))
        _backend(dead, kind).delete(ALICE.name, ALICE.uid)
        tally["not undone"] += _snapshot(dead) != _snapshot(base)
        shutil.rmtree(dead)
        if what != "delete":
            tally["not repaired"] += _run(work, kind, "open") != 0 or _snapshot(work) != _snapshot(opened)
    sys.stdout.write(f"{kind} {what}: " + ", ".join(f"{key} {value}" for key, value in tally.items()) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        act(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    else:
        main()
