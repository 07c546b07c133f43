"""``tidegate receipts verify``: a file from anywhere, its text shown on an admin's terminal."""

import json
import tempfile
from pathlib import Path

from click.testing import CliRunner, Result

from agent import trust
from agent.cli.main import cli
from agent.trust import base64url
from tests.fuzz.source import Source

MAX_LEN = 2048
WORDS = ("iss", "grant", "jti", "sub", "lateness_ms", "doors", "last_process", "ended", "cause", "null", "\\u001b", "\\u202e")
_HOST = "urn:host"
_PRIVATE, _PUBLIC = trust.generate_key("host", [_HOST])


def check(data: bytes) -> None:
    """Exit 0, 1 or 3 with a message, never a traceback; no control character reaches the terminal."""
    source = Source(data)
    kind = source.number(2)
    rest = source.take(source.left)
    token = rest if kind == 1 else _signed(rest)
    with tempfile.TemporaryDirectory() as folder:
        receipt, keys = Path(folder, "receipt"), Path(folder, "keys")
        receipt.write_bytes(token)
        keys.write_text(json.dumps({"keys": [_PUBLIC]}))
        for more in ([], ["--json"]):
            done = CliRunner().invoke(cli, ["receipts", "verify", str(receipt), "--keys", str(keys), *more])
            assert_told(done)
            assert kind != 1 or done.exit_code != 0 or token.startswith(b"ey")


def assert_told(done: Result) -> None:
    """What every command must do with whatever it was given."""
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in {0, 1, 3}, done.exit_code
    assert all(character.isprintable() or character == "\n" for character in done.output), ascii(done.output)
    assert done.exit_code == 0 or done.output.strip()


def _signed(payload: bytes) -> bytes:
    """Those bytes as a payload, JSON or not, under a good signature of the host's."""
    from agent.trust import jwk

    header = base64url.encode(b'{"alg":"EdDSA","kid":"host","typ":"teardown-receipt+jwt"}')
    signed = f"{header}.{base64url.encode(payload)}"
    return f"{signed}.{base64url.encode(jwk.private_key(_PRIVATE).sign(signed.encode()))}".encode()
