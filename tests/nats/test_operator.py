"""A server that knows no host by name: each brings a JWT, signed at enrolment, and its permissions come of one template."""

import asyncio
import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nats.errors
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client

from agent.courier.natslink import Link
from agent.courier.natssettings import NatsSettings
from agent.courier.natswire import parse_credentials
from agent.errors import CourierError
from agent.trust.jwk import raw_public
from examples.control_plane.nats_config import permissions
from tests.nats.bed import ALICE, BOB
from tests.nats.server import Server

KINDS = {"O": 14 << 3, "A": 0, "U": 20 << 3}
OPEN = {"subs": -1, "data": -1, "payload": -1}


@dataclass(frozen=True)
class Nkey:
    """A key of an operator, account or user."""

    kind: str
    raw: bytes

    @property
    def key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.raw)

    @property
    def public(self) -> str:
        return _text(bytes([KINDS[self.kind]]) + raw_public(self.key.public_key()))

    @property
    def seed(self) -> str:
        prefix = KINDS[self.kind]
        return _text(bytes([18 << 3 | prefix >> 5, (prefix & 31) << 3]) + self.raw)

    def sign(self, subject: str, name: str, claims: dict[str, object]) -> str:
        body = {"jti": secrets.token_hex(8), "iat": 1795300000, "iss": self.public, "sub": subject, "name": name, "nats": claims}
        text = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
        return f"{text}.{_b64(self.key.sign(text.encode()))}"


def make(kind: str) -> Nkey:
    return Nkey(kind, hashlib.sha256(secrets.token_bytes(32)).digest())


def _text(raw: bytes) -> str:
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _part(value: object) -> str:
    return _b64(json.dumps(value).encode())


class Operated:
    """The server, and the key that signs hosts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, Server(folder)
        operator, self.account, self.signer = make("O"), make("A"), make("A")
        marked = "x" * 43
        allowed = {
            side: {"allow": [subject.replace(marked, "{{name()}}") for subject in subjects]}
            for side, subjects in permissions(marked).items()
        }
        template = {"pub": allowed["publish"], "sub": allowed["subscribe"], **OPEN}
        scope = {"kind": "user_scope", "key": self.signer.public, "role": "host", "template": template}
        limits = {**OPEN, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
        account = operator.sign(
            self.account.public, "HOSTS", {"limits": limits, "signing_keys": [scope], "type": "account", "version": 2}
        )
        config = {
            "listen": self.server.listen,
            "operator": operator.sign(operator.public, "operator", {"type": "operator", "version": 2}),
            "resolver": "MEMORY",
            "resolver_preload": {self.account.public: account},
        }
        self.server.configure(json.dumps(config))

    def creds(self, token: str, signer: Nkey | None = None) -> Path:
        user = make("U")
        claims = {"issuer_account": self.account.public, "type": "user", "version": 2}
        jwt = (signer or self.signer).sign(user.public, token, claims)
        path = self.folder / f"{token}.creds"
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        return path


@pytest.fixture
def operated(nats_binary: Path, tmp_path: Path) -> Iterator[Operated]:
    made = Operated(tmp_path)
    try:
        made.server.start()
        yield made
    finally:
        made.server.stop()


def settings(operated: Operated, token: str, creds: Path) -> NatsSettings:
    return NatsSettings((f"nats://{operated.server.listen}",), token, credentials=creds)


def test_a_credentials_file_lets_the_courier_in_and_one_of_another_signer_does_not(operated: Operated) -> None:
    link = Link(settings(operated, ALICE, operated.creds(ALICE)))
    assert link.lost is None
    link.close()
    with pytest.raises(CourierError) as error:
        Link(settings(operated, ALICE, operated.creds(ALICE, make("A"))))
    assert error.value.code == "courier_denied"


def test_the_template_gives_each_host_its_own_subjects_and_no_others(operated: Operated) -> None:
    async def run() -> None:
        errors: list[str] = []

        async def note(error: Exception) -> None:
            errors.append(str(error))

        credentials = parse_credentials(operated.creds(BOB).read_text())
        client = Client()
        await client.connect(
            f"nats://{operated.server.listen}",
            user_jwt_cb=lambda: bytearray(credentials.jwt.encode()),
            signature_cb=credentials.sign,
            error_cb=note,
            allow_reconnect=False,
        )
        try:
            for subject in permissions(BOB)["subscribe"]:
                await client.subscribe(subject)
            for subject in permissions(BOB)["publish"]:
                await client.publish(subject.replace("*", "1"), b"")
            await client.flush()
            await asyncio.sleep(0.1)
            assert errors == []
            others = [*permissions(ALICE)["publish"], "$JS.API.DIRECT.GET.KV_tidegate", "$JS.API.STREAM.CREATE.X"]
            for subject in others:
                await client.publish(subject.replace("*", "1"), b"")
            for subject in permissions(ALICE)["subscribe"]:
                subscription = await client.subscribe(subject)
                with pytest.raises(nats.errors.TimeoutError):
                    await subscription.next_msg(timeout=0.05)
            await client.flush()
            await asyncio.sleep(0.1)
            assert len(errors) == len(others) + len(permissions(ALICE)["subscribe"])
        finally:
            await client.close()

    asyncio.run(asyncio.wait_for(run(), 20))
