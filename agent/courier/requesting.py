"""A new key with its certificate request, and whether the certificate that came is of that key and of this host.

Imports cryptography, so only `tidegate enroll` and a renewal do; after a renewal the courier starts anew and is small again.
"""

import datetime
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from agent.errors import CourierError

CERTIFICATES_MAX = 16
# One after the other: cryptography has read several at once since version 39 only.
PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]{1,65536}-----END CERTIFICATE-----")
_CN_MAX = 64
# What cryptography raises, now or when it is asked for a part, of a certificate that is not as it should be.
_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Request:
    """``key``: PKCS#8 PEM, secret. ``csr``: PEM (RFC 2986). ``public``: the key's DER, to know its certificate by."""

    key: bytes = field(repr=False)
    csr: str
    public: bytes


def new_request(uri: str) -> Request:
    """A P-256 key and its request. P-256, since every TLS stack and every proxy that ends TLS takes it; Ed25519 few do."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, uri.rpartition(":")[2][:_CN_MAX])]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Request(secret, csr.public_bytes(Encoding.PEM).decode("ascii"), _spki(key.public_key()))


def certificates(pem: str, what: str) -> list[x509.Certificate]:
    """1 to 16 of them. Raises CourierError ``courier_certificate``."""
    try:
        found = [x509.load_pem_x509_certificate(one) for one in PEM.findall(pem.encode("ascii", "replace"))]
    except _MALFORMED as error:
        raise CourierError("courier_certificate", f"the {what} that came is none") from error
    if not 1 <= len(found) <= CERTIFICATES_MAX:
        raise CourierError("courier_certificate", f"the {what} that came has {len(found)} certificates")
    return found


def uri_of(certificate: x509.Certificate) -> str:
    """The one SAN URI. Raises CourierError ``courier_certificate``."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris: Sequence[str] = names.get_values_for_type(x509.UniformResourceIdentifier)
    except _MALFORMED as error:
        raise CourierError("courier_certificate", "the certificate names no host") from error
    if len(uris) != 1:
        raise CourierError("courier_certificate", f"the certificate has {len(uris)} SAN URIs, and must have one")
    return uris[0]


def checked(request: Request, uri: str, chain: str, ca: str, now: int) -> int:
    """When the certificate ends, seconds since the epoch. Raises CourierError ``courier_certificate``: it is not what was asked."""
    leaf = certificates(chain, "certificate")[0]
    for certificate in certificates(ca, "CA"):
        if not is_ca(certificate):
            raise CourierError("courier_certificate", "the CA that came is no CA's certificate")
    try:
        public = _spki(leaf.public_key())
    except _MALFORMED:
        public = b""
    if public != request.public:
        raise CourierError("courier_certificate", "the certificate is of another key")
    if uri_of(leaf) != uri:
        raise CourierError("courier_certificate", f"the certificate is not this host's: {uri_of(leaf)[:120]!a}")
    # By name: in cryptography 42 the times without a zone went away, before it those with one were not there.
    ends = (
        int(leaf.not_valid_after.replace(tzinfo=datetime.UTC).timestamp())
        if not hasattr(leaf, "not_valid_after_utc")
        else int(leaf.not_valid_after_utc.timestamp())
    )
    if ends <= now:
        raise CourierError("courier_certificate", "the certificate that came has ended; compare the clocks")
    return ends


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether it may sign others."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except _MALFORMED:
        return False


def normal(pem: str) -> bytes:
    """Its certificates and nothing else: OpenSSL would also take others from such a file, that nobody has looked at."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates(pem, "certificate"))


def succeeds(ca: str, believed: Sequence[x509.Certificate]) -> None:
    """Raises CourierError ``courier_certificate`` unless each CA is believed already or signed by one that is.

    Else whoever has a server's key for an hour, and not the CA's, could make the host believe him for good.
    """
    for certificate in certificates(ca, "CA"):
        if certificate not in believed and not any(_signed_by(certificate, each) for each in believed):
            raise CourierError(
                "courier_certificate", "the CA that came is another one, and the old one has not signed it: enrol again"
            )


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """cryptography does this by itself since version 40 only. A signature by a CA's certificate, not a whole path."""
    try:
        if certificate.issuer != issuer.subject:
            return False
        key, signature, data = issuer.public_key(), certificate.signature, certificate.tbs_certificate_bytes
        algorithm = certificate.signature_hash_algorithm
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, data, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(signature, data, padding.PKCS1v15(), algorithm)
        else:
            return False
    except (*_MALFORMED, InvalidSignature):
        return False
    return True


def fingerprint(der: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(der).hexdigest()


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of its DER, hex."""
    return fingerprint(certificate.public_bytes(Encoding.DER))


def _spki(key: object) -> bytes:
    public_bytes = getattr(key, "public_bytes", None)
    return bytes(public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)) if public_bytes else b""
