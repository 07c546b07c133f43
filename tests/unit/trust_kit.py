"""What the tests of trust share: the vectors' keys and host, and decoders made of nothing but model.fields."""

import json
from collections.abc import Mapping
from typing import Any

from agent.model import AccountWant, Grant, GroupWant, RoleWant, SshWant, Want, fields
from agent.model.fields import FieldReader
from agent.trust import TYP_GRANT, decode, keyring, verify
from tests.vectors import make

VECTORS: dict[str, Any] = json.loads(make.FILE.read_text(encoding="utf-8"))
RING = keyring(make.jwks())


def _account(body: Mapping[str, object], field: str) -> Want:
    read = FieldReader(body, field, required=("type", "identifier"), optional=("full_name", "groups", "shell", "home"))
    return AccountWant(
        identifier=read.one("identifier", fields.login),
        full_name=read.optional("full_name", fields.full_name, ""),
        groups=read.many("groups", fields.group_name, least=0),
        shell=read.optional("shell", fields.absolute_path, "/bin/bash"),
        home=read.optional("home", fields.choice("ephemeral", "archive"), "ephemeral"),
    )


def _ssh(body: Mapping[str, object], field: str) -> Want:
    read = FieldReader(body, field, required=("type", "identifier", "principals"), optional=("source_address",))
    return SshWant(
        identifier=read.one("identifier", fields.login),
        principals=read.many("principals", fields.principal),
        source_address=read.many("source_address", fields.source_address, least=0),
    )


def _group(body: Mapping[str, object], field: str) -> Want:
    read = FieldReader(body, field, required=("type", "identifier", "groups"))
    return GroupWant(read.one("identifier", fields.login), read.many("groups", fields.group_name))


def _role(body: Mapping[str, object], field: str) -> Want:
    read = FieldReader(body, field, required=("type", "identifier", "name"))
    return RoleWant(read.one("identifier", fields.login), read.one("name", fields.role_name))


DECODERS = {"account": _account, "ssh": _ssh, "group": _group, "role": _role}


def accept(token: bytes, **changes: Any) -> Grant:
    """Both stages, as the pipeline runs them, on the vectors' host at the vectors' time."""
    given: dict[str, Any] = {"host_id": make.HOST, "now_s": make.NOW, "decoders": DECODERS, **changes}
    return decode(verify(token, RING, typ=TYP_GRANT), **given)


def token_of(vector: Mapping[str, Any]) -> bytes:
    """A vector's token, unfolded where it is a long repetition."""
    text = str(vector["token"])
    if "repeat" in vector:
        text = vector["before"] + text * vector["repeat"] + vector["after"]
    return text.encode("utf-8")
