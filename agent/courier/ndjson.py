"""Records as the other side gets them, by whatever way: one JSON object a line, UTF-8, with ``key``, ``kind`` and ``body``."""

import json
from collections.abc import Iterable

from agent.courier.transport import Record


def line(record: Record) -> bytes:
    """One record with its newline."""
    value = {"key": record.key, "kind": record.kind, "body": record.body}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def lines(records: Iterable[Record]) -> bytes:
    """A whole batch."""
    return b"".join(map(line, records))
