"""The command: what it exits with, what it prints, and that no mistake of a person's ends in a traceback."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent import trust
from agent.cli import access, main, receipts
from agent.errors import HostError

Answer = dict[str, Any]
Run = Callable[..., tuple[int, str, str]]
HOST = "urn:tidegate:web1"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("status", ...)`` → (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as done:
            assert isinstance(done.code, int)
            status = done.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def answers(monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    """Let the daemon answer so, whatever is asked."""

    def ask(_config: Path | None, _op: str, **_arguments: object) -> object:
        if isinstance(found, Exception):
            raise found
        return found

    for module in (access, receipts):
        monkeypatch.setattr(module, "ask", ask)


def entry(jti: str, state: str = "open", begins_in_s: float = -60) -> Answer:
    begins = datetime.now(UTC) + timedelta(seconds=begins_in_s)
    return {
        **{"jti": jti, "subject": f"{jti}@example.com", "state": state, "access": "jit-alice (ssh login)", "reason": "a test"},
        **{"ticket": "", "error": "", "begins": f"{begins:%FT%T.%f}Z", "ends": "2099-01-01T00:00:00.000000Z", "seconds_left": 90},
        **{"doors_closed": None, "last_process_dead": None},
    }


def status_of(*grants: Answer) -> Answer:
    return {"host_id": HOST, "version": "0", "policy": "1 rule from /p", "problems": [], "refusals": [], "grants": list(grants)}


# status


def test_status_says_nobody_where_every_grant_begins_later_and_when_that_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, status_of(entry("far", "pending", 7300), entry("near", "pending", 130)))
    status, out, _ = run("status")
    assert status == 0
    now, later = out.split("Begins later:")
    assert "Nobody can get in through Tidegate now." in now and "@" not in now
    assert [line.split()[0] for line in later.strip().splitlines()] == ["WHO", "near@example.com", "far@example.com"]
    assert " 2m " in later and " 2h 1m " in later


def test_status_keeps_who_can_get_in_apart_from_who_will(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, status_of(entry("here"), entry("late", "pending", 60), entry("going", "shutting")))
    now, later = run("status")[1].split("Begins later:")
    assert "here@" in now and "going@" in now and "late@" not in now
    assert "late@" in later and "here@" not in later
    answers(monkeypatch, status_of(entry("here")))
    assert "Begins later" not in run("status")[1]


def test_status_tells_who_is_out_from_who_can_still_get_in(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at = "2026-11-22T00:00:26.000000Z"
    shut, inside = entry("gone", "shutting"), entry("inside", "shutting")
    answers(monkeypatch, status_of({**shut, "doors_closed": at, "last_process_dead": at, "error": "disk full"}))
    now, out = run("status")[1].split("Out, but not cleaned up whole")
    assert "Nobody can get in" in now and "gone@" in out and "disk full" in out
    answers(monkeypatch, status_of({**inside, "doors_closed": at}))
    out = run("status")[1]
    assert "inside@" in out.split("Who can get in now:")[1] and "Out, but" not in out


def test_a_subject_cant_play_with_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, status_of({**entry("g"), "subject": "a\x1b[2J\n\u202eb"}))
    out = run("status")[1]
    assert "a\\x1b[2J\\x0a\\u202eb" in out


# revoke


@pytest.mark.parametrize(("ended", "expected"), [([True, True], 0), ([True, False], 1), ([False], 1), ([], 0)])
def test_revoke_fails_while_anything_it_was_to_end_is_not_over(
    run: Run, monkeypatch: pytest.MonkeyPatch, ended: list[bool], expected: int
) -> None:
    found = [
        {"jti": f"g-{n}", "subject": "s", "ended": over, "doors_ms": 1, "last_process_ms": 2, "error": ""}
        for n, over in enumerate(ended)
    ]
    answers(monkeypatch, {"revoked": found})
    status, out, _ = run("revoke", "--all")
    assert status == expected
    assert ("NOT OVER" in out) is (expected == 1)
    status, out, _ = run("revoke", "--all", "--json")
    assert (status, json.loads(out)) == (expected, {"revoked": found})


def test_revoke_of_what_is_not_there_fails_and_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, HostError("grant_unknown", "no live grant has the id 'g-1': nothing to revoke"))
    status, out, err = run("revoke", "g-1")
    assert (status, out) == (1, "") and "[grant_unknown]" in err
    status, out, _ = run("revoke", "g-1", "--json")
    assert status == 1 and json.loads(out)["code"] == "grant_unknown"


# receipts


def test_a_receipt_verifies_elsewhere_by_the_key_that_the_host_prints(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host, other = (trust.HostKey.load_or_create(tmp_path / name) for name in ("host.jwk", "other.jwk"))
    claims = {
        **{"iss": HOST, "grant": {"jti": "g-1", "sub": "alice"}, "ended": "2026-01-01T00:00:00Z", "cause": "expired"},
        **{"lateness_ms": {"doors": 1, "last_process": 2}},
    }
    receipt, keys = tmp_path / "receipt.jws", tmp_path / "web1.jwks"
    receipt.write_text(host.sign(trust.TYP_RECEIPT, claims) + "\n")
    for form in ((), ("--json",)):
        answers(monkeypatch, {"keys": [host.public_jwk(HOST)]})
        status, out, _ = run("receipts", "key", *form)
        assert status == 0 and '"d"' not in out
        keys.write_text(out)
        answers(monkeypatch, HostError("agent_unreachable", "not here"))
        status, out, _ = run("receipts", "verify", str(receipt), "--keys", str(keys))
        assert status == 0 and out.startswith(f"valid: {HOST} says grant g-1 of alice ended")
    receipt.write_text(other.sign(trust.TYP_RECEIPT, claims))
    assert run("receipts", "verify", str(receipt), "--keys", str(keys))[0] == 3


# doctor


def test_doctor_looks_at_the_rest_of_the_host_by_defaults_when_the_configuration_is_bad(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    path.write_text("admin_group: keepers\nhostid: web1\n")
    path.chmod(0o644)
    status, out, _ = run("--config", str(path), "doctor", "--json")
    checks = {found["name"]: found for found in json.loads(out)["checks"]}
    assert status == 1 and json.loads(out)["ok"] is False
    assert checks["config"]["level"] == "fail" and f"{path}:2: hostid:" in checks["config"]["detail"]
    assert {"daemon", "policy", "keys", "sshd", "sudo", "disk"} <= checks.keys()
    status, out, _ = run("--config", str(path), "doctor")
    assert status == 1 and "FAIL  config" in out and "sshd" in out


def test_doctor_says_which_configuration_it_read(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    path.write_text(f"paths: {{control_socket: {tmp_path}/control.sock}}\n")
    path.chmod(0o644)
    checks = json.loads(run("--config", str(path), "doctor", "--json")[1])["checks"]
    assert checks[0] == {"name": "config", "level": "ok", "code": "", "detail": str(path), "mend": ""}
    daemon = next(found for found in checks if found["name"] == "daemon")
    assert f"{tmp_path}/control.sock" in daemon["detail"], "and it was used"


# keygen and sign


@pytest.mark.parametrize("place", ["missing/k.jwks", "file/k.jwks", "folder"])
def test_keygen_leaves_no_private_key_when_the_public_one_cant_be_written(run: Run, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    secret = tmp_path / "k.jwk"
    arguments = ("keygen", str(secret), "--issuer", "https://cp.example", "--json", "--public", str(tmp_path / place))
    status, out, _ = run(*arguments)
    if place == "folder":
        assert status == 2
    else:
        assert status == 1 and json.loads(out)["code"] == "file_unwritable" and json.loads(out)["file"] == str(tmp_path / place)
    assert not secret.exists()


def test_keygen_never_writes_over_a_key_nor_over_its_public_half(run: Run, tmp_path: Path) -> None:
    secret, public = tmp_path / "k.jwk", tmp_path / "k.jwks"
    arguments = ("keygen", str(secret), "--issuer", "https://cp.example", "--public")
    assert run(*arguments, str(secret))[0] == 2
    assert not secret.exists()
    assert run(*arguments, str(public))[0] == 0
    before = secret.read_bytes(), public.read_bytes()
    status, _, err = run(*arguments, str(public))
    assert status == 1 and "[key_file_exists]" in err
    assert (secret.read_bytes(), public.read_bytes()) == before


def test_sign_into_a_folder_that_is_not_there_says_so(run: Run, tmp_path: Path) -> None:
    secret, claims = tmp_path / "k.jwk", tmp_path / "claims.json"
    claims.write_text("{}")
    assert run("keygen", str(secret), "--issuer", "https://cp.example")[0] == 0
    arguments = ("sign", str(claims), "--key", str(secret), "--for", "8h", "--out")
    status, _, err = run(*arguments, str(tmp_path / "gone" / "g.jwt"))
    assert status == 1 and "[file_unwritable]" in err and str(tmp_path / "gone" / "g.jwt") in err
    assert run(*arguments, str(tmp_path / "g.jwt"))[0] == 0


@pytest.mark.parametrize("lifetime", ["8", "0h", "-1h", "8 h", "eight", ""])
def test_a_lifetime_without_number_and_unit_is_wrong_usage(run: Run, tmp_path: Path, lifetime: str) -> None:
    secret, claims = tmp_path / "k.jwk", tmp_path / "claims.json"
    claims.write_text("{}")
    run("keygen", str(secret), "--issuer", "https://cp.example")
    status, out, err = run("sign", str(claims), "--key", str(secret), "--for", lifetime)
    assert (status, out) == (2, "") and "--for" in err and "8h" in err
