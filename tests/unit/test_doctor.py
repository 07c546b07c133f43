"""What `tidegate doctor` makes of a host: each finding with its code and what to do."""

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent import VERSION
from agent.cli import doctor as doctor_module
from agent.cli import health, keys
from agent.cli.finding import Finding
from agent.cli.main import main
from agent.config import Config, Paths
from agent.control import client
from agent.courier import identity
from agent.host import processes, room

Doctor = Callable[[], list[dict[str, str]]]
STATUS: dict[str, Any] = {
    "version": VERSION,
    "host_id": "h",
    "problems": [],
    "bulletins": [],
    "executions": {"absent": "", "limits": []},
    "logged": {"absent": ""},
}
RULE = """\
  - name: {name}
    issuers: [https://cp.example]
    max_duration: 1h
    accounts: {{ prefix: jit- }}
"""


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the daemon answers; changed by the test."""
    found = dict(STATUS)
    monkeypatch.setattr(client, "call", lambda _path, op, **_: found if op == "status" else {"tombstones": []})
    return found


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str], status: dict[str, Any]) -> Doctor:
    """Asks it with a policy folder and a trust folder of the test's own."""
    del status
    for name in ("policy", "trust"):
        (tmp_path / name).mkdir(mode=0o755)
    config = tmp_path / "tidegate.yaml"
    config.write_text(f"paths: {{policy_dir: {tmp_path}/policy, trust_dir: {tmp_path}/trust, courier: {tmp_path}/courier}}\n")
    config.chmod(0o644)

    def ask() -> list[dict[str, str]]:
        with pytest.raises(SystemExit):
            main(["--config", str(config), "doctor", "--json"])
        checks: list[dict[str, str]] = json.loads(capsys.readouterr().out)["checks"]
        for check in checks:
            assert (check["level"] == "ok") == (check["code"] == "") == (check["mend"] == ""), check
            assert not check["code"] or re.fullmatch(r"[a-z][a-z0-9_]+", check["code"])
        return checks

    return ask


def write_policy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy/50.yaml"
    path.write_text(text)
    path.chmod(0o644)


def named(checks: list[dict[str, str]], name: str) -> list[tuple[str, str]]:
    return [(check["level"], check["code"]) for check in checks if check["name"] == name]


# The daemon


def test_each_problem_of_the_daemon_keeps_its_own_code(doctor: Doctor, status: dict[str, Any]) -> None:
    conflict = "for tidegate-probe sshd has PasswordAuthentication yes, not no [sshd_conflict]; ssh grants are refused"
    status["problems"] = [f"enforcer ssh: {conflict}", "inbox: 3 file(s) can't be taken out"]
    checks = doctor()
    assert named(checks, "daemon") == [("ok", ""), ("fail", "sshd_conflict"), ("fail", "daemon_problem")]
    assert any(check["detail"].endswith(conflict) for check in checks)


def test_a_daemon_of_another_version_is_told(doctor: Doctor, status: dict[str, Any]) -> None:
    status["version"] = "0.0.9"
    assert named(doctor(), "daemon") == [("warn", "daemon_other_version")]


def test_what_is_not_captured_is_told(doctor: Doctor, status: dict[str, Any]) -> None:
    status |= {"executions": {"absent": "no audit", "limits": []}, "logged": {"absent": "no journald"}}
    checks = doctor()
    assert named(checks, "commands") == [("warn", "execs_unseen")] and named(checks, "journal") == [("warn", "log_unread")]
    status["executions"] = {"absent": "", "limits": ["a rule of the host's"]}
    assert named(doctor(), "commands") == [("warn", "execs_hidden")]


def test_the_text_names_the_code_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        Finding.fail("sshd_conflict", "daemon", "no [sshd_conflict]; x", "mend"),
        Finding.warn("disk_low", "disk", "1 MiB", "room"),
    ]
    lines = list(doctor_module._lines(found))
    assert lines[0] == "FAIL  daemon  no [sshd_conflict]; x" and lines[2] == "warn  disk    1 MiB [disk_low]"
    assert lines[1].strip() == "-> mend" and capsys.readouterr().out == ""


# Policy, keys, certificates, bulletins


def test_each_line_of_the_policy_that_gives_root_is_a_finding(doctor: Doctor, tmp_path: Path) -> None:
    write_policy(tmp_path, "rules:\n" + RULE.format(name="plain"))
    assert named(doctor(), "policy") == [("ok", "")]
    more = """\
    groups: [docker]
    privileged_groups: [docker]
    sudo: { commands: ["/bin/bash"] }
    root_equivalent: ["/bin/bash"]
"""
    write_policy(tmp_path, "rules:\n" + RULE.format(name="plain") + RULE.format(name="wide") + more)
    checks = doctor()
    assert named(checks, "policy") == [("ok", ""), ("warn", "gives_privileged_group"), ("warn", "gives_root")]
    assert all("wide" in check["detail"] and "50.yaml:" in check["detail"] for check in checks if check["code"].startswith("gives"))


