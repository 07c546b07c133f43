"""sessions play and watch: a recorded terminal on the person's own, after the fact or while it happens."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from agent.cli.output import json_option, reporting, show
from agent.cli.recordings import Recording, locate
from agent.cli.screen import Screen, on_terminal
from agent.errors import HostError
from agent.host.inotify import Changes
from agent.model.text import one_line
from agent.sessions.recording import Damage, Frame, Kind, Records, Seal
from agent.sessions.recording.catalogue import Place, being_written, places
from agent.sessions.recording.format import BLOCK, CHAIN_BYTES, described
from agent.sessions.recording.plain import Plain
from agent.sessions.recording.reader import CHUNK, unpacked

Item = Frame | Seal | Damage

_LEAD_US = 2_000_000  # of a search: shown before what was found
_SO_FAR = 256 * 1024  # bytes of the file that the screen so far is made of
_CLEARS = (b"\x1b[2J", b"\x1b[H\x1b[J", b"\x1b[?1049h", b"\x1b[?1047h", b"\x1b[?47h", b"\x1bc")
_CLEAN = "\x1b[H\x1b[2J"


@click.command()
@click.argument("ident", metavar="ID")
@click.option("--speed", type=click.FloatRange(0.01, 1000), default=1.0, show_default=True, help="This many times as fast.")
@click.option("--idle-limit", type=click.FloatRange(0), metavar="SECONDS", help="Wait no longer than this where nothing happens.")
@click.option("--search", metavar="TEXT", help="Begin where TEXT was first shown. With --json: every line that has it, and when.")
@json_option
@click.pass_obj
@reporting
def play(config_file: Path | None, ident: str, speed: float, idle_limit: float | None, search: str | None, as_json: bool) -> None:
    """Play a recording on this terminal, as it was. Ctrl-C stops.

    It only draws: what would make this terminal answer, or change its title, clipboard or keyboard, is left out.
    """
    if as_json and search is None:
        raise click.UsageError("--json goes with --search TEXT; `tidegate sessions export` gives the recording itself")
    path = locate(config_file, ident)
    found = list(_found(path, search)) if search is not None else []
    if search is not None and as_json:
        show({"id": path.stem, "search": search, "matches": found}, as_json, str)
        return
    if search is not None and not found:
        raise HostError("recording_text_not_found", f"{one_line(search, 64)!r} was never shown in {path.stem}")
    begin_us = max(0, round(float(str(found[0]["at_s"])) * 1e6) - _LEAD_US) if found else 0
    with Recording(path) as recording, on_terminal("`tidegate sessions export ID --format text`") as screen:
        _play(recording.items(), screen, begin_us, speed, idle_limit)
        screen.note(_ended(screen, recording.running))
    recording.check()


def _play(items: Iterable[Item], screen: Screen, begin_us: int, speed: float, idle_limit: float | None) -> None:
    """What came before ``begin_us`` is drawn at once; after that each frame at its time, late ones at once."""
    at_us, due = begin_us, time.monotonic()
    for item in items:
        if isinstance(item, Frame) and item.at_us > at_us:
            wait = (item.at_us - at_us) / 1e6
            due += (wait if idle_limit is None else min(wait, idle_limit)) / speed
            at_us = item.at_us
            time.sleep(max(0.0, due - time.monotonic()))
        screen.show(item)


def _ended(screen: Screen, running: bool) -> str:
    if screen.end:
        return f"{screen.end.get('why', 'ended')}"
    return "still going on: this is what there is so far" if running else "the recording has no end: it was cut here"


def _found(path: Path, search: str) -> Iterator[dict[str, object]]:
    """When each line that has the text was complete, and the line. Case does not matter."""
    wanted = search.casefold()
    with Recording(path) as recording:
        streams = {Kind.OUT: Plain(), Kind.ERR: Plain()}
        at_us = 0
        for item in recording.items():
            if isinstance(item, Frame) and item.kind in streams:
                at_us = item.at_us
                yield from _matching(streams[item.kind].feed(item.data), wanted, at_us)
        for stream in streams.values():
            yield from _matching(stream.end(), wanted, at_us)


def _matching(lines: Iterable[str], wanted: str, at_us: int) -> Iterator[dict[str, object]]:
    return ({"at_s": at_us / 1e6, "line": line} for line in lines if wanted in line.casefold())


@click.command()
@click.argument("ident", metavar="ID")
@json_option
@click.pass_obj
@reporting
def watch(config_file: Path | None, ident: str, as_json: bool) -> None:
    """Look over a session's shoulder while it goes on; ends with it. Ctrl-C leaves, and leaves the session alone.

    First what is on its screen, as far as the last 256 KiB tell. With --json nothing is shown: it waits, and says how it ended.
    """
    path = locate(config_file, ident)
    with Recording(path) as recording, Changes(path) as changes:
        if as_json:
            last = _last(_live(recording, changes, _beginning(recording)[0]))
            show({"id": recording.ident, "ended": bool(last), "end": last}, True, str)
            return
        with on_terminal("`tidegate sessions export ID --format text`") as screen:
            try:
                _watch(recording, changes, screen)
                screen.note(_ended(screen, running=False))
            except KeyboardInterrupt:
                screen.note("left; the session goes on")
    recording.check()


def _watch(recording: Recording, changes: Changes, screen: Screen) -> None:
    parser, whole = _beginning(recording)
    so_far = list(unpacked(parser.feed(_rest(recording, parser.offset))))
    screen.put(_CLEAN)
    for item in so_far if whole else _from_last_clear(so_far):
        screen.show(item)
    if not screen.end:
        for item in _live(recording, changes, parser):
            screen.show(item)


def _live(recording: Recording, changes: Changes, parser: Records) -> Iterator[Item]:
    """Items as they come, until the END, or until nobody writes the file any more."""
    while True:
        writing = being_written(recording.file)  # before the read: what it wrote last is then read too
        while data := recording.file.read(CHUNK):
            for item in unpacked(parser.feed(data)):
                yield item
                if isinstance(item, Damage):
                    recording.damage.append(item)
                if isinstance(item, Frame) and item.kind is Kind.END:
                    return
        if writing is False:
            return
        changes.wait()


def _last(items: Iterable[Item]) -> dict[str, object]:
    """The END's object; empty when there is none."""
    return next((dict(described(item)) for item in items if isinstance(item, Frame) and item.kind is Kind.END), {})


