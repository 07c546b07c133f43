"""`python -m tests.survival`: the whole table, on a systemd host and on one without; ends with `N rows, M survivors`."""

import argparse
import json
import sys
import time
from collections.abc import Sequence

from tests.hosts.fallback import NamespaceHost
from tests.hosts.machine import Host
from tests.survival.rows import ROWS, Row
from tests.survival.stage import Verdict, play

KINDS: dict[str, type[Host]] = {"systemd": Host, "no systemd": NamespaceHost}


def main() -> int:
    """0 when nothing survived, 1 when something did, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.survival", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--sample", action="store_true", help="only the quick rows that `make test` plays")
    parser.add_argument("--only", metavar="TEXT", help="only rows whose name holds this")
    parser.add_argument("--kind", choices=KINDS, help="only on this kind of host")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if (not arguments.only or arguments.only in row.name) and (row.sample or not arguments.sample)]
    kinds = [arguments.kind] if arguments.kind else list(KINDS)
    found = [(kind, result) for kind in kinds for result in _play_kind(kind, rows)]
    survivors = sum(result.survived for _, result in found)
    if arguments.json:
        print(json.dumps({"rows": [_row(kind, result) for kind, result in found], "survivors": survivors}))
    print(f"{len(found)} rows, {survivors} survivors")
    return 1 if survivors else 0


def _play_kind(kind: str, rows: Sequence[Row]) -> list[Verdict]:
    calm = [row for row in rows if not row.alone]
    found: list[Verdict] = []
    for together in ([calm] if calm else []) + [[row] for row in rows if row.alone]:
        began = time.monotonic()
        print(f"{kind}: {len(together)} row(s), {together[0].name} ...", file=sys.stderr, flush=True)
        results = play(KINDS[kind], together)
        for result in results:
            print(_line(kind, result), flush=True)
        found += results
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def _line(kind: str, result: Verdict) -> str:
    ms = "" if result.ms is None else f"{result.ms} ms"
    return f"{kind:10}  {result.verdict:15}  {ms:>8}  {result.row.name}{f'  ({result.detail})' if result.detail else ''}"


def _row(kind: str, result: Verdict) -> dict[str, object]:
    return {
        "host": kind,
        "row": result.row.name,
        "verdict": result.verdict,
        "survived": result.survived,
        "ms": result.ms,
        "seen_ms": result.seen_ms,
        "detail": result.detail,
    }


if __name__ == "__main__":
    sys.exit(main())
