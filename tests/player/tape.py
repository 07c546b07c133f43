"""A session as somebody writes it down: what was shown when, and the file that the recorder would have made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent import trust
from agent.sessions.recording import Json, Kind, Writer
from tests.unit.recording_kit import meta, seal

_BLOCK_US, _SEAL_US = 1_000_000, 10_000_000  # as the recorder has it


@dataclass(frozen=True)
class Shown:
    """One frame: bytes of the terminal, a size or an event."""

    at_us: int
    kind: Kind
    data: bytes | tuple[int, int] | Mapping[str, Json]


@dataclass
class Tape:
    """Frames in the order of their times. ``now_us`` moves on with each."""

    columns: int = 80
    rows: int = 24
    now_us: int = 0
    frames: list[Shown] = field(default_factory=list)
    points: list[int] = field(default_factory=list)  # moments at which every terminal must show the same

    def wait(self, milliseconds: float) -> None:
        """Time goes by."""
        self.now_us += round(milliseconds * 1000)

    def out(self, data: bytes | str, milliseconds: float = 7.301) -> None:
        """The terminal shows this, a moment later."""
        self.wait(milliseconds)
        self.frames.append(Shown(self.now_us, Kind.OUT, data.encode() if isinstance(data, str) else data))

    def resize(self, columns: int, rows: int) -> None:
        """The window has another size, a moment later."""
        self.wait(3.007)
        self.columns, self.rows = columns, rows
        self.frames.append(Shown(self.now_us, Kind.RESIZE, (columns, rows)))

    def event(self, event: Mapping[str, Json]) -> None:
        """Something happened that is no output, a moment later."""
        self.wait(1.003)
        self.frames.append(Shown(self.now_us, Kind.EVENT, event))

    def look(self, milliseconds: float = 40.0) -> None:
        """A quiet moment, in the middle of which all terminals are compared."""
        self.points.append(self.now_us + round(milliseconds * 500))
        self.wait(milliseconds)

    @property
    def raw(self) -> bytes:
        """All that was shown."""
        return b"".join(frame.data for frame in self.frames if isinstance(frame.data, bytes))

    def sizes(self) -> list[tuple[int, tuple[int, int]]]:
        """When the window had another size, and which."""
        return [(frame.at_us, frame.data) for frame in self.frames if isinstance(frame.data, tuple)]

    def recorded(self, key: trust.HostKey) -> bytes:
        """The recording, by the recorder's own writer, sealed by a host's key about as often as there; IDENT is its name."""
        writer = Writer(meta(host=key.host_id, cols=80, rows=24), 0)
        data, blocks, seals = b"", _BLOCK_US, _SEAL_US
        for frame in self.frames:
            if frame.at_us >= blocks:
                data += writer.take()
                blocks = frame.at_us + _BLOCK_US
            if frame.at_us >= seals:
                data += writer.seal(seal(key, key.host_id, writer))
                seals = frame.at_us + _SEAL_US
            if isinstance(frame.data, bytes):
                writer.frame(frame.kind, frame.data, frame.at_us * 1000)
            elif isinstance(frame.data, tuple):
                writer.resize(*frame.data, frame.at_us * 1000)
            else:
                writer.event(frame.data, frame.at_us * 1000)
        writer.end("exit", self.now_us * 1000, 0)
        data += writer.take()
        return data + writer.seal(seal(key, key.host_id, writer, final=True))
