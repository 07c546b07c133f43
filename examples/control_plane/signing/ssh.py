"""OpenSSH user certificates: for one person's key, until one request's grants end, with no more than they give."""

import base64
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType

from agent.model.fields import PRINCIPAL
from examples.control_plane.api.problems import Problem

_BACKDATED_S = 60
_RSA_BITS = (2048, 8192)
_LINE = re.compile(r"[a-z0-9@.-]{1,64} [A-Za-z0-9+/]{16,8000}={0,2}(?: [^\n\r]*)?\n?")
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | Ed25519PublicKey

# sshd gives what a certificate's extensions name, and nothing else (sshd(8)).
_EXTENSIONS = {
    "login": (b"permit-pty",),
    "exec": (),
    "sftp": (),
    "port-forwarding": (b"permit-port-forwarding",),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a certificate says. Times are seconds since the epoch."""

    principals: tuple[str, ...]
    key_id: str
    serial: int
    valid_after: int
    valid_before: int
    actions: tuple[str, ...]
    source_address: tuple[str, ...]


def principal_of(subject: str) -> str:
    """The subject itself where a principal may be so, else a name made from its hash: never two for one, nor one for two."""
    if PRINCIPAL.fullmatch(subject) and not subject.startswith("sub-"):
        return subject
    return f"sub-{hashlib.sha256(subject.encode()).hexdigest()[:40]}"


def public_key(line: str) -> PublicKey:
    """One bare OpenSSH public key.

    Raises:
        Problem: ``public_key_invalid``: not one, a certificate, or of a kind that is not certified here.
    """
    try:
        if not _LINE.fullmatch(line) or "-cert-" in line.split(" ", 1)[0]:
            raise ValueError("no such line")
        found = serialization.load_ssh_public_key(line.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as caught:
        raise Problem("public_key_invalid", "is no OpenSSH public key on one line", field="public_key") from caught
    if isinstance(found, rsa.RSAPublicKey) and not _RSA_BITS[0] <= found.key_size <= _RSA_BITS[1]:
        raise Problem("public_key_invalid", "an RSA key must have 2048 to 8192 bits", field="public_key")
    if not isinstance(found, PublicKey):
        raise Problem("public_key_invalid", "must be Ed25519, ECDSA or RSA", field="public_key")
    return found


def certify(ca: Ed25519PrivateKey, key: PublicKey, wanted: Wanted) -> str:
    """The certificate on one line, as it belongs into ``KEY-cert.pub``."""
    builder = (
        SSHCertificateBuilder()
        .public_key(key)
        .serial(wanted.serial)
        .type(SSHCertificateType.USER)
        .key_id(wanted.key_id.encode())
        .valid_principals([principal.encode() for principal in wanted.principals])
        .valid_after(wanted.valid_after - _BACKDATED_S)
        .valid_before(wanted.valid_before)
    )
    for name in sorted({extension for action in wanted.actions for extension in _EXTENSIONS[action]}):
        builder = builder.add_extension(name, b"")
    if wanted.source_address:
        builder = builder.add_critical_option(b"source-address", ",".join(wanted.source_address).encode())
    return builder.sign(ca).public_bytes().decode("ascii")


def public_line(ca: Ed25519PrivateKey) -> str:
    """The CA's public key as hosts take it."""
    form = serialization.PublicFormat.OpenSSH
    return ca.public_key().public_bytes(serialization.Encoding.OpenSSH, form).decode("ascii")


def fingerprint(line: str) -> str:
    """``SHA256:...`` as ssh-keygen -l shows it."""
    blob = base64.b64decode(line.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")
