"""What a part of a host's file tree holds, to compare before with after."""

import json
from collections.abc import Mapping
from typing import NamedTuple

DEFAULT_PATHS = (
    "/etc", "/home", "/root", "/run/userdb", "/run/tidegate", "/run/systemd/system", "/run/systemd/transient",
    "/var/lib/systemd/linger", "/var/mail", "/var/spool/cron",
)  # fmt: skip


class Entry(NamedTuple):
    """One file, or whatever a path names."""

    kind: str  # file, folder, link, fifo, socket or device
    mode: int  # permission bits
    uid: int
    gid: int
    size: int  # bytes, of files only
    content: str  # of a file its SHA-256 in hex, of a link its target


Snapshot = dict[str, Entry]

# Run by the host's own Python, so that links and mounts mean what they mean there.
SCRIPT = """
import hashlib, json, os, stat, sys
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
seen = {}
def visit(path):
    try:
        found = os.lstat(path)
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "device")
        content, size = "", 0
        if kind == "link":
            content = os.readlink(path)
        elif kind == "file":
            size = found.st_size
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        seen[path] = (kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, size, content)
        if kind == "folder":
            for name in os.listdir(path):
                visit(os.path.join(path, name))
    except FileNotFoundError:
        pass
for path in sys.argv[1:]:
    visit(path)
json.dump(seen, sys.stdout)
"""


def parse(text: str) -> Snapshot:
    """What SCRIPT printed, typed."""
    return {path: Entry(*fields) for path, fields in json.loads(text).items()}


def differences(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[str]:
    """One line for each path that came, went or changed, with what changed; empty if all is as it was."""
    lines = [f"gone: {path}" for path in sorted(before.keys() - after.keys())]
    lines += [f"new: {path} {after[path]}" for path in sorted(after.keys() - before.keys())]
    for path in sorted(before.keys() & after.keys()):
        was, now = before[path], after[path]
        changed = [f"{name} {old!r} -> {new!r}" for name, old, new in zip(Entry._fields, was, now, strict=True) if old != new]
        if changed:
            lines.append(f"changed: {path}: {', '.join(changed)}")
    return lines
