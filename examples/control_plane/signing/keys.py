"""The keys of this control plane, made once by `init`: below DATA/keys, for its own user alone."""

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.trust import KeyRing, keyring, read_private_jwk, write_private_jwk
from agent.trust import files as key_files
from agent.trust import jwk as jwks
from examples.control_plane.signing.ca import Authority, self_signed

SIGNING, CA_KEY, CA_CERTIFICATE, SSH_CA = "signing.jwk", "ca.key", "ca.pem", "ssh_user_ca"


@dataclass(frozen=True, slots=True)
class Keys:
    """All of them. Holds secrets: never log it."""

    signing: dict[str, object] = field(repr=False)
    ca: Authority = field(repr=False)
    ssh_ca: Ed25519PrivateKey = field(repr=False)
    issuer: str = ""

    def public_set(self) -> dict[str, object]:
        """The JWK Set that hosts put into trust.d."""
        key = jwks.public_key(self.signing)
        return {"keys": [jwks.to_public_jwk(key, str(self.signing["kid"]), [self.issuer])]}

    def thumbprint(self) -> str:
        """RFC 7638, of the signing key: what a host's admin pins."""
        return jwks.thumbprint(jwks.public_key(self.signing))

    def ring(self) -> KeyRing:
        """To look at our own tokens as a host does."""
        return keyring(self.public_set())


def create(folder: Path) -> None:
    """Make every key that is not there yet; none is ever replaced.

    Raises:
        ConfigError: ``key_file_unwritable``.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / SIGNING).exists():
        secret_key = Ed25519PrivateKey.generate()
        kid = f"cp-{jwks.thumbprint(secret_key.public_key())[:16]}"  # two control planes may be trusted by one host
        write_private_jwk(folder / SIGNING, jwks.to_private_jwk(secret_key, kid))
    if not (folder / CA_CERTIFICATE).exists():
        key = ec.generate_private_key(ec.SECP256R1())
        if not (folder / CA_KEY).exists():
            key_files.write_secret(folder / CA_KEY, _pem(key))
        stored = _ca_key(folder)
        certificate = self_signed(stored)
        key_files.write_secret(folder / CA_CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
    if not (folder / SSH_CA).exists():
        openssh = serialization.PrivateFormat.OpenSSH
        secret = Ed25519PrivateKey.generate().private_bytes(serialization.Encoding.PEM, openssh, serialization.NoEncryption())
        key_files.write_secret(folder / SSH_CA, secret)


def load(folder: Path, issuer: str) -> Keys:
    """Read them.

    Raises:
        ConfigError: one is missing, readable for others, or damaged.
    """
    signing = read_private_jwk(folder / SIGNING)
    certificate = x509.load_pem_x509_certificate(key_files.read_key_file(folder / CA_CERTIFICATE))
    ssh = serialization.load_ssh_private_key(key_files.read_key_file(folder / SSH_CA, secret=True), None)
    if not isinstance(ssh, Ed25519PrivateKey):
        raise TypeError(f"{folder / SSH_CA} must be an Ed25519 key")
    return Keys(signing, Authority(_ca_key(folder), certificate), ssh, issuer)


def fingerprint(certificate: x509.Certificate) -> str:
    """Hex SHA-256 of the DER: what `tidegate enroll --ca-fingerprint` takes."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _ca_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    found = serialization.load_pem_private_key(key_files.read_key_file(folder / CA_KEY, secret=True), None)
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{folder / CA_KEY} must be an EC key")
    return found


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
