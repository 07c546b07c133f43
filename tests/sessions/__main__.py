"""`python -m tests.sessions`: every case twice on one booted host, recorded and not; ends with `N cases, M differ`."""

import argparse
import json
import sys
import time

from tests.sessions.bed import PLAIN, RECORDED, UNRECORDED, Bed, Person, booted
from tests.sessions.case import Case, Outcome, differences
from tests.sessions.commands import COMMANDS
from tests.sessions.terminals import TERMINALS
from tests.sessions.transfers import TRANSFERS

CASES: tuple[Case, ...] = (*COMMANDS, *TERMINALS, *TRANSFERS)
_TRIES = 3


def main() -> int:
    """0 when nothing differs, 1 when something does, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.sessions", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object as the last line but one")
    parser.add_argument("--case", action="append", metavar="TEXT", help="only cases whose name holds this (may be given again)")
    parser.add_argument("--quick", action="store_true", help="without the cases that take long")
    parser.add_argument("--list", action="store_true", help="name the cases, and do nothing")
    parser.add_argument("--both-off", action="store_true", help="record neither: shows that the cases themselves are steady")
    parser.add_argument("--show", action="store_true", help="what the recorded one gave, too")
    arguments = parser.parse_args()
    chosen = [case for case in CASES if not (arguments.quick and case.slow)]
    if arguments.case:
        chosen = [case for case in chosen if any(text in case.name for text in arguments.case)]
    if arguments.list:
        print("\n".join(case.name for case in chosen))
        return 0
    if not chosen:
        parser.error("no case has such a name")
    with booted(UNRECORDED if arguments.both_off else "required") as bed:
        found = {case.name: _both(bed, case, (number, len(chosen)), arguments.show) for number, case in enumerate(chosen, 1)}
        owners = list(bed.recordings().values())
    recordings, unasked = owners.count(RECORDED), owners.count(PLAIN)
    differ = sum(bool(lines) for lines in found.values())
    if unasked or (not arguments.both_off and recordings < len(chosen)):
        print(f"{recordings} recordings of {len(chosen)} cases, {unasked} of the other: this shows nothing", file=sys.stderr)
        differ = len(chosen)
    if arguments.json:
        cases = [{"case": name, "differs": lines} for name, lines in found.items()]
        print(json.dumps({"cases": cases, "differ": differ, "recordings": recordings}))
    print(f"{len(found)} cases, {differ} differ")
    return 1 if differ else 0


def _both(bed: Bed, case: Case, place: tuple[int, int], show: bool) -> list[str]:
    """A difference between two sessions that both have no recorder says that the case is not steady: then it decides nothing."""
    began = time.monotonic()
    for _ in range(_TRIES):
        recorded, plain = _outcome(case, bed.recorded), _outcome(case, bed.plain)
        lines = differences(case, recorded, plain)
        lines += [f"{key}: {one[key]!r}" for one in (recorded, plain) for key in ("trouble", "all") if one.get(key)]
        if not lines or not differences(case, _outcome(case, bed.plain), plain):
            break
    else:
        lines.append(f"(two sessions without a recorder differ too, {_TRIES} times: the case is not steady)")
    word = "DIFFERS" if lines else "same"
    print(f"[{place[0]}/{place[1]}] {word:7} {time.monotonic() - began:6.1f} s  {case.name}", flush=True)
    for line in lines + [f"{name} = {value!r}" for name, value in recorded.items() if show]:
        print(f"          {line[:600]}", flush=True)
    return lines


def _outcome(case: Case, person: Person) -> Outcome:
    try:
        return case.play(person)
    except Exception as failure:  # whatever a client program or paramiko raises: a case that can't be played shows nothing
        return {"trouble": f"{type(failure).__name__}: {str(failure)[:300]}"}


if __name__ == "__main__":
    sys.exit(main())
