"""The command line where it needs no host: the same verdicts as the library, the contract's exit codes, and no traceback ever."""

import json
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.cli.output import table
from agent.model.text import printable
from agent.trust import TYP_RECEIPT, sign_compact
from tests.unit.trust_kit import VECTORS, token_of
from tests.vectors import make

NOW = datetime.fromtimestamp(make.NOW, UTC).isoformat()
ISSUER = "https://cp.example"


class Result:
    """How one call ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def tidegate(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIDEGATE_CONFIG", raising=False)

    def call(*arguments: str) -> Result:
        status = 0
        try:
            main(arguments)
        except SystemExit as done:
            status = int(done.code or 0)
        return Result(status, *capsys.readouterr())

    return call


@pytest.fixture
def jwks(tmp_path: Path) -> str:
    path = tmp_path / "keys.jwks"
    path.write_text(json.dumps(make.jwks()))
    return str(path)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_verify_gives_each_vector_its_verdict(tidegate: Any, jwks: str, tmp_path: Path, vector: dict[str, Any]) -> None:
    (tmp_path / "token").write_bytes(token_of(vector))
    done = tidegate("verify", "token", "--keys", jwks, "--host", make.HOST, "--at", NOW, "--json")
    if vector["verdict"] == "good":
        keys = {"verdict", "jti", "issuer", "subject", "begins", "ends", "access", "signers", "rule"}
        assert (done.status, done.json["verdict"], done.json["jti"]) == (0, "valid", "grant-1"), done.out
        assert done.json.keys() == keys
    else:
        assert (done.status, done.json["verdict"], done.json["code"]) == (3, "refused", vector["code"]), done.out
        assert done.json.keys() == {"ok", "code", "reason", "field", "verdict"}
    text = tidegate("verify", "token", "--keys", jwks, "--host", make.HOST, "--at", NOW)
    assert text.status == done.status
    assert all(line.isprintable() for line in (text.out + text.err).splitlines())


def test_what_is_made_signed_and_verified_goes_round(tidegate: Any, tmp_path: Path) -> None:
    for kid, more in (("cp-1", ()), ("bob", ("--approver", "bob@example.com"))):
        made = tidegate("keygen", f"{kid}.jwk", "--issuer", ISSUER, "--public", f"{kid}.jwks", "--json", *more)
        assert made.status == 0
        assert made.json.keys() == {"kid", "private", "public", "jwks"}
        assert (tmp_path / f"{kid}.jwk").stat().st_mode & 0o777 == 0o600
        assert "d" not in made.json["jwks"]["keys"][0]
        assert json.loads((tmp_path / f"{kid}.jwks").read_text()) == made.json["jwks"]
    claims = {key: value for key, value in make.claims().items() if key not in {"iat", "nbf", "exp", "jti"}}
    (tmp_path / "claims.json").write_text(json.dumps(claims))
    signed = tidegate("sign", "claims.json", "--key", "cp-1.jwk", "--for", "15m", "--out", "g.jwt", "--json")
    assert signed.json.keys() == {"token", "jti", "file"}
    verified = tidegate("verify", "g.jwt", "--keys", "cp-1.jwks", "--host", make.HOST, "--json")
    assert (verified.status, verified.json["jti"], verified.json["signers"]) == (0, signed.json["jti"], ["cp-1"])
    assert tidegate("verify", "g.jwt", "--keys", "bob.jwks", "--host", make.HOST, "--json").json["code"] == "unknown_key"
    both = {"keys": [json.loads((tmp_path / f"{kid}.jwks").read_text())["keys"][0] for kid in ("cp-1", "bob")]}
    (tmp_path / "both.jwks").write_text(json.dumps(both))
    tidegate("sign", "claims.json", "--key", "cp-1.jwk", "--key", "bob.jwk", "--for", "15m", "--out", "two.jwt")
    assert tidegate("verify", "two.jwt", "--keys", "both.jwks", "--host", make.HOST, "--json").json["signers"] == ["cp-1", "bob"]


def test_no_key_is_ever_overwritten_and_half_a_pair_never_left(tidegate: Any, tmp_path: Path) -> None:
    assert tidegate("keygen", "a.jwk", "--issuer", ISSUER, "--public", "a.jwks").status == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments in (
        ("a.jwk",),
        ("a.jwk", "--public", "new.jwks"),
        ("new.jwk", "--public", "a.jwks"),
        ("n.jwk", "--public", "no/x"),
    ):
        done = tidegate("keygen", *arguments, "--issuer", ISSUER, "--json")
        assert done.status == 1
        assert done.json["code"] in {"key_file_exists", "file_unwritable"}
    (tmp_path / "link.jwk").symlink_to(tmp_path / "target")
    assert tidegate("keygen", "link.jwk", "--issuer", ISSUER).status == 1
    (tmp_path / "link.jwk").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (0, ["--help"]),
        (0, ["--version"]),
        (2, []),
        (2, ["bogus"]),
        (2, ["status", "more"]),
        (2, ["revoke"]),
        (2, ["revoke", "g-1", "--all"]),
        (2, ["verify", "missing", "--keys", "k", "--host", "h"]),
        (2, ["keygen", "k.jwk"]),
        (2, ["keygen", "k.jwk", "--issuer", "a\nb"]),
        (2, ["keygen", "k.jwk", "--issuer", "x", "--approver", "a\x1bb"]),
        (2, ["keygen", "k.jwk", "--issuer", "x", "--kid", "../x"]),
        (1, ["keygen", "no/k.jwk", "--issuer", "x"]),
        (2, ["policy", "check", "missing"]),
        (1, ["--config", "missing", "status"]),
        (2, ["sign", "claims.json", "--key", "cp.jwk", "--for", "1x"]),
        (2, ["sign", "/dev/zero", "--key", "cp.jwk"]),
        (1, ["sign", "claims.json", "--key", "cp.jwk", "--out", "no/x"]),
        (1, ["sign", "claims.json", "--key", "keys.jwks"]),
        (3, ["sign", "keys.jwk", "--key", "cp.jwk"]),
        (2, ["verify", "claims.json", "--keys", "keys.jwks", "--host", "h", "--at", "yesterday"]),
        (1, ["verify", "claims.json", "--keys", "claims.json", "--host", "h"]),
        (3, ["verify", "claims.json", "--keys", "keys.jwks", "--host", "h"]),
        (3, ["receipts", "verify", "claims.json", "--keys", "keys.jwks"]),
    ],
    ids=str,
)
def test_each_end_has_its_exit_code_and_a_message(
    tidegate: Any, jwks: str, tmp_path: Path, status: int, arguments: list[str]
) -> None:
    (tmp_path / "claims.json").write_text("{}")
    (tmp_path / "keys.jwk").write_text('{"a":1,"a":2}')
    (tmp_path / "cp.jwk").write_text(json.dumps(make.private("cp-1")))
    (tmp_path / "cp.jwk").chmod(0o600)
    done = tidegate(*arguments)
    assert done.status == status, done.err
    assert done.out if status == 0 else done.err.strip()


@pytest.mark.parametrize("left_out", ["grant", "lateness_ms", "ended", "cause"])
def test_a_signed_receipt_that_is_none_is_refused_without_a_traceback(
    tidegate: Any, tmp_path: Path, jwks: str, left_out: str
) -> None:
    claims = {
        "iss": ISSUER,
        "grant": {"jti": "g-1", "sub": "a\u001b[2J"},
        "lateness_ms": {"doors": 1},
        "ended": "x",
        "cause": "expired",
    }
    (tmp_path / "r.jws").write_text(
        sign_compact({k: v for k, v in claims.items() if k != left_out}, TYP_RECEIPT, make.private("cp-1"))
    )
    done = tidegate("receipts", "verify", "r.jws", "--keys", jwks)
    assert done.status == (3 if left_out in {"grant", "lateness_ms"} else 0)
    assert all(line.isprintable() for line in (done.out + done.err).splitlines())


def test_a_reader_that_goes_away_is_no_error_of_ours(tidegate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`tidegate ... | head -1`; the real pipe is tried on a host."""

    def closed(*_arguments: object, **_options: object) -> None:
        raise BrokenPipeError

    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr("click.echo", closed)
        done = tidegate("keygen", "k.jwk", "--issuer", ISSUER)
    assert (done.status, done.err) == (1, "")


@given(st.text())
def test_whatever_text_somebody_sends_a_terminal_gets_none_of_its_controls(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}]
    assert table(["A", "B"], [[text, text]]).count("\n") == 1
