"""A recording file that anybody may have changed: its reader, its judge, its exports, and the filter before a person's terminal."""

import io
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from agent.errors import UntrustedError
from agent.model.text import unseen
from agent.sessions.recording import Damage, Frame, Kind, Seal, read, recover, verify
from agent.sessions.recording.catalogue import summary
from agent.sessions.recording.export import FORMATS
from agent.sessions.recording.format import FRAME_MAX, PAYLOAD_MAX
from agent.sessions.recording.harmless import Harmless

MAX_LEN = 8192
WORDS = ("TGREC\x01\n", "\x1b]52;c;", "\x1b[6n", "\x1b[?1049h", "\x1bP", "\x1b\\", '{"type":"gap"}')
_PASSED = re.compile(r"\x1b(?:[78DEHM]|[()*+][0-9A-Za-z<=>]|#[34568]|\[[?!]?[0-9;:]*[ ]?[A-Za-z`@])")
_TYPES_BACK = re.compile(r"\x1b(?:[PX^_\]Z]|\[[?>=]?[0-9;]*[nctxiq](?<! q))")


def check(data: bytes) -> None:
    """Damage is told, nothing raises, nothing unsealed is sound, and only what draws reaches a terminal."""
    found = list(read(io.BytesIO(data)))
    assert all(isinstance(item, Frame | Seal | Damage) for item in found)
    assert all(len(item.data) <= FRAME_MAX for item in found if isinstance(item, Frame))
    for export in FORMATS.values():
        assert not any(map(unseen, "".join(export(found))))
    _drawn(b"".join(item.data for item in found if isinstance(item, Frame)))
    _drawn(data)
    with tempfile.NamedTemporaryFile(suffix=".tgr") as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        verdict = verify(path, _nobody)
        assert not verdict.ok and verdict.problems and verdict.sealed_through is None
        assert all(0 <= problem.offset <= len(data) for problem in verdict.problems)
        assert summary(path).size == len(data)
        _gone_on(path, data)


def _nobody(_jws: bytes) -> Mapping[str, object]:
    raise UntrustedError("unknown_key", "no key is trusted")


def _gone_on(path: Path, data: bytes) -> None:
    """Whatever can be gone on with is sound in itself afterwards."""
    try:
        writer, size = recover(path, 0)
    except ValueError:
        return
    assert size <= len(data)
    if not writer.ended:
        writer.frame(Kind.OUT, b"x" * PAYLOAD_MAX, 1)
    again = list(read(io.BytesIO(data[:size] + writer.take())))
    assert not [item for item in again if isinstance(item, Damage) and item.code != "frame"]


def _drawn(said: bytes) -> None:
    whole, pieces = Harmless(), Harmless()
    shown = whole.feed(said)
    assert "".join(pieces.feed(said[at : at + 3]) for at in range(0, len(said), 3)) == shown
    assert not re.search(r"[\x00-\x06\x10-\x1a\x1c-\x1f\x7f-\x9f]", shown)
    assert "\x1b" not in _PASSED.sub("", shown) and not _TYPES_BACK.search(shown), shown
