"""``tidegate-recorder``: records what tenants do, as a user of its own with nothing but its folder."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.host.service import log_to_stderr
from agent.sessions.recorder.opening import OVERALL, PER_UID, Rules
from agent.sessions.recorder.service import Places, Service


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop; returns only by exit: 0 stopped, 1 failed, 2 wrong arguments."""
    asked = parser().parse_args(argv)
    log_to_stderr(verbose=asked.verbose)
    rules = Rules(
        tenants=asked.tenants,
        host=asked.host or os.uname().nodename,
        cap=asked.cap,
        per_uid=asked.sessions_per_user,
        overall=asked.sessions_overall,
    )
    places = Places(asked.socket, asked.sessions, asked.port, asked.quota, asked.keep_days, rules, asked.shipped)
    try:
        Service(places, os.environ).run()
    except OSError as error:
        sys.stderr.write(f"tidegate-recorder: {error}\n")
        sys.exit(1)
    sys.exit(0)


def parser() -> argparse.ArgumentParser:
    """Its arguments; docs/make_man.py reads them too."""
    parser = argparse.ArgumentParser(prog="tidegate-recorder", description=__doc__, allow_abbrev=False)
    parser.add_argument("--socket", type=Path, default=Path("/run/tidegate/recorder/sock"), help="where tidegate-shell asks")
    parser.add_argument("--sessions", type=Path, default=Path("/var/lib/tidegate/sessions"), help="folder of the recordings")
    shipped = Path("/var/lib/tidegate/courier/shipped")
    parser.add_argument("--shipped", type=Path, default=shipped, help="the courier's marks of what it carried away whole")
    parser.add_argument("--port", type=Path, default=Path("/run/tidegate/port.sock"), help="where tidegated answers")
    parser.add_argument("--tenants", type=Path, default=Path("/run/tidegate/tenants"), help="folder of the tenant files")
    parser.add_argument("--quota", type=int, default=10 << 30, metavar="BYTES", help="of all recordings (default 10 GiB)")
    parser.add_argument("--keep-days", type=float, default=90.0, metavar="DAYS", help="remove older recordings (default 90)")
    parser.add_argument("--cap", type=int, default=1 << 30, metavar="BYTES", help="of one recording (default 1 GiB)")
    parser.add_argument("--host", default="", help="this host's id, as recordings name it (default: its name)")
    parser.add_argument("--sessions-per-user", type=int, default=PER_UID, metavar="N", help=f"default {PER_UID}")
    parser.add_argument("--sessions-overall", type=int, default=OVERALL, metavar="N", help=f"default {OVERALL}")
    parser.add_argument("--verbose", action="store_true", help="say more")
    return parser


if __name__ == "__main__":
    main()
