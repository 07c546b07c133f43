"""`make crash`, or `python3 -m tests.crash`: the whole sweep; its last line is `N points, M failures`."""

import argparse
import sys
import time

from tests.crash.points import Point
from tests.crash.sweep import Sweep, report, to_json
from tests.hosts.errors import HostError


def main() -> int:
    """0 when no point failed, 1 when one did or nothing could be run."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.crash", description=__doc__)
    parser.add_argument(
        "--point", metavar="NAME", action="append", type=Point.named, default=[], help="only this one, e.g. open:userdb:137"
    )
    parser.add_argument("--sample", metavar="N", type=int, default=0, help="only so many, spread over all")
    parser.add_argument("--every", action="store_true", help="also the points that are left out for the time they take")
    parser.add_argument("--hosts", metavar="N", type=int, default=2, help="test hosts side by side (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object before the last line")
    arguments = parser.parse_args()
    begun = time.monotonic()
    try:
        sweep = Sweep(1 if arguments.point else arguments.hosts, every=arguments.every)
        outcomes = sweep.run(arguments.point, sample=arguments.sample)
    except HostError as failure:
        print(f"tests.crash: {failure}", file=sys.stderr)
        return 1
    found = report(outcomes, time.monotonic() - begun)
    if arguments.json:
        print(to_json(found))
    elif arguments.point:
        for outcome in outcomes:
            print("\n".join([f"{outcome.point}: killed before {outcome.hit or 'nothing: it was over'}", *outcome.log]))
    else:
        shares = [f"{count} {name}" for part in ("operations", "backends") for name, count in found[part].items()]
        print(f"{', '.join(shares)}; {found['not_reached']} were over before their point; {found['seconds']:.0f} s")
    print(f"{found['points']} points, {found['failures']} failures")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
