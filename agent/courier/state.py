"""What the courier has to remember over its own death: small JSON files in its own folder, whole or not at all.

Whatever is lost or damaged here costs a second delivery, never a first: the other side knows tokens and records by their names.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from agent.courier.transport import Cursor
from agent.errors import HostError
from agent.host.files import atomic_write, read_bounded

_FILE_MAX = 64 * 1024
_STREAM_MAX = 128
IDENT_MAX = (1 << 63) - 1
log = logging.getLogger("tidegate.courier")


def read_object(path: Path) -> dict[str, object]:
    """The JSON object of a file; an absent or damaged one is empty, and a damaged one is told."""
    try:
        data = read_bounded(path, _FILE_MAX)
        found = json.loads(data) if data else {}
    except (HostError, ValueError, RecursionError) as error:
        log.warning("%s is begun anew: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def write_object(path: Path, value: Mapping[str, object]) -> None:
    """Durable on return. Raises HostError ``write_failed``."""
    atomic_write(path, json.dumps(value, sort_keys=True).encode() + b"\n", 0o600)


def whole(value: object, most: int = IDENT_MAX) -> int:
    """A number from 0 to ``most`` as it is, anything else as 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else 0


class CursorFile:
    """The newest token that is safely in the inbox."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Cursor:
        """Where to go on; the beginning, where nothing is known."""
        found = read_object(self._path)
        stream = found.get("stream")
        if not isinstance(stream, str) or len(stream) > _STREAM_MAX:
            return Cursor()
        return Cursor(stream, whole(found.get("last")))

    def write(self, cursor: Cursor) -> None:
        """Raises HostError ``write_failed``."""
        write_object(self._path, {"stream": cursor.stream, "last": cursor.last})
