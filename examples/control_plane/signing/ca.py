"""The control plane's own certificate authority for TLS (RFC 5280): its servers' certificates, and hosts' client certificates."""

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.courier.places import HOST_URI
from examples.control_plane.api.problems import Problem

CA_DAYS = 3650
SERVER_DAYS = 30
CSR_MAX = 8 * 1024  # characters
PLANE_URI = "urn:tidegate:control-plane"  # no host has it: theirs go on with 43 characters behind HOST_URI
_BACKDATED = timedelta(minutes=2)  # for clocks that are behind
_CURVES = ("secp256r1", "secp384r1")


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA's key and certificate. Holds a secret: never log it."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    def pem(self) -> str:
        """The CA's certificate."""
        return pem(self.certificate)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made: PEM, serial in hex, end in seconds since the epoch."""

    pem: str
    serial: str
    not_after: int


def self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The CA's own certificate; it may sign end certificates only."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tidegate control plane CA")])
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _builder(name, name, key.public_key(), now, now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def server_certificate(authority: Authority, names: Sequence[str], days: int = SERVER_DAYS) -> tuple[str, str]:
    """A new key and certificate for a listener reached under these names: (chain PEM, key PEM)."""
    return _pair(authority, [_general_name(name) for name in names], ExtendedKeyUsageOID.SERVER_AUTH, days)


def plane_certificate(authority: Authority) -> tuple[str, str]:
    """The same as a client: the control plane's own, by which a broker knows it."""
    return _pair(authority, [x509.UniformResourceIdentifier(PLANE_URI)], ExtendedKeyUsageOID.CLIENT_AUTH, SERVER_DAYS)


def _pair(authority: Authority, names: Sequence[x509.GeneralName], purpose: x509.ObjectIdentifier, days: int) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    made = _end(authority, key.public_key(), x509.SubjectAlternativeName(names), purpose, timedelta(days=days))
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.pem + authority.pem(), secret.decode("ascii")


def client_certificate(authority: Authority, csr_pem: str, host: str, life_s: int) -> Issued:
    """A certificate for the key of a CSR (RFC 2986), naming one host by its token; whatever else the CSR asks for is left out.

    Raises:
        Problem: ``csr_invalid``.
    """
    if len(csr_pem) > CSR_MAX:
        raise Problem("csr_invalid", f"the request is longer than {CSR_MAX} characters", field="csr")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode("ascii"))
        public = csr.public_key()
        good = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as caught:
        raise Problem("csr_invalid", "is no PEM certificate request", field="csr") from caught
    if not good:
        raise Problem("csr_invalid", "is not signed by its own key", field="csr")
    curve = isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES
    if not (curve or isinstance(public, Ed25519PublicKey)):
        raise Problem("csr_invalid", "its key must be P-256, P-384 or Ed25519", field="csr")
    assert isinstance(public, ec.EllipticCurvePublicKey | Ed25519PublicKey)  # noqa: S101  # as was just checked
    sans = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(HOST_URI + host)])
    return _end(authority, public, sans, ExtendedKeyUsageOID.CLIENT_AUTH, timedelta(seconds=life_s))


def pem(certificate: x509.Certificate) -> str:
    """PEM text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _end(
    authority: Authority,
    public: ec.EllipticCurvePublicKey | Ed25519PublicKey,
    sans: x509.SubjectAlternativeName,
    purpose: x509.ObjectIdentifier,
    life: timedelta,
) -> Issued:
    now = datetime.now(UTC)
    issuer = authority.certificate.subject
    own = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = (
        _builder(x509.Name([]), issuer, public, now - _BACKDATED, now + life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(sans, critical=True)  # RFC 5280 §4.2.1.6: critical where the subject is empty
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Issued(pem(made), f"{made.serial_number:x}", int(made.not_valid_after_utc.timestamp()))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey | Ed25519PublicKey,
    begin: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)
