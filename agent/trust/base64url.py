"""Base64url without padding (RFC 7515 §2, RFC 4648 §5), in its one canonical spelling.

Python's decoder skips foreign characters and ignores stray low bits, so several texts give the same bytes. Here a text
is taken only when encoding its bytes gives that very text again: a token then has exactly one spelling.
"""

import base64
import binascii


def encode(data: bytes) -> str:
    """Bytes → base64url text, unpadded."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes | None:
    """Base64url text → bytes, or None when it is not canonical, unpadded base64url."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return None
    return data if encode(data) == text else None
