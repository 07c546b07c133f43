"""OCSF events over syslog: RFC 5424 messages, octet counting (RFC 6587), over TCP with TLS (RFC 5425)."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from examples.control_plane.config.outside import Syslog
from examples.control_plane.outside.posting import OutsideError

_FACILITY = 10  # security and authorisation
_SEVERITY = {0: 6, 1: 6, 2: 5, 3: 4, 4: 3, 5: 2}  # OCSF's severity_id to syslog's
_TIMEOUT_S = 10.0


def message(event: Mapping[str, Any], source: str, at_ms: int) -> bytes:
    """One RFC 5424 message with its octet count in front. The event itself is pure ASCII JSON, so no byte order mark is needed."""
    severity = _SEVERITY.get(event.get("severity_id", 0), 5)
    stamp = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"
    hostname = "".join(character if 33 <= ord(character) <= 126 else "-" for character in source)[:255] or "-"
    metadata = event.get("metadata")
    code = str(metadata.get("event_code") or "-") if isinstance(metadata, Mapping) else "-"
    ident = "".join(character if 33 <= ord(character) <= 126 else "-" for character in code)[:32]
    head = f"<{_FACILITY * 8 + severity}>1 {stamp} {hostname} tidegate - {ident} - "
    whole = head.encode("ascii") + json.dumps(event, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    return str(len(whole)).encode("ascii") + b" " + whole


class SyslogSink:
    """A connection that is kept. Syslog has no acknowledgement: what the kernel took counts as sent, so a cut may lose a batch."""

    def __init__(self, settings: Syslog) -> None:
        self._settings = settings
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, batch: Sequence[tuple[Mapping[str, Any], str, int]]) -> None:
        """Raises OutsideError; then the batch is sent again."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if self._reader is not None and self._reader.at_eof():
                    await self.close()
                if self._writer is None:
                    await self._connect()
                assert self._writer is not None  # noqa: S101  # it was just made
                self._writer.write(b"".join(message(*one) for one in batch))
                await self._writer.drain()
        except (OSError, TimeoutError) as caught:
            await self.close()
            raise OutsideError(f"syslog {self._settings.host}:{self._settings.port}: {type(caught).__name__}") from caught

    async def close(self) -> None:
        """Hang up."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 2)

    async def _connect(self) -> None:
        found = self._settings
        tls = ssl.create_default_context(cafile=str(found.ca) if found.ca else None) if found.tls else None
        self._reader, self._writer = await asyncio.open_connection(found.host, found.port, ssl=tls)
