"""A recording in the forms that other programs read: asciicast v2 and v3, plain text, and NDJSON of what was done.

Each takes the items of :func:`agent.sessions.recording.read` and gives lines. Damage and gaps stay visible in each.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from agent.model.text import one_line
from agent.sessions.recording.format import Damage, Frame, Json, Kind, Seal, described, size_of
from agent.sessions.recording.plain import Plain

Items = Iterable[Frame | Seal | Damage]

_MARKED = frozenset({"gap", "limit", "pause", "resume", "warning"})
_COLUMNS, _ROWS = 80, 24  # for a recording without a terminal


def asciicast_v2(items: Items) -> Iterator[str]:
    """asciicast v2: a header line, then ``[seconds since the begin, code, data]`` (docs.asciinema.org/manual/asciicast/v2)."""
    for at_us, code, data in _cast(items, 2):
        yield data if not code else _line([at_us / 1e6, code, data])


def asciicast_v3(items: Items) -> Iterator[str]:
    """asciicast v3: as v2, with seconds since the event before, and the exit status at the end (.../asciicast/v3)."""
    before = 0
    for at_us, code, data in _cast(items, 3):
        yield data if not code else _line([round((at_us - before) / 1e6, 6), code, data])
        before = at_us


def _cast(items: Items, version: int) -> Iterator[tuple[int, str, str]]:
    """Header (no code) and events, with microseconds since the begin."""
    streams = _Streams()
    at_us, headed = 0, False
    for item in items:
        if isinstance(item, Frame):
            at_us = max(at_us, item.at_us)
            if item.kind is Kind.META and not headed:
                meta, headed = described(item), True
                streams.terminal = meta.get("kind") == "pty"
                yield 0, "", _line(_header(meta, version))
                continue
        if not headed:  # the first block is damaged: what follows can still be played
            headed = True
            yield 0, "", _line(_header({}, version))
        for code, data in _events(item, streams, version):
            yield at_us, code, data
    if not headed:
        yield 0, "", _line(_header({}, version))
    for code, data in streams.rest():
        yield at_us, code, data


def _events(item: Frame | Seal | Damage, streams: "_Streams", version: int) -> Iterator[tuple[str, str]]:
    if isinstance(item, Damage):
        yield "m", f"recording damaged at byte {item.offset}: {item.what}"
    elif isinstance(item, Seal):
        return
    elif item.kind in (Kind.OUT, Kind.ERR, Kind.INPUT):
        if text := streams.decoded(item):
            yield "i" if item.kind is Kind.INPUT else "o", text
    elif item.kind is Kind.RESIZE and (size := size_of(item)):
        yield "r", f"{size[0]}x{size[1]}"
    elif item.kind is Kind.EVENT and described(item).get("type") in _MARKED:
        yield "m", one_line(_said(described(item)))
    elif item.kind is Kind.END and version == 3:
        yield from streams.rest()
        yield "x", str(described(item).get("status", 0))


class _Streams:
    """A decoder for each stream: a character that two reads share is put together, whatever came on another stream between."""

    def __init__(self) -> None:
        self.terminal = True
        self._decoders: dict[Kind, codecs.IncrementalDecoder] = {}

    def decoded(self, frame: Frame) -> str:
        if frame.kind not in self._decoders:
            self._decoders[frame.kind] = codecs.getincrementaldecoder("utf-8")("replace")
        return self._lines(self._decoders[frame.kind].decode(frame.data))

    def rest(self) -> Iterator[tuple[str, str]]:
        for kind, decoder in self._decoders.items():
            if text := decoder.decode(b"", final=True):
                yield "i" if kind is Kind.INPUT else "o", text
        self._decoders = {}

    def _lines(self, text: str) -> str:
        """Without a terminal nobody has made CR LF of the newlines, which a player's terminal needs."""
        return text if self.terminal else text.replace("\n", "\r\n")


def _header(meta: Mapping[str, Json], version: int) -> dict[str, Json]:
    columns, rows = (_positive(meta.get("cols"), _COLUMNS), _positive(meta.get("rows"), _ROWS))
    began = meta.get("began")
    header: dict[str, Json] = {"version": version}
    term = meta.get("term") if isinstance(meta.get("term"), str) and meta.get("term") else None
    if version == 3:
        header["term"] = {"cols": columns, "rows": rows, **({"type": term} if term else {})}
    else:
        header |= {"width": columns, "height": rows}
    if isinstance(began, str) and (moment := _moment(began)) is not None:
        header["timestamp"] = moment
    if meta.get("id"):
        header["title"] = one_line(f"{meta.get('login')} ({meta.get('sub')}), {meta.get('id')}")
    if isinstance(meta.get("command"), str) and meta.get("command"):
        header["command"] = meta.get("command")
    if version == 2 and term:
        header["env"] = {"TERM": term}
    return header


def _positive(value: Json, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def _moment(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return None


def text(items: Items) -> Iterator[str]:
    """What a person would have read, line by line; stdout and stderr in the order they came. See :mod:`.plain`."""
    streams = {Kind.OUT: Plain(), Kind.ERR: Plain()}
    for item in items:
        if isinstance(item, Damage):
            yield f"[recording damaged at byte {item.offset}: {item.what}]"
        elif isinstance(item, Frame) and item.kind in streams:
            yield from streams[item.kind].feed(item.data)
        elif isinstance(item, Frame) and item.kind is Kind.EVENT and described(item).get("type") in _MARKED:
            yield f"[{one_line(_said(described(item)))}]"
    for stream in streams.values():
        yield from stream.end()


def _said(event: Mapping[str, Json]) -> str:
    """An event on one line: its type, then its members."""
    return " ".join([str(event.get("type")), *(f"{name}={value}" for name, value in event.items() if name != "type")])


def ndjson(items: Items) -> Iterator[str]:
    """What was done, without what was shown: META, every EVENT, sizes, END, and damage, one JSON object on each line."""
    for item in items:
        if isinstance(item, Damage):
            yield _line({"kind": "damage", "offset": item.offset, "code": item.code, "what": item.what})
        elif isinstance(item, Frame) and item.kind in (Kind.META, Kind.EVENT, Kind.END):
            yield _line({"kind": item.kind.name.lower(), "at_us": item.at_us, **_inner(described(item))})
        elif isinstance(item, Frame) and item.kind is Kind.RESIZE and (size := size_of(item)):
            yield _line({"kind": "resize", "at_us": item.at_us, "data": {"cols": size[0], "rows": size[1]}})


def _inner(found: Mapping[str, Json]) -> dict[str, Json]:
    """Apart, so that no member of what was recorded can pass for one of ours."""
    return {"data": found}


def _line(value: object) -> str:
    """ASCII: whoever looks at the export itself with cat or less is told nothing by what was recorded."""
    return json.dumps(value, ensure_ascii=True, separators=(", ", ": "))


FORMATS: Mapping[str, Callable[[Items], Iterator[str]]] = {
    "asciicast-v2": asciicast_v2,
    "asciicast-v3": asciicast_v3,
    "text": text,
    "ndjson": ndjson,
}