def test_a_bad_policy_and_no_policy_and_no_key_have_their_codes(doctor: Doctor, tmp_path: Path) -> None:
    checks = doctor()
    assert named(checks, "policy") == [("warn", "no_rule")] and named(checks, "keys") == [("warn", "no_trusted_key")]
    write_policy(tmp_path, "rulez: []\n")
    (tmp_path / "trust/a.jwks").write_text("{}")
    checks = doctor()
    assert named(checks, "policy") == [("fail", "unknown_key")] and named(checks, "keys") == [("fail", "jwks_invalid")]


@pytest.mark.parametrize(
    ("age", "code"),
    [(0.0, ""), (0.8, ""), (0.85, "certificate_near_end"), (0.99, "certificate_near_end"), (1.0, "certificate_ended")],
)
def test_a_certificate_that_is_not_renewed_is_told_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, code: str
) -> None:
    """Of whatever life: control planes issue them for a day, or for a month."""
    config = Config(paths=Paths(courier=tmp_path))
    assert list(keys.certificate_findings(config)) == []
    (tmp_path / "client.pem").write_text("junk")
    (found,) = keys.certificate_findings(config)
    assert (found.level, found.code) == ("warn", "courier_certificate_invalid")
    for first, life in ((1_800_000_000, 86_400), (1_800_000_000, 30 * 86_400)):
        monkeypatch.setattr(identity, "validity", lambda _path, first=first, life=life: (first, first + life))
        (found,) = keys.certificate_findings(config, first + age * life)
        assert (found.code, found.level) == (code, "warn" if code else "ok")
        assert datetime.fromtimestamp(first + life, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") in found.detail


def test_a_bulletin_that_ran_out_matters_where_the_policy_needs_a_fresh_one(
    doctor: Doctor, status: dict[str, Any], tmp_path: Path
) -> None:
    held = {"issuer": "https://cp.example", "seq": 1, "issued": "x", "expires": "2026-01-01T00:00:00Z", "expired": True}
    status["bulletins"] = [held, held | {"issuer": "https://other.example", "expired": False}]
    write_policy(tmp_path, "rules:\n" + RULE.format(name="plain"))
    assert named(doctor(), "bulletin") == []
    write_policy(tmp_path, "rules:\n" + RULE.format(name="fresh") + "    fresh_within: 5m\n")
    checks = doctor()
    assert named(checks, "bulletin") == [("warn", "bulletin_expired")]
    assert any("https://cp.example" in check["detail"] for check in checks if check["name"] == "bulletin")


# The host


def test_a_clock_that_nobody_holds_or_may_ask_about_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, code in ((True, ""), (False, "clock_unsynchronised"), (None, "clock_unsynchronised")):
        monkeypatch.setattr(health, "synchronised", lambda said=said: said)
        assert health._clock().code == code


def test_each_file_system_is_looked_at_once_and_told_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths(state_db=tmp_path / "lib/state.db", outbox=tmp_path / "lib/outbox", sessions=tmp_path / "big")
    config = Config(paths=paths)
    assert [found.code for found in health._disk(config)] == ["disk_unreadable"]
    devices = {paths.state_db.parent: 1, paths.outbox: 1, paths.sessions: 2}
    free = {paths.state_db.parent: 1 << 40, paths.outbox: 1 << 40, paths.sessions: 255 << 20}
    monkeypatch.setattr(room, "device_of", devices.get)
    monkeypatch.setattr(room, "free_bytes", free.get)
    found = list(health._disk(config))
    assert [each.code for each in found] == ["", "disk_low"]
    assert found[1].detail == f"255 MiB free at {tmp_path}/big"


def test_room_is_of_the_place_that_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 70)
    (tmp_path / "b").write_bytes(b"x" * 30)
    assert room.bytes_of((tmp_path / "a", tmp_path / "b", tmp_path / "absent")) == 100
    assert room.free_bytes(tmp_path / "absent") is None and room.device_of(tmp_path / "absent") is None
    free = room.free_bytes(tmp_path)
    assert free is not None and 0 < free <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    assert room.device_of(tmp_path) == tmp_path.stat().st_dev


def test_whether_anything_runs_as_a_user_is_seen() -> None:
    assert processes.runs_as(os.geteuid()) and not processes.runs_as(99_998)
