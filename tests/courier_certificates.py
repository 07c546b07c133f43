"""A small certificate authority for tests: of control planes, good and wrong, and of hosts."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Pair:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """One CA. ``ends_s``: seconds of life of what it signs, unless told otherwise."""

    def __init__(self, name: str = "test CA", ends_s: float = 86400.0) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.ends_s = ends_s
        now = datetime.datetime.now(datetime.UTC)
        self.pair = Pair(
            key,
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256()),
        )

    def server(self, host: str = "127.0.0.1", **life: float) -> Pair:
        """For a control plane at that name or address."""
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        return self._signed("control plane", name, ExtendedKeyUsageOID.SERVER_AUTH, **life)

    def client(self, uri: str, **life: float) -> Pair:
        """For a host."""
        return self._signed("host", x509.UniformResourceIdentifier(uri), ExtendedKeyUsageOID.CLIENT_AUTH, **life)

    def sign_request(self, csr: str, uri: str = "", ends_s: float | None = None) -> str:
        """What a control plane answers to a request: the certificate, PEM."""
        request = x509.load_pem_x509_csr(csr.encode())
        assert request.is_signature_valid
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        asked = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
        builder = self._builder(
            "host", x509.UniformResourceIdentifier(uri or asked), ExtendedKeyUsageOID.CLIENT_AUTH, ends_s=ends_s
        )
        certificate = builder.public_key(request.public_key()).sign(self.pair.key, hashes.SHA256())
        return certificate.public_bytes(Encoding.PEM).decode()

    def _signed(self, name: str, alternative: x509.GeneralName, use: x509.ObjectIdentifier, **life: float) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(name, alternative, use, **life).public_key(key.public_key())
        return Pair(key, builder.sign(self.pair.key, hashes.SHA256()))

    def _builder(
        self,
        name: str,
        alternative: x509.GeneralName,
        use: x509.ObjectIdentifier,
        began_s: float = 60.0,
        ends_s: float | None = None,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.pair.certificate.subject)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(seconds=began_s))
            .not_valid_after(now + datetime.timedelta(seconds=self.ends_s if ends_s is None else ends_s))
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        )


def write(folder: Path, authority: Authority, client: Pair) -> None:
    """The courier's three files."""
    for name, data, mode in (
        ("client.key", client.key_pem, 0o600),
        ("client.pem", client.pem, 0o644),
        ("ca.pem", authority.pair.pem, 0o644),
    ):
        (folder / name).write_bytes(data)
        (folder / name).chmod(mode)
