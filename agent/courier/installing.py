"""What an enrolment leaves on the host: the courier's files, courier.yaml, and what the admin pinned of keys. Root's work."""

import base64
import binascii
import hashlib
import json
import os
import pwd
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from agent.config import Config
from agent.courier.enrolment import Enrolled
from agent.courier.identity import store
from agent.courier.places import Places
from agent.courier.settings import load_settings
from agent.errors import ConfigError, HostError, RefusedError, TidegateError
from agent.host import files
from agent.host.courier import ACCOUNT, share
from agent.trust import TrustedKey, keyring, load_keyring
from agent.trust.strictjson import canonical

_SSH_TYPE = re.compile(r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521)|sk-[a-z0-9-]+@openssh\.com)")
_OFFERED_MAX = 64
_CA_FILE_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class OfferedKey:
    """A key that the control plane says it signs grants with. ``jwk``: its public JWK, checked. ``pinned``: the admin named it."""

    key: TrustedKey
    jwk: Mapping[str, object]
    pinned: bool


@dataclass(frozen=True, slots=True)
class OfferedCa:
    """The control plane's SSH user CA: one line, its comment left out; ``fingerprint`` as ``ssh-keygen -l`` has it."""

    line: str
    fingerprint: str
    pinned: bool


def offered_keys(found: object, pins: Sequence[str]) -> list[OfferedKey]:
    """The usable keys of the JWK Set that came; others are left out.

    Raises:
        RefusedError: ``signing_key_absent``: one that was pinned is not among them.
    """
    entries = found.get("keys") if isinstance(found, dict) else None
    keys: list[OfferedKey] = []
    for entry in (entries if isinstance(entries, list) else [])[:_OFFERED_MAX]:
        try:
            (key,) = keyring({"keys": [entry]})
        except (ConfigError, TypeError):
            continue
        keys.append(OfferedKey(key, entry, key.thumbprint in pins))
    missing = sorted(set(pins) - {offered.key.thumbprint for offered in keys})
    if missing:
        raise RefusedError("signing_key_absent", f"the control plane does not name the key {missing[0]}; nothing was installed")
    return keys


def check_kids(offered: Sequence[OfferedKey], trusted: Iterable[TrustedKey]) -> None:
    """A kid comes from the control plane's TLS side. Two keys of one kid make the host refuse the whole of trust.d, revocations of
    others included.

    Raises:
        RefusedError: ``key_kid_twice``.
    """
    thumbprints = {key.kid: key.thumbprint for key in trusted}
    for each in offered:
        if each.pinned and thumbprints.setdefault(each.key.kid, each.key.thumbprint) != each.key.thumbprint:
            raise RefusedError("key_kid_twice", f"another key is trusted by the kid {each.key.kid!r}; nothing was installed")


def offered_ca(line: str, pin: str) -> OfferedCa | None:
    """The SSH CA that came; None where none did.

    Raises:
        RefusedError: ``ssh_ca_absent``: one was pinned, and another one or none came.
    """
    kind, _, rest = line.strip().partition(" ")
    blob = rest.partition(" ")[0]
    try:
        data = base64.b64decode(blob, validate=True)
        named = data[4 : 4 + struct.unpack_from(">I", data)[0]].decode("ascii")
    except (binascii.Error, struct.error, ValueError):
        named = ""
    if not _SSH_TYPE.fullmatch(kind) or named != kind:
        if pin:
            raise RefusedError("ssh_ca_absent", "the control plane names no SSH CA; nothing was installed")
        return None
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
    if pin and pin != fingerprint:
        raise RefusedError("ssh_ca_absent", f"the control plane's SSH CA is {fingerprint}, another one; nothing was installed")
    return OfferedCa(f"{kind} {blob}", fingerprint, bool(pin))


def courier_account() -> tuple[int, int]:
    """Its user and group. Raises HostError ``courier_account_missing``."""
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError as error:
        raise HostError("courier_account_missing", f"there is no account {ACCOUNT}") from error
    return account.pw_uid, account.pw_gid


