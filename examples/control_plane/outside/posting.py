"""JSON posted to an admin's URL: signed, bounded in time and bytes, no redirect followed, no proxy, the certificate checked."""

import hashlib
import hmac
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from agent.errors import ConfigError
from agent.trust import files
from examples.control_plane.config.outside import Webhook

ANSWER_MAX = 64 * 1024


class OutsideError(Exception):
    """The other side can't be reached, or answers what it must not."""


def secret(path: Path) -> bytes:
    """A file's content without the newline. Raises OutsideError: missing, or others may read it."""
    try:
        found = files.read_key_file(path, secret=True).strip()
    except ConfigError as caught:
        raise OutsideError(str(caught)) from caught
    if not found:
        raise OutsideError(f"{path} is empty")
    return found


def signed(key: bytes, body: bytes, at: int) -> str:
    """What stands in ``Tidegate-Signature``: ``t=TIME,v1=HEX``, HMAC-SHA-256 over ``TIME.BODY``; an old time is to be refused."""
    return f"t={at},v1={hmac.new(key, str(at).encode() + b'.' + body, hashlib.sha256).hexdigest()}"


async def post(hook: Webhook, value: Mapping[str, object]) -> Mapping[str, object]:
    """The answer's JSON object; an empty one where a 2xx has no body.

    Raises:
        OutsideError: anything but that, within the hook's timeout.
    """
    body = json.dumps(value, ensure_ascii=True, sort_keys=True).encode("ascii")
    headers = {"Content-Type": "application/json", "Tidegate-Signature": signed(secret(hook.secret_file), body, int(time.time()))}
    status, data = await send(hook.url, body, headers, timeout_s=hook.timeout_s, ca=hook.ca)
    if not 200 <= status < 300:
        raise OutsideError(f"{hook.url} answers {status}")
    try:
        found = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError) as caught:
        raise OutsideError(f"{hook.url} answers no JSON") from caught
    if not isinstance(found, dict):
        raise OutsideError(f"{hook.url} answers no object")
    return found


async def send(url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, ca: Path | None) -> tuple[int, bytes]:
    """Status and body of a POST. Raises OutsideError."""
    try:
        tls = ssl.create_default_context(cafile=str(ca) if ca else None) if url.startswith("https:") else True
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), trust_env=False) as session,
            session.post(url, data=body, headers=headers, ssl=tls, allow_redirects=False) as response,
        ):
            data = await response.content.read(ANSWER_MAX + 1)
            while len(data) <= ANSWER_MAX and (more := await response.content.read(ANSWER_MAX + 1 - len(data))):
                data += more
            if len(data) > ANSWER_MAX:
                raise OutsideError(f"{url} answers too much")
            return response.status, data
    except (aiohttp.ClientError, TimeoutError, OSError) as caught:
        raise OutsideError(f"{url}: {type(caught).__name__}") from caught
