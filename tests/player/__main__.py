"""`python -m tests.player`: ten minutes at a terminal as asciinema and its player in a browser play them; ends with a count."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from tests.hosts.root import DEFAULT_SUITE
from tests.player import command, live, session, viewer
from tests.player.browser import Browser, BrowserError
from tests.player.stage import FORMATS, PLAYER, SPOILS, Stage, staged
from tests.player.tally import Tally
from tests.player.tape import Tape
from tests.unit.recording_kit import IDENT

_RAW = "raw.bin"
Programs: TypeAlias = Sequence[command.Asciinema]


def main() -> int:
    """0 when all is as it was recorded, 1 when something is not, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.player", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--suite", default=DEFAULT_SUITE, help="the Debian whose asciinema and Chromium play (%(default)s)")
    parser.add_argument("--asciinema", type=Path, metavar="FILE", help="another asciinema too: a program that runs on that Debian")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write a PNG of the player here")
    parser.add_argument("--spoil", choices=sorted(SPOILS), help="make the export wrong in one way: shows that this would be seen")
    arguments = parser.parse_args()
    tally, tape = Tally(), session.ten_minutes()
    with staged(arguments.suite) as stage:
        if arguments.spoil:
            stage.spoil(arguments.spoil)
        paths = ["asciinema", *([stage.install(arguments.asciinema)] if arguments.asciinema else [])]
        programs = [command.asciinema(stage.bed.host, path) for path in paths]
        with Browser(stage.bed.host) as browser:
            browser.show(stage.served)
            versions = [program.version for program in programs] + [f"asciinema-player {PLAYER}", browser.version]
            print(", ".join(versions), flush=True)
            try:
                _ten_minutes(stage, browser, tape, programs, tally)
                _real(stage, browser, programs, tally)
            except BrowserError as failure:
                tally.add("the player came to an end", [str(failure)])
            tally.add("the browser's console, scripts and network are quiet", browser.complaints or [""])
            if arguments.picture:
                arguments.picture.write_bytes(browser.picture())
    print(f"{tally.checks} checks, {tally.failed} failed")
    if arguments.json:
        groups = [{"name": group.name, "checks": group.checks, "failed": group.complaints} for group in tally.groups]
        print(json.dumps({"versions": versions, "groups": groups, "checks": tally.checks, "failed": tally.failed}))
    return 1 if tally.failed else 0


def _ten_minutes(stage: Stage, browser: Browser, tape: Tape, programs: Programs, tally: Tally) -> None:
    stage.keep(tape)
    verdict = stage.verdict(IDENT)
    tally.same("the recording is sound", (verdict["state"], verdict["problems"]), ("sound", []))
    long = verdict["lasted_s"] >= session.MINUTES * 60
    tally.add("it lasted ten minutes", ["" if long else f"{verdict['lasted_s']} s"])
    print(
        f"           {verdict['lasted_s']} s, {len(tape.frames)} frames, {len(tape.raw)} bytes, {len(tape.sizes())} sizes",
        flush=True,
    )
    stage.lay(_RAW, tape.raw)
    text = browser.ask(f"decoded({_RAW!r})")  # by the browser's decoder, which is neither ours nor Python's
    for form in FORMATS:
        cast = stage.export(IDENT, form)
        _commands(stage, cast, form, programs, tally, (form, text, ""))
        viewer.watch(browser, cast, tape, tally, form)


def _real(stage: Stage, browser: Browser, programs: Programs, tally: Tally) -> None:
    """The same of a session that the recorder recorded."""
    ident, text, tape = live.recorded(stage)
    for form in FORMATS:
        cast = stage.export(ident, form)
        title = f"by ssh, {form}"
        _commands(stage, cast, form, programs, tally, (title, text, live.BEGIN))
        browser.ask(f"open({cast!r}, 1)")
        tally.add(f"{title}: the player ends with what the client saw", [viewer.end(browser, tape)])


def _commands(stage: Stage, cast: str, form: str, programs: Programs, tally: Tally, expected: tuple[str, str, str]) -> None:
    """``expected``: of what, its text, and the word behind which that begins."""
    title, text, begin = expected
    lines = [json.loads(line) for line in stage.bed.host.read(stage.path(cast)).decode().splitlines()[1:]]
    output = "".join(data for _at, code, data in lines if code == "o")
    tally.same_text(f"{title}: the text of the export", output[output.find(begin) + len(begin) :], text)
    for program in programs:
        if form in program.formats:
            for what, (status, found) in program.played(stage.bed.host, stage.path(cast)).items():
                tally.same_text(
                    f"{title}: {program.version} {what}, letter by letter", found[found.find(begin) + len(begin) :], text
                )
                tally.same(f"{title}: {program.version} {what}, its exit status", status, 0)


if __name__ == "__main__":
    sys.exit(main())