def _rest(recording: Recording, offset: int) -> bytes:
    """From there to the end; the file's position is then there."""
    recording.file.seek(offset)
    return b"".join(iter(lambda: recording.file.read(CHUNK), b""))


def _beginning(recording: Recording) -> tuple[Records, bool]:
    """A parser for about the last 256 KiB, and whether that is the whole recording. The file's position is where it begins."""
    size = os.fstat(recording.file.fileno()).st_size
    first: Place | None = None
    before: Place | None = None
    for place in places(recording.file, size):
        usable = place.what == BLOCK and (before is None or before.what == BLOCK)  # the chain before it stands in the file
        if usable and (first is None or first.offset < size - _SO_FAR):
            first = place
        before = place
    if first is None or first.seq == 0:
        recording.file.seek(0)
        return Records(), True
    recording.file.seek(first.offset)
    chain = os.pread(recording.file.fileno(), CHAIN_BYTES, first.offset - CHAIN_BYTES)
    return Records((first.offset, first.seq, chain)), False


def _from_last_clear(items: list[Item]) -> Iterator[Item]:
    """Without what the screen was cleared of since; where it never was, from a line's begin."""
    shown = [(index, item) for index, item in enumerate(items) if isinstance(item, Frame) and item.kind is Kind.OUT]
    for index, frame in reversed(shown):
        at = max(frame.data.rfind(clear) for clear in _CLEARS)
        if at >= 0:
            yield Frame(frame.kind, frame.at_us, frame.data[at:])
            yield from items[index + 1 :]
            return
    for index, frame in shown:
        if (at := frame.data.find(b"\n")) >= 0:
            yield Frame(frame.kind, frame.at_us, frame.data[at + 1 :])
            yield from items[index + 1 :]
            return
    yield from items
