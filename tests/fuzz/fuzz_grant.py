"""The claims of a verified token: decoded by the enforcers of this host into typed values, or refused by a documented error."""

import json
from dataclasses import fields as members

from agent import trust
from agent.assembly import registry
from agent.errors import InvalidGrantError, RefusedError, UntrustedError
from agent.model import AccountWant, Grant, GroupWant, RoleWant, Signer, SshWant, SudoWant, VerifiedToken
from agent.model.summary import summarise
from agent.model.text import unseen
from agent.policy import decoders
from tests.fuzz.source import ODD

MAX_LEN = 8192
NOW, HOST, ISSUER = 1_800_000_000, "host-1", "https://cp.example"
WORDS = (
    *(
        "iss",
        "aud",
        "sub",
        "iat",
        "nbf",
        "exp",
        "jti",
        "authorization_details",
        "reason",
        "ticket",
        "recording",
        "required",
        "supersedes",
    ),
    *("type", "identifier", "account", "ssh", "sudo", "group", "role", "name", "keys", "principals", "source_address", "actions"),
    *(
        "run_as",
        "commands",
        "groups",
        "shell",
        "home",
        "ephemeral",
        "archive",
        "full_name",
        "port-forwarding",
        "jit-a",
        "10.0.0.0/8",
    ),
    *(odd for odd in ODD if odd.isascii() and odd.isprintable() and odd and '"' not in odd and "\\" not in odd),
)
_SIGNERS = (Signer("cp-1", "print-1", (ISSUER,)), Signer("boss", "print-2", ("https://other.example",), "boss@example.com"))
_DECODERS = decoders(registry())


def check(data: bytes) -> None:
    """What is taken says the same when it is written out and read again, and holds nothing that a later stage would trip over."""
    try:
        grant = _decode(data)
    except (InvalidGrantError, UntrustedError) as error:
        assert error.reason.isprintable() and len(error.reason) < 1000, error.reason
        return
    assert grant.aud == HOST and grant.iss == ISSUER and grant.nbf < grant.exp <= grant.nbf + 90 * 86400 and grant.exp > NOW
    for text in (grant.sub, grant.jti, grant.reason, grant.ticket, summarise(grant)):
        assert not any(map(unseen, text)) and text.encode("utf-8") is not None, text
    again = _decode(json.dumps(_claims(grant)).encode())
    assert again == grant
    for want in grant.wants:
        _one_spelling(want)


def _decode(payload: bytes) -> Grant:
    verified = VerifiedToken(trust.TYP_GRANT, payload, _SIGNERS, "0" * 64)
    return trust.decode(verified, host_id=HOST, now_s=NOW, decoders=_DECODERS)


def _claims(grant: Grant) -> dict[str, object]:
    names = ("iss", "aud", "sub", "iat", "nbf", "exp", "jti")
    found: dict[str, object] = {name: getattr(grant, name) for name in names}
    found["authorization_details"] = [_entry(want) for want in grant.wants]
    found |= {name: getattr(grant, name) for name in ("reason", "ticket") if getattr(grant, name)}
    if grant.recording_required:
        found["recording"] = {"required": True}
    return found | ({"supersedes": grant.supersedes} if grant.supersedes else {})


def _entry(want: object) -> dict[str, object]:
    assert isinstance(want, AccountWant | SshWant | SudoWant | GroupWant | RoleWant)
    found: dict[str, object] = {"type": want.type}
    for member in members(want):
        value = getattr(want, member.name)
        if member.name == "commands":
            value = [" ".join(words) for words in value]
        if value not in ("", ()):
            found[member.name] = list(value) if isinstance(value, tuple) else value
    return found


def _one_spelling(want: object) -> None:
    """Every enforcer's decode, asked alone, refuses what is not its own entry rather than fail."""
    for decode in _DECODERS.values():
        odd: list[dict[str, object]] = [_entry(want), {"type": None}, {"type": []}, {**_entry(want), "type": ["ssh"]}]
        for body in odd:
            try:
                decode(body, "entry")
            except RefusedError:
                continue
