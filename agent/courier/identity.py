"""The courier's key, certificate and CA on disk: exchanged as one, whatever is killed when. No cryptography is imported here.

Two files can't be renamed at once. So the new key and CA are written beside the old, and then the new certificate under a name that
means that all three are whole; from then on every start finishes the exchange (:func:`settle`).
"""

import base64
import binascii
import calendar
import contextlib
import os
import re
import time
from pathlib import Path

from agent.courier.places import Places
from agent.errors import ConfigError, HostError
from agent.host.files import atomic_write, read_bounded, remove, sync_folder

_NEW = ".new"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]{1,65536})-----END CERTIFICATE-----")
_SEQUENCE, _INTEGER, _VERSION, _UTC, _GENERALIZED = 0x30, 0x02, 0xA0, 0x17, 0x18
_PEM_MAX = 256 * 1024
_LAST = 253_402_300_799  # seconds since the epoch: the end of the year 9999


def store(places: Places, key: bytes, certificate: bytes, ca: bytes, *, uid: int = 0, gid: int = 0) -> None:
    """The three files, exchanged as one, durable. ``uid`` and ``gid`` count for root. Raises HostError."""
    settle(places)
    atomic_write(_new(places.key), key, 0o600, uid=uid, gid=gid)
    atomic_write(_new(places.ca), ca, 0o644, uid=uid, gid=gid)
    atomic_write(_new(places.certificate), certificate, 0o644, uid=uid, gid=gid)
    settle(places)


def settle(places: Places) -> None:
    """Finish an exchange that was begun whole, and forget one that was not. HostError ``write_failed``, ``remove_failed``."""
    rest = (places.key, places.ca)
    if not _new(places.certificate).exists():
        for path in rest:
            remove(_new(path))
        return
    try:
        for path in (*rest, places.certificate):
            with contextlib.suppress(FileNotFoundError):  # done before
                os.replace(_new(path), path)  # noqa: PTH105
            sync_folder(path.parent)
    except OSError as error:
        raise HostError("write_failed", f"{places.folder}: the new certificate can't be put in place: {error.strerror}") from error


def validity(path: Path) -> tuple[int, int]:
    """From when until when the first certificate of a PEM file is valid, seconds since the epoch (RFC 5280 §4.1.2.5).

    Raises:
        ConfigError: ``courier_certificate_invalid``.
    """
    try:
        found = _PEM.search(read_bounded(path, _PEM_MAX) or b"")
        if found is None:
            raise ValueError("no certificate in it")
        return _validity(base64.b64decode(b"".join(found[1].split()), validate=True))
    except (HostError, ValueError, IndexError, binascii.Error) as error:
        raise ConfigError("courier_certificate_invalid", f"holds no certificate that can be read: {error}", path=path) from error


def _validity(der: bytes) -> tuple[int, int]:
    """Only the way to the two times is read: SEQUENCE { SEQUENCE { [0]?, INTEGER, SEQUENCE, SEQUENCE, SEQUENCE { time, time"""
    _, start, _ = _element(der, 0, _SEQUENCE)
    _, at, _ = _element(der, start, _SEQUENCE)
    if der[at] == _VERSION:
        at = _element(der, at, _VERSION)[2]
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):
        at = _element(der, at, tag)[2]
    _, at, _ = _element(der, at, _SEQUENCE)
    first, at = _time(der, at)
    last, _ = _time(der, at)
    return first, last


def _element(der: bytes, at: int, *tags: int) -> tuple[int, int, int]:
    """Its tag, where its content begins, where it ends."""
    tag, length, begin = der[at], der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + count], "big"), begin + count
    if tag not in tags or begin + length > len(der):
        raise ValueError("it is no X.509 certificate")
    return tag, begin, begin + length


def _time(der: bytes, at: int) -> tuple[int, int]:
    tag, begin, end = _element(der, at, _UTC, _GENERALIZED)
    text = der[begin:end].decode("ascii")
    if tag == _UTC:
        text = ("19" if text[:2] >= "50" else "20") + text
    seconds = calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))
    if seconds > _LAST:  # strptime takes second 61, and with it the year 10000
        raise ValueError("its time is none")
    return seconds, end


def _new(path: Path) -> Path:
    return path.with_name(path.name + _NEW)
