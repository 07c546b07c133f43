"""What a person sees: every text of the command, made of what tenants, signers and files of the inbox may have said."""

import json
from typing import Any
from unittest import mock

from click.testing import CliRunner

from agent.cli.main import cli
from agent.model.text import one_line, printable
from tests.fuzz.fuzz_receipt import assert_told
from tests.fuzz.source import Source

MAX_LEN = 2048
WORDS = ()
_COMMANDS = (
    ("status",),
    ("grants", "list"),
    ("grants", "show", "g-1"),
    ("receipts", "list"),
    ("receipts", "show", "g-1"),
    ("revoke", "g-1"),
)
_MOMENT = "2026-01-01T00:00:00.000000Z"


def check(data: bytes) -> None:
    """No control, bidirectional or other unseen character reaches a terminal, whoever wrote the text; each answer is shown."""
    source = Source(data)
    raw = source.text(200)
    assert printable(raw).isprintable() and printable(printable(raw)) == printable(raw)
    limit = 1 + source.number(600)
    assert len(one_line(raw, limit)) <= limit and one_line(raw, limit).isprintable()
    chosen = source.choice(_COMMANDS)
    with mock.patch("agent.control.client.call", lambda *_args, **_named: json.loads(json.dumps(_answer(chosen[0], source)))):
        assert_told(CliRunner().invoke(cli, [*chosen, *(["--json"] if source.number(3) == 1 else [])]))


def _answer(asked: str, source: Source) -> dict[str, Any]:
    text = source.text
    if asked == "receipts":
        late = {"doors": source.choice((None, 0, -5, 1 << 40)), "last_process": source.choice((None, 3))}
        claims = {"ended": text(), "grant": {"jti": text(), "sub": text()}, "cause": text(), "lateness_ms": late, text(): text()}
        return {"receipts": [{"id": text(), "claims": claims, "jws": "a.b.c"}]}
    if asked == "revoke":
        times = {"doors_ms": source.choice((None, 1.5)), "last_process_ms": source.choice((None, 2.5))}
        return {"revoked": [{"jti": text(), "subject": text(), "ended": source.flag(), "error": text(), **times}]}
    grants = [_grant(source) for _ in range(source.number(2))]
    if asked == "grants":
        return {"grants": grants}
    refusals = [
        {name: text() for name in ("at", "source", "code", "reason", "field", "jti", "subject")} for _ in range(source.number(2))
    ]
    return {"host_id": text(), "version": text(), "policy": text(), "problems": [text()], "grants": grants, "refusals": refusals}


def _grant(source: Source) -> dict[str, Any]:
    names = ("jti", "issuer", "subject", "access", "reason", "ticket", "rule", "cause", "cause_text", "error")
    found: dict[str, Any] = {name: source.text() for name in names}
    moments = ("begins", "ends", "opened", "received", "doors_closed", "last_process_dead", "ended")
    step = {name: source.text() for name in ("enforcer", "action", "target", "what", "state", "error")}
    return {
        **found,
        **dict.fromkeys(moments, _MOMENT),
        "state": source.choice(("open", "pending", "shutting", "ended")),
        "seconds_left": source.number(1 << 20),
        "logins": [source.text()],
        "not_containable": [source.text()],
        "uids": {},
        "steps": [step],
    }
