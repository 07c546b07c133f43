"""The installed command on a whole host: every answer in JSON, its exit codes, who may ask, and a terminal left in peace."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.host.bad_grants import public_key
from tests.host.scene import ISSUER, OUTBOX, POLICY_FILE, Scene, account, set_up, ssh, sudo
from tests.hosts.machine import Host

pytestmark = pytest.mark.host(beside=True)

GRANT = {
    "jti", "issuer", "subject", "state", "logins", "access", "reason", "ticket", "rule", "begins", "ends", "seconds_left",
    "received", "opened", "ended", "cause", "cause_text", "uids", "error", "not_containable", "doors_closed", "last_process_dead",
    "suspended", "fresh_within_s", "drained_by", "supersedes",
}  # fmt: skip
STEP = {"enforcer", "action", "target", "what", "undone_at", "state", "error"}
REFUSAL = {"at", "source", "code", "reason", "field", "jti", "subject"}
STATUS = {
    "courier",
    "host_id",
    "version",
    "policy",
    "problems",
    "grants",
    "bulletins",
    "executions",
    "logged",
    "refusals",
    "searching",
    "uids_kept_back",
}
PLAN = {
    "jti", "issuer", "subject", "rule", "access", "begins", "ends", "uids", "steps", "planned_by", "not_containable",
    "fresh_within_s", "supersedes", "undone", "narrowed",
}  # fmt: skip
SUBJECT = "Ω(unusual)\u05d0 $(id) `id` %s <b> 'x' \"y\""


@pytest.fixture(scope="module")
def scene(shared_tidegate_host: Host) -> Scene:
    host = shared_tidegate_host
    host.run("useradd --create-home nosy; useradd --create-home --groups tidegate helper")
    return set_up(host)


@pytest.fixture(scope="module")
def ended(scene: Scene) -> str:
    """A grant that was opened and revoked, with a receipt."""
    jti = scene.open(account("jit-ended"), ssh("jit-ended", public_key()), sudo("jit-ended"))
    scene.ask("revoke", jti=jti, reason="to see it end")
    return jti


@pytest.fixture
def live(scene: Scene) -> Iterator[str]:
    """A grant that is open during a test."""
    jti = scene.open(account("jit-live"), sub=SUBJECT, reason="'; rm -rf / #")
    yield jti
    if any(grant["jti"] == jti for grant in scene.status()["grants"]):
        scene.ask("revoke", jti=jti)


def asked(scene: Scene, *arguments: str, status: int = 0, **options: Any) -> Any:
    """The object that a command with --json prints."""
    done = scene.tidegate(*arguments, "--json", **options)
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_every_answer_has_its_documented_members(scene: Scene, live: str, ended: str) -> None:
    scene.answer_for(scene.drop(b"junk"))
    status = asked(scene, "status")
    assert status.keys() == STATUS
    assert status == scene.status() | {"grants": status["grants"], "courier": None}
    (grant,) = status["grants"]
    assert grant.keys() == GRANT
    assert all(refusal.keys() == REFUSAL for refusal in status["refusals"])
    assert [found["jti"] for found in asked(scene, "grants", "list")["grants"]] == [live]
    everything = asked(scene, "grants", "list", "--ended")["grants"]
    assert {live, ended} <= {found["jti"] for found in everything}
    assert all(found.keys() == GRANT for found in everything)
    (shown,) = asked(scene, "grants", "show", ended)["grants"]
    assert shown.keys() == GRANT | {"steps"}
    assert shown["steps"]
    assert all(step.keys() == STEP and step["state"] == "undone" for step in shown["steps"])
    assert "to see it end" in shown["cause_text"]
    receipts = asked(scene, "receipts", "list")["receipts"]
    assert all(receipt.keys() == {"id", "claims", "jws"} for receipt in receipts)
    (receipt,) = asked(scene, "receipts", "show", ended)["receipts"]
    assert receipt in receipts
    planned = asked(scene, "plan", "-", input=scene.grant(account("jit-planned")).decode())
    assert planned.keys() == PLAN
    assert asked(scene, "policy", "check").keys() == {"ok", "path", "findings"}
    doctor = asked(scene, "doctor")
    assert doctor.keys() == {"ok", "checks"}
    assert all(check.keys() == {"name", "level", "code", "detail", "mend"} for check in doctor["checks"])
    gone = asked(scene, "revoke", live, "--reason", "done")
    assert [found.keys() for found in gone["revoked"]] == [{"jti", "subject", "ended", "doors_ms", "last_process_ms", "error"}]
    assert asked(scene, "revoke", "--all") == {"revoked": [], "draining": []}
    assert asked(scene, "revoke", live, status=1)["code"] == "grant_unknown"  # nothing was ended, and a script must know
    assert asked(scene, "receipts", "key").keys() == {"keys"}


def test_a_receipt_verifies_on_its_host_and_by_its_public_key_alone_and_not_when_altered(scene: Scene, ended: str) -> None:
    (receipt,) = asked(scene, "receipts", "show", ended)["receipts"]
    scene.host.write("/tmp/r.jws", receipt["jws"] + "\n")
    scene.host.write("/tmp/host.jwks", json.dumps(scene.ask("host_key")))
    for keys in ((), ("--keys", "/tmp/host.jwks")):
        found = asked(scene, "receipts", "verify", "/tmp/r.jws", *keys)
        assert found.keys() == {"verdict", "host", "grant", "receipt"}
        assert (found["host"], found["grant"]["jti"], found["receipt"]) == (scene.host_id, ended, receipt["claims"])
    text = scene.tidegate("receipts", "verify", "/tmp/r.jws")
    assert (text.returncode, text.stdout.startswith("valid: ")) == (0, True)
    for position in (40, len(receipt["jws"]) // 2, -10):
        altered = list(receipt["jws"])
        altered[position] = "A" if altered[position] != "A" else "B"
        scene.host.write("/tmp/bad.jws", "".join(altered))
        assert asked(scene, "receipts", "verify", "/tmp/bad.jws", status=3)["verdict"] == "refused"
    scene.host.write("/tmp/grant.jws", scene.grant())
    assert asked(scene, "receipts", "verify", "/tmp/grant.jws", status=3)["code"] == "header_typ"
    (shipped,) = [path for path in (scene.host.root / OUTBOX[1:]).iterdir() if receipt["id"] in path.name]
    assert shipped.read_text().strip() == receipt["jws"]


def test_what_fails_says_so_by_status_and_code(scene: Scene) -> None:
    for arguments, status, code in (
        (("grants", "show", "g-none"), 1, "grant_unknown"),
        (("receipts", "show", "g-none"), 1, "grant_unknown"),
        (("revoke", "g-none"), 1, "grant_unknown"),
        (("revoke", "g-none' OR 1=1 --"), 1, "grant_unknown"),
    ):
        found = asked(scene, *arguments, status=status)
        assert (found["ok"], found["code"]) == (False, code)
    assert asked(scene, "plan", "-", status=3, input="junk")["code"] == "token_shape"
    for usage in (["revoke"], ["revoke", "a", "--all"], ["plan"], ["nonesuch"], ["status", "--nonesuch"]):
        assert scene.tidegate(*usage).returncode == 2
    assert asked(scene, "revoke", "--subject", "nobody@example.com", status=1)["code"] == "grant_unknown"


def test_without_the_daemon_it_says_how_to_get_it_back(scene: Scene) -> None:
    scene.stop()
    for arguments in (("status",), ("grants", "list"), ("revoke", "--all"), ("receipts", "list")):
        found = asked(scene, *arguments, status=1)
        assert found["code"] == "agent_unreachable"
        assert "tidegated.service" in found["reason"]
    assert asked(scene, "doctor", status=1)["ok"] is False
    scene.start()


def test_a_user_who_is_nobody_here_is_told_who_may_ask(scene: Scene, live: str) -> None:
    for arguments in (("status",), ("grants", "list"), ("revoke", "--all"), ("receipts", "list"), ("grants", "show", live)):
        done = scene.tidegate(*arguments, user="nosy")
        assert (done.returncode, done.stdout) == (1, "")
        assert "only root and members of the group tidegate may ask" in done.stderr
        assert asked(scene, *arguments, user="nosy", status=1)["code"] == "agent_forbidden"
    assert [grant["jti"] for grant in scene.status()["grants"]] == [live]
    assert scene.tidegate("doctor", user="nosy").returncode == 1
    listed = scene.host.run("runuser -u nosy -- find /var/lib/tidegate /run/tidegate/control.sock -type f", check=False)
    assert listed.stdout == ""


def test_a_member_of_the_group_tidegate_asks_and_revokes(scene: Scene, live: str, ended: str) -> None:
    assert [grant["jti"] for grant in asked(scene, "status", user="helper")["grants"]] == [live]
    assert asked(scene, "receipts", "show", ended, user="helper")["receipts"]
    assert asked(scene, "revoke", live, user="helper")["revoked"][0]["ended"] is True
    (found,) = scene.ask("grant", jti=live)["grants"]
    assert re.match(r"by uid \d{4}", found["cause_text"])


@pytest.mark.parametrize("command", ["status", "grants list --ended", "receipts list --json", "doctor", "--help"])
def test_a_reader_that_goes_away_leaves_no_traceback(scene: Scene, ended: str, command: str) -> None:
    for reader in ("head -1", "head -c 1", "true"):
        done = scene.host.run(f"tidegate {command} | {reader}", check=False)
        assert done.stderr == ""
    full = scene.host.run(f"tidegate {command} > /dev/full", check=False)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr


def test_no_text_of_anybodys_reaches_a_terminal_with_its_controls(scene: Scene, live: str) -> None:
    """A grant's own texts can hold none; a file's name, a revoker's reason and a policy file's words can be anything."""
    scene.answer_for(scene.drop(b"junk", b"\x1b]0;owned\x07\xe2\x80\xae\xff\n.jwt"))
    scene.host.write("/etc/tidegate/policy.d/99-evil.yaml", 'rules:\n  - name: "\\e[2J\\u202e"\n    issuers: ["\\x07"]\n')
    scene.host.wait_for(lambda: scene.status()["problems"], what="the bad policy is told")
    commands = [["status"], ["grants", "list", "--ended"], ["grants", "show", live], ["doctor"], ["policy", "check"]]
    commands += [["revoke", live, "--reason", "\x1b[2J\u202e\nevil"], ["grants", "show", live], ["receipts", "list"]]
    commands += [["receipts", "show", live], ["revoke", "\x1b[2Jx"], ["grants", "show", "\u202e\x1b[2J"]]
    for command in commands:
        for options in ([], ["--json"]):
            done = scene.tidegate(*command, *options)
            assert "Traceback" not in done.stderr
            for line in (done.stdout + done.stderr).split("\n"):
                assert line.isprintable(), (command, line)
    scene.host.run(["rm", "/etc/tidegate/policy.d/99-evil.yaml"])
    scene.host.wait_for(lambda: not scene.status()["problems"], what="it is mended")
    assert all(line.isprintable() for line in scene.host.journal("tidegated.service").split("\n"))
    for path in (scene.host.root / OUTBOX[1:]).iterdir():
        assert all(line.isprintable() for line in path.read_text().split("\n")), path


def test_another_configuration_is_named_by_option_or_environment(scene: Scene) -> None:
    scene.host.write("/tmp/other.yaml", "paths:\n  control_socket: /run/other.sock\n")
    for options in ({"arguments": ["--config", "/tmp/other.yaml", "status"]}, {"env": {"TIDEGATE_CONFIG": "/tmp/other.yaml"}}):
        arguments: Any = options.get("arguments", ["status"])
        done = scene.tidegate(*arguments, env=options.get("env"))
        assert done.returncode == 1
        assert "/run/other.sock" in done.stderr
    bad = "paths:\n  control_sokcet: /run/other.sock\n"
    scene.host.write("/tmp/bad.yaml", bad)
    done = scene.tidegate("--config", "/tmp/bad.yaml", "status", "--json")
    assert done.returncode == 1  # who names a file means another daemon: none is asked in its place
    assert json.loads(done.stdout)["code"] == "unknown_key"
    assert (json.loads(done.stdout)["file"], json.loads(done.stdout)["line"]) == ("/tmp/bad.yaml", 2)
    scene.host.write("/etc/tidegate/conf.d/99-bad.yaml", bad)
    done = scene.tidegate("status", "--json")
    scene.host.run("rm /etc/tidegate/conf.d/99-bad.yaml")
    assert done.returncode == 0  # a mistake in the host's own file keeps nobody from seeing who can get in, and is said
    assert json.loads(done.stdout)["host_id"] == scene.host_id
    assert "99-bad.yaml:2: paths.control_sokcet" in done.stderr


def test_keys_are_made_and_grants_signed_on_the_installed_host_too(scene: Scene) -> None:
    """With Debian's own libraries, which are older than a developer's."""
    scene.host.run("mkdir -p /tmp/keys")
    asked(scene, "keygen", "/tmp/keys/k.jwk", "--issuer", ISSUER, "--public", "/tmp/keys/k.jwks")
    assert asked(scene, "keygen", "/tmp/keys/k.jwk", "--issuer", ISSUER, status=1)["code"] == "key_file_exists"
    assert scene.host.run("stat --format '%a %U' /tmp/keys/k.jwk").stdout == "600 root\n"
    scene.host.write("/tmp/keys/claims.json", json.dumps(scene.claims(account("jit-signed"))))
    asked(scene, "sign", "/tmp/keys/claims.json", "--key", "/tmp/keys/k.jwk", "--out", "/tmp/keys/g.jwt")
    verified = asked(
        scene, "verify", "/tmp/keys/g.jwt", "--keys", "/tmp/keys/k.jwks", "--host", scene.host_id, "--policy", POLICY_FILE
    )
    assert (verified["verdict"], verified["rule"]) == ("valid", "contractors")
    assert asked(scene, "plan", "/tmp/keys/g.jwt", status=3)["code"] == "unknown_key"
