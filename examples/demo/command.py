"""What both demos are as a command: the option, the verdict, the JSON at the end, the exit status."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

from agent.errors import TidegateError
from examples.demo.timeline import Timeline
from tests.hosts.errors import HostError

Figures = dict[str, object]


def run_as_command(name: str, description: str | None, story: Callable[[Timeline], Figures]) -> NoReturn:
    """Run ``story`` as `make NAME`; prints the timeline, and with --json one object as the last line: verdict, figures, steps.

    Exits 0 only if every line held.
    """
    parser = argparse.ArgumentParser(
        prog=f"make {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object on stdout; the timeline goes to stderr")
    as_json = parser.parse_args().json
    timeline = Timeline(quiet=as_json)
    try:
        figures = story(timeline)
    except (HostError, TidegateError, RuntimeError, subprocess.SubprocessError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"verdict": "fail", "error": str(error), "steps": timeline.steps}))
        sys.exit(1)
    verdict = "pass" if timeline.passed else "fail"
    timeline.title(f"\nVerdict: {verdict.upper()}")
    if as_json:
        print(json.dumps({"verdict": verdict, **figures, "steps": timeline.steps}), flush=True)
    sys.exit(0 if timeline.passed else 1)
