"""`python -m tests.outages`: everything that may befall the courier and its control plane; ends with `N outages, M failures`."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.courier_peer import Peer
from tests.host.scene import set_up
from tests.hosts.errors import HostError
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate
from tests.hosts.ssh import make_key
from tests.outages.outages import OUTAGES, go_through
from tests.outages.way import Way, machine


def main() -> int:
    """0 when all held, 1 at the first that did not, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.outages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each lasts (default 6)")
    parser.add_argument("--outage", action="append", metavar="TEXT", help="only those whose name holds this (may be given again)")
    parser.add_argument("--list", action="store_true", help="name them, and do nothing")
    parser.add_argument("--json", action="store_true", help="one object as the last line but one")
    arguments = parser.parse_args()
    chosen = [each for each in OUTAGES if not arguments.outage or any(text in each.name for text in arguments.outage)]
    if arguments.list:
        print("\n".join(each.name for each in chosen))
        return 0
    if not chosen:
        parser.error("no outage has such a name")
    done: list[str] = []

    def say(line: str) -> None:
        done.append(line)
        print(line, flush=True)

    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Host.boot(prepare=install_tidegate) as host,
            Peer(host=machine(host)) as peer,
        ):
            way = Way(set_up(host), peer)
            way.begin()
            found = go_through(way, chosen, arguments.seconds, make_key(Path(folder) / "id"), say)
            way.peer.close()
    except (AssertionError, HostError) as failure:
        print(f"FAILED  {chosen[min(len(done), len(chosen) - 1)].name}: {failure}")
        print(f"{len(done)} outages, 1 failures")
        return 1
    print("\n".join(found.lines()))
    if arguments.json:
        print(json.dumps(asdict(found)))
    print(f"{len(chosen)} outages, 0 failures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
