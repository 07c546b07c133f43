"""The host's end of the wire: a real host key, a real CSR, real signatures; nothing is opened anywhere."""

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent import policy, trust
from agent.model import Grant
from agent.trust import base64url, jwk
from enforcers import REGISTRY
from tests.control_plane.running import Answer, ControlPlane, answered

ISSUER = "https://access.example.com"
DECODERS = policy.decoders({enforcer.type: enforcer for enforcer in REGISTRY})


def csr(key: ec.EllipticCurvePrivateKey) -> str:
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode("ascii")


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode("ascii")


class Stream:
    """Open server-sent events: ``next()`` gives ``(id, data)`` of the next event."""

    def __init__(self, connection: http.client.HTTPSConnection, response: http.client.HTTPResponse) -> None:
        self._connection, self._response = connection, response
        self.epoch = response.headers.get("Tidegate-Stream", "")

    def lines(self) -> Iterator[str]:
        while line := self._response.readline():
            yield line.decode("utf-8").rstrip("\n")

    def next(self) -> tuple[int, str]:
        found: dict[str, str] = {}
        for line in self.lines():
            if not line and "data" in found:
                return int(found.get("id", "0")), found["data"]
            name, colon, value = line.partition(": ")
            if colon and name:
                found[name] = value
        raise EOFError("the stream has ended")

    def close(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # first: a thread that reads holds the response until the next heartbeat
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._response.close()
        self._connection.close()


class TestHost:
    """One host. ``enrol`` first."""

    __test__ = False

    def __init__(self, plane: ControlPlane, name: str) -> None:
        self.plane, self.name = plane, name
        self.key = trust.HostKey.unsaved()
        self.host_id = self.key.host_id
        self.token = base64url.encode(hashlib.sha256(self.host_id.encode()).digest())
        self.tls_key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = ""
        self.signing_keys: Mapping[str, Any] = {}
        self.ssh_ca = ""

    def invitation(self, **more: object) -> str:
        found = self.plane.ok("POST", "/v1/enrolment-tokens", {"name": self.name, **more}, who="root")
        return str(found["token"])

    def enrolment(self, token: str, **changed: object) -> dict[str, object]:
        """The body of an enrolment, with members as the caller wants them."""
        request = csr(self.tls_key)
        claims: dict[str, object] = {
            "iss": self.host_id,
            "aud": self.plane.hosts_url,
            "iat": int(time.time()),
            "csr_sha256": hashlib.sha256(request.encode()).hexdigest(),
            "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
        }
        claims.update(changed.pop("claims", {}))  # type: ignore[call-overload]  # a dict, by the callers
        body: dict[str, object] = {
            "token": token,
            "host_id": self.host_id,
            "host_key": jwk.to_public_jwk(jwk.public_key(self.key.private_jwk), self.key.thumbprint, [self.host_id]),
            "csr": request,
            "hostname": f"{self.name}.example.com",
            "version": "0.1.0",
            "proof": self.key.sign("enrolment+jwt", claims),
        }
        return body | changed

    def enrol(self, **more: object) -> "TestHost":
        answer = self.call("POST", "/v1/enroll", self.enrolment(self.invitation(**more)))
        assert answer.status == 200, answer.body
        self.certificate, self.signing_keys = answer.body["certificate"], answer.body["signing_keys"]
        self.ssh_ca = answer.body["ssh_user_ca"]
        return self

    def connection(self, timeout: float = 20.0) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.plane.ca_file))
        if self.certificate:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(pem(self.tls_key) + self.certificate)
                file.flush()
                context.load_cert_chain(file.name)
        return http.client.HTTPSConnection("localhost", self.plane.hosts_port, timeout=timeout, context=context)

    def call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, data, dict(headers or {}))
            return answered(connection.getresponse())

    def stream(self, last: int | None = None) -> Stream:
        connection = self.connection()
        connection.request("GET", "/v1/host/stream", headers={} if last is None else {"Last-Event-ID": str(last)})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream"
        return Stream(connection, response)

    def tokens(self, after: int = 0, wait: int = 0) -> Any:
        answer = self.call("GET", f"/v1/host/tokens?after={after}&wait={wait}")
        assert answer.status == 200, answer.body
        return answer.body

    def read(self, token: str) -> Grant:
        """The grant as tidegated reads it: verified under the keys that came with the enrolment."""
        verified = trust.verify(token.encode(), trust.keyring(self.signing_keys), typ=trust.TYP_GRANT)
        return trust.decode(verified, host_id=self.host_id, now_s=time.time(), decoders=DECODERS)

    def send(self, *records: Mapping[str, object]) -> Any:
        body = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        answer = self.call("POST", "/v1/host/records", body, {"Content-Type": "application/x-ndjson"})
        assert answer.status == 200, answer.body
        return answer.body

    def answer(self, jti: str, verdict: str = "accepted", code: str = "", key: str = "") -> dict[str, object]:
        about = {"source": "x.jws", "code": code, "reason": "", "field": "", "jti": jti, "at": "x"}
        value: dict[str, object] = {"verdict": verdict, **about}
        name = key or f"20261121T231642-answer-{jti}-{verdict}.json"
        return {"key": name, "kind": "answer", "body": {**value, "jws": self.key.sign("grant-answer+jwt", value)}}

    def receipt(self, jti: str, cause: str = "expired") -> dict[str, object]:
        claims = {"iss": self.host_id, "aud": ISSUER, "jti": f"receipt-{jti}", "grant": {"jti": jti}, "cause": cause}
        jws = self.key.sign(trust.TYP_RECEIPT, {**claims, "residue_count": 0})
        return {"key": f"20261121T231643-receipt-{jti}.jws", "kind": "receipt", "body": jws}


class Listening:
    """A thread that keeps what a stream brings, and when."""

    def __init__(self, host: TestHost) -> None:
        self._stream = host.stream()
        self.got: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError, ValueError, AttributeError, http.client.HTTPException):
            while True:
                _, token = self._stream.next()
                self.got.append((time.monotonic(), token))

    def close(self) -> None:
        self._stream.close()
