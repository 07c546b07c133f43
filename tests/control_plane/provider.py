"""A real OpenID provider (npm's oidc-provider) on loopback, and a browser without a screen that fills in its forms.

The provider's modules are installed once, from our lock file, into the cache folder; made again when they are missing.
"""

import contextlib
import datetime
import hashlib
import html
import ipaddress
import json
import os
import re
import shutil
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.hosts import cache

HERE = Path(__file__).parent
CLIENT = "tidegate"
ALICE: dict[str, object] = {
    "name": "Alice Ng",
    "preferred_username": "alice",
    "email": "alice@example.com",
    "email_verified": True,
    "groups": ["contractors", "nothing-here"],
}


def modules() -> Path:
    """The folder with oidc-provider's modules. Skips where this machine has no node or npm."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("the real OpenID provider needs node and npm")
    sources = [HERE / "oidc" / name for name in ("package.json", "package-lock.json")]
    mark = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    made = cache.folder() / f"oidc-provider-{mark}"
    held = cache.lock(cache.folder() / "oidc-provider.lock", wait=True)
    try:
        if not (made / "made").exists():
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            for path in sources:
                shutil.copy(path, made)
            # --ignore-scripts: nothing of what is installed runs before it is used; the lock has every hash.
            argv = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(argv, cwd=made, check=True, capture_output=True, timeout=300)
            (made / "made").touch()
    finally:
        os.close(held)
    return made


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority for tests: its certificate's file, and how to trust it."""

    folder: Path
    ca: Path
    key: Path
    certificate: Path

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


def authority(folder: Path) -> Authority:
    """A new authority in ``folder``, with a server's key and certificate for 127.0.0.1."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    ca = _certificate(ca_name, ca_name, ca_key, ca_key, ca=True)
    leaf = _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")]), ca_name, key, ca_key, ca=False)
    found = Authority(folder, folder / "ca.pem", folder / "key.pem", folder / "certificate.pem")
    found.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    found.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    found.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return found


def _certificate(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=4))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if ca:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def signing_key(kid: str) -> tuple[ec.EllipticCurvePrivateKey, dict[str, object]]:
    """A provider's signing key, and its private JWK."""
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = jwt.algorithms.ECAlgorithm.to_jwk(key)
    return key, {**json.loads(numbers), "kid": kid, "use": "sig", "alg": "ES256"}


@dataclass(slots=True)
class RunningProvider:
    """The provider while it runs."""

    authority: Authority
    process: "subprocess.Popen[str]"
    accounts: Path
    jwks: Path
    issuer: str
    key: ec.EllipticCurvePrivateKey

    def account(self, name: str, claims: Mapping[str, object] | None) -> None:
        """Make, change or (None) remove an account."""
        known = json.loads(self.accounts.read_text()) if self.accounts.exists() else {}
        self.accounts.write_text(
            json.dumps({**{key: value for key, value in known.items() if key != name}, **({name: claims} if claims else {})})
        )

    def new_keys(self, kid: str) -> None:
        """The provider signs with another key from now on, and publishes that one alone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.key, jwk = signing_key(kid)
        self.jwks.write_text(json.dumps({"keys": [jwk]}))
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def sign(self, claims: Mapping[str, object], *, kid: str, **header: object) -> str:
        """Any token at all under the provider's own key."""
        return jwt.encode(dict(claims), self.key, algorithm="ES256", headers={"kid": kid, **header})


@contextlib.contextmanager
def running(
    folder: Path, given: Authority, back_channel: str = "", port: int = 0, trusts: Path | None = None
) -> Iterator[RunningProvider]:
    """Start the provider. ``back_channel`` is where it posts logout tokens, ``trusts`` the authority of whoever listens there."""
    key, jwk = signing_key("first")
    accounts, jwks = folder / "accounts.json", folder / "jwks.json"
    jwks.write_text(json.dumps({"keys": [jwk]}))
    told = {
        "modules": str(modules()),
        "key": str(given.key),
        "certificate": str(given.certificate),
        "accounts": str(accounts),
        "jwks": str(jwks),
        "client": CLIENT,
        "port": port,
        "back_channel": {"backchannel_logout_uri": back_channel, "backchannel_logout_session_required": True}
        if back_channel
        else {},
    }
    environment = {**os.environ, "TEST_PROVIDER": json.dumps(told), "NODE_EXTRA_CA_CERTS": str(trusts or given.ca)}
    with (folder / "provider.log").open("w") as log:
        process = subprocess.Popen(
            ["node", str(HERE / "oidc_provider.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            listens = process.stdout.readline().strip()
            assert listens.isdigit(), (folder / "provider.log").read_text()
            found = RunningProvider(given, process, accounts, jwks, f"https://127.0.0.1:{listens}", key)
            found.account("alice", ALICE)
            yield found
        finally:
            process.stdin.close()
            process.wait(10)


class Browser:
    """Follows redirects, keeps cookies, fills in forms."""

    def __init__(self, given: Authority) -> None:
        handlers = urllib.request.HTTPSHandler(context=given.context()), urllib.request.HTTPCookieProcessor(CookieJar())
        self._opener = urllib.request.build_opener(*handlers)

    def open(self, url: str, form: Mapping[str, str] | None = None) -> tuple[str, str]:
        """``(address in the end, page)``."""
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        with self._opener.open(url, data, timeout=10) as response:
            return response.geturl(), response.read().decode()

    def log_in(self, url: str, account: str) -> str:
        """Go there and do all that is asked for; returns the last page."""
        at, page = self.open(url)
        for _ in range(6):
            found = re.search(r"<form[^>]*action=\"([^\"]*)\"", page)
            if found is None:
                return page
            form = {name: html.unescape(value) for name, value in _hidden(page)}
            if 'name="login"' in page:
                form |= {"login": account, "password": "any"}
            if 'name="user_code"' in page and "user_code" not in form:
                raise AssertionError("the provider asks for a code: open verification_uri_complete")
            if "/device" in found[1] and "xsrf" in form:
                form |= {"confirm": "yes"}
            at, page = self.open(urllib.parse.urljoin(at, html.unescape(found[1])), form)
        raise AssertionError(f"the provider asks for ever: {page}")

    def cancel(self, url: str) -> None:
        """Go there and go away again, by the page's own link."""
        at, page = self.open(url)
        found = re.search(r'href="([^"]*/abort)"', page)
        assert found is not None, page
        self.open(urllib.parse.urljoin(at, html.unescape(found[1])))

    def log_out(self, issuer: str) -> None:
        """End the provider's own session, as a person does there."""
        at, page = self.open(f"{issuer}/session/end")
        found = re.search(r"<form[^>]*action=\"([^\"]*)\"", page)
        assert found is not None, page
        form = {name: html.unescape(value) for name, value in _hidden(page)}
        self.open(urllib.parse.urljoin(at, html.unescape(found[1])), {**form, "logout": "yes"})

    def refuse(self, url: str) -> str:
        """Go there and say no."""
        at, page = self.open(url)
        found = re.search(r"<form[^>]*action=\"([^\"]*)\"", page)
        assert found is not None
        form = {name: html.unescape(value) for name, value in _hidden(page)}
        at, page = self.open(urllib.parse.urljoin(at, html.unescape(found[1])), form)
        form = {name: html.unescape(value) for name, value in _hidden(page)}
        return self.open(urllib.parse.urljoin(at, html.unescape(found[1])), {**form, "abort": "yes"})[1]


def _hidden(page: str) -> Iterator[tuple[str, str]]:
    for tag in re.findall(r"<input[^>]*>", page):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and value and 'type="hidden"' in tag:
            yield name[1], value[1]