def install_courier(config: Config, enrolled: Enrolled, host_id: str, transport: str) -> list[Path]:
    """The courier's files as its own user's, then courier.yaml, which it waits for. Returns what was written.

    Raises:
        HostError: ``courier_account_missing``, ``write_failed``.
    """
    uid, gid = courier_account()
    places = Places.of(config.paths)
    if not places.folder.is_dir():
        files.make_folder(places.folder, 0o711)
    share(config.paths)
    pair = enrolled.request.key, enrolled.certificate.encode("ascii")
    store(places, *pair, enrolled.ca.encode("ascii"), uid=uid, gid=gid)
    written = [places.key, places.certificate, places.ca]
    if not _says_the_same(places.settings, enrolled, host_id, transport):
        if files.exists(places.settings):
            kept = places.settings.with_name(places.settings.name + ".old")
            try:
                os.replace(places.settings, kept)  # noqa: PTH105
            except OSError as error:
                raise HostError("write_failed", f"{places.settings} can't be set aside: {error.strerror}") from error
            written.append(kept)
        files.atomic_write(places.settings, _settings(enrolled, host_id, transport).encode("ascii"), 0o644)
        written.append(places.settings)
    return written


def install_key(config: Config, offered: OfferedKey) -> Path | None:
    """One pinned key into trust.d, in a file of its own; None where the host trusts it already. Raises HostError, ConfigError."""
    if any(key.thumbprint == offered.key.thumbprint for key in load_keyring(config.paths.trust_dir)):
        return None
    path = config.paths.trust_dir / f"enrolled-{offered.key.thumbprint[:16].lstrip('-_')}.jwks"
    files.atomic_write(path, canonical({"keys": [dict(offered.jwk)]}) + b"\n", 0o644)
    return path


def install_ca(config: Config, offered: OfferedCa) -> Path | None:
    """The pinned SSH CA beside those that are there; None where it is among them. Raises HostError."""
    path = config.paths.ssh_user_ca
    old = files.read_bounded(path, _CA_FILE_MAX) or b""
    lines = old.decode("utf-8", "replace").splitlines()
    if any(line.split()[:2] == offered.line.split() for line in lines):
        return None
    joined = old if not old or old.endswith(b"\n") else old + b"\n"
    files.atomic_write(path, joined + offered.line.encode("ascii") + b"\n", 0o644)
    return path


def chosen_transport(enrolled: Enrolled, wanted: str | None) -> str:
    """``wanted``, where the control plane offers it; else NATS where it is offered and this host can speak it, else https.

    A control plane names NATS servers only where its admin runs a fleet by them, so they are what it offers first. Not being able
    to is no reason to fail: https always works.

    Raises:
        RefusedError: ``nats_not_offered``.
    """
    if wanted == "nats" and enrolled.nats is None:
        raise RefusedError("nats_not_offered", "the control plane names no NATS servers; nothing was installed")
    return wanted or ("nats" if enrolled.nats is not None and speaks("nats") else "https")


def speaks(transport: str) -> bool:
    """Whether what that transport needs is installed here."""
    return transport == "https" or find_spec("nats") is not None


def _settings(enrolled: Enrolled, host_id: str, transport: str) -> str:
    """courier.yaml. With nats the URL stays: certificates are renewed there."""
    lines = ["# Written by tidegate enroll; see tidegate.yaml(5).", f"transport: {transport}", f"url: {enrolled.url.url}"]
    lines.append(f"host_id: {_quoted(host_id)}")
    if transport == "nats" and enrolled.nats is not None:
        servers = ", ".join(map(_quoted, enrolled.nats.servers))
        lines.append(f"nats: {{servers: [{servers}], bucket: {_quoted(enrolled.nats.bucket)}}}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """As a double quoted word of YAML 1.2, which takes JSON's."""
    return json.dumps(text)


def _says_the_same(path: Path, enrolled: Enrolled, host_id: str, transport: str) -> bool:
    try:
        found = load_settings(path)
    except TidegateError:
        return False
    same = (found.transport, found.url, found.host_id) == (transport, enrolled.url, host_id)
    return same and (transport == "https" or found.nats == enrolled.nats)
