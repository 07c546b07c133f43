"""`python -m tests.bypass`: a tenant against the recorder, on a booted host; ends with `N tried, M escaped`."""

import argparse
import json
import sys
import time
from pathlib import Path

from tests.bypass.inside import INSIDE
from tests.bypass.outside import OUTSIDE
from tests.bypass.stage import PROGRAM, TENANTS, Attack, Stage, Verdict
from tests.sessions.bed import UNRECORDED, booted

ATTACKS: tuple[Attack, ...] = (*OUTSIDE, *INSIDE)


def main() -> int:
    """0 when nothing escaped and all was really tried, 1 when not, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.bypass", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object as the last line but one")
    parser.add_argument("--attack", action="append", metavar="TEXT", help="only attacks whose name holds this (may be given again)")
    parser.add_argument("--list", action="store_true", help="name the attacks, and do nothing")
    parser.add_argument(
        "--unrecorded", action="store_true", help="record nothing: shows that the attacks run, and that what gets past is seen"
    )
    arguments = parser.parse_args()
    chosen = [attack for attack in ATTACKS if not arguments.attack or any(text in attack.name for text in arguments.attack)]
    if arguments.list:
        print("\n".join(attack.name for attack in chosen))
        return 0
    if not chosen:
        parser.error("no attack has such a name")
    with booted(UNRECORDED if arguments.unrecorded else "required", TENANTS, _plant) as bed:
        verdicts = [
            _play(Stage(bed, not arguments.unrecorded), attack, (number, len(chosen))) for number, attack in enumerate(chosen, 1)
        ]
    escaped = sum(verdict.bad for verdict in verdicts)
    if arguments.json:
        told = [{"attack": verdict.attack.name, "ran": verdict.ran, "escaped": verdict.escaped} for verdict in verdicts]
        print(json.dumps({"attacks": told, "escaped": escaped}))
    print(f"{len(verdicts)} tried, {escaped} escaped")
    return 1 if escaped else 0


def _plant(root: Path) -> None:
    (root / PROGRAM.lstrip("/")).write_text(Path(__file__).with_name("tenant.py").read_text())


def _play(stage: Stage, attack: Attack, place: tuple[int, int]) -> Verdict:
    began = time.monotonic()
    verdict = stage.run(attack)
    word = "NOT RUN" if not verdict.ran else "ESCAPED" if verdict.escaped else "held"
    print(f"[{place[0]}/{place[1]}] {word:7} {time.monotonic() - began:6.1f} s  {attack.name}", flush=True)
    for line in verdict.escaped:
        print(f"          {line[:400]}", flush=True)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
