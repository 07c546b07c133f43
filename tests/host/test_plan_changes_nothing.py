"""`tidegate plan` shows what a grant would change and changes nothing, not even the time of a file; with a daemon or without."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from agent.host.clock import rfc3339
from tests.host.bad_grants import public_key
from tests.host.scene import ALLOWED, ISSUER, OUTBOX, Entry, Scene, account, group, role, set_up, ssh, sudo
from tests.hosts.machine import Host
from tests.hosts.snapshot import Snapshot, differences

pytestmark = pytest.mark.host(beside=True)

WHERE = ("/etc", "/run", "/home", "/var/lib")
NOT_OURS = {
    "/run/systemd": "systemd's and logind's own: a unit's start and stop, the journal's streams, which every command may cause",
    "/run/log/journal": "journald writes what is logged",
    "/run/mount": "the mount table's utab, kept by systemd and libmount",
    "/run/udev": "udev's",
    "/var/lib/systemd": "random seed, timers' stamps, linger: systemd's",
}
MARKER = "/tmp/tidegate-plan-marker"

POLICY = f"""\
roles:
  restarter:
    entries:
      - {{ type: account, shell: /bin/sh }}
      - {{ type: sudo, commands: ["{ALLOWED}"] }}
rules:
  - name: everything
    issuers: [{ISSUER}]
    subjects: [alice@example.com]
    accounts: {{ prefix: jit-, home: [ephemeral, archive], groups: [games], existing: [clerk] }}
    ssh: {{ principals: ["alice@example.com"], actions: [login, exec, sftp, port-forwarding] }}
    sudo: {{ commands: ["{ALLOWED}"] }}
    groups: [games]
    roles: [restarter]
  - name: two
    issuers: [{ISSUER}]
    subjects: [bob@example.com]
    accounts: {{ prefix: jit- }}
    approvals: {{ threshold: 2, distinct: approvers }}
"""


class Plan(NamedTuple):
    """A grant to plan: its entries, how it differs, who signs, and what must stand in the plan (enforcer.action)."""

    entries: tuple[Entry, ...]
    more: dict[str, Any]
    kids: tuple[str, ...]
    steps: frozenset[str]


def plan(*entries: Entry, steps: str, kids: tuple[str, ...] = (), **more: Any) -> Plan:
    return Plan(entries, more, kids, frozenset(steps.split()))


ACCOUNT = "account.create account.home account.membership account.tenant account.unlock"
KEY = public_key()
GOOD = {
    "account": plan(account(), steps=ACCOUNT),
    "account with a group and an archive": plan(account(groups=["games"], home="archive", full_name="Alice Ng"), steps=ACCOUNT),
    "ssh by key": plan(account(), ssh("jit-alice", KEY, source_address=["10.1.0.0/16"]), steps=f"{ACCOUNT} ssh.keys"),
    "ssh by certificate": plan(account(), ssh(principals=["alice@example.com"]), steps=f"{ACCOUNT} ssh.principals"),
    "sudo": plan(account(), sudo(), steps=f"{ACCOUNT} sudo.rule"),
    "sudo for one who is there": plan(sudo("clerk"), steps="sudo.rule"),
    "group for one who is there": plan(group("clerk", "games"), steps="group.membership"),
    "role": plan(role("restarter"), steps=f"{ACCOUNT} sudo.rule"),
    "begins later": plan(account(), steps=ACCOUNT, nbf_in=3600),
    "two of two": plan(account(), steps=ACCOUNT, sub="bob@example.com", kids=("approver-1", "approver-2")),
    "two accounts": plan(account("jit-a"), account("jit-b"), ssh("jit-b", KEY), steps=f"{ACCOUNT} ssh.keys"),
}
BAD: dict[str, Callable[[Scene], bytes]] = {
    "token_shape": lambda scene: b"junk",
    "token_too_long": lambda scene: b"a" * 100_000,
    "signature_invalid": lambda scene: scene.grant()[:-10] + b"AAAAAAAAAA",
    "unknown_key": lambda scene: scene.sign(scene.claims(), "stranger"),
    "wrong_host": lambda scene: scene.grant(aud="urn:tidegate:other"),
    "expired": lambda scene: scene.grant(iat=1, nbf=1, exp=2),
    "prefix_required": lambda scene: scene.grant(account("mallory")),
    "login_invalid": lambda scene: scene.grant(account("a\nb")),
    "account_exists": lambda scene: scene.grant(account("jit-taken")),
    "approvals_missing": lambda scene: scene.grant(sub="bob@example.com"),
    "recording_unavailable": lambda scene: scene.grant(account(), group("clerk", "games"), recording={"required": True}),
}


@pytest.fixture(scope="module")
def scene(shared_tidegate_host: Host) -> Scene:
    host = shared_tidegate_host
    host.run("useradd --create-home clerk; useradd --no-create-home jit-taken; groupadd --force games")
    host.run("ssh-keygen -q -t ed25519 -N '' -f /root/ca && cp /root/ca.pub /etc/tidegate/ssh_user_ca.pub")
    scene = set_up(host, POLICY)
    for number in (1, 2):
        scene.new_key(f"approver-{number}", ISSUER, approver=f"person-{number}@example.com")
    scene.restart()
    return scene


@pytest.fixture(params=["daemon", "files"])
def planner(request: pytest.FixtureRequest, scene: Scene) -> Iterator[str]:
    """With tidegated running, and with it stopped."""
    if request.param == "files":
        scene.stop()
    yield request.param
    if request.param == "files":
        scene.start()


def listing(scene: Scene) -> Snapshot:
    found = scene.host.snapshot(WHERE)
    return {path: entry for path, entry in found.items() if not any(f"{path}/".startswith(f"{other}/") for other in NOT_OURS)}


def touched(scene: Scene) -> list[str]:
    """What of WHERE was written, made or removed (its folder then) since the marker, though it look the same."""
    prune = " -o ".join(f"-path {path}" for path in NOT_OURS)
    found = scene.host.run(f"find {' '.join(WHERE)} \\( {prune} \\) -prune -o -cnewer {MARKER} -print").stdout
    # The daemon notes how late it is every ten seconds while a grant is live; what it says of grants is compared by itself.
    return [path for path in found.split() if not path.endswith(("/state.db-wal", "/state.db-shm"))]


def asked(scene: Scene, token: bytes, *options: str) -> tuple[int, str]:
    done = scene.tidegate("plan", "-", *options, input=token.decode())
    assert "Traceback" not in done.stderr
    assert not options or not done.stderr
    return done.returncode, done.stdout + done.stderr


def test_planning_changes_nothing_and_says_what_would_change(scene: Scene, planner: str) -> None:
    before = listing(scene)
    assert len(before) > 300
    scene.host.run(f"sleep 0.02; touch {MARKER}; sleep 0.02")
    for name, good in GOOD.items():
        claims = scene.claims(*good.entries, **{key: value for key, value in good.more.items() if key != "nbf_in"})
        claims["nbf"] += good.more.get("nbf_in", 0)
        claims["exp"] += good.more.get("nbf_in", 0)
        status, printed = asked(scene, scene.sign(claims, *good.kids), "--json")
        assert status == 0, (name, printed)
        found = json.loads(printed)
        keys = {"jti", "issuer", "subject", "rule", "access", "begins", "ends", "uids", "steps", "planned_by", "not_containable"}
        keys |= {"fresh_within_s", "supersedes", "undone", "narrowed"}
        assert found.keys() == keys, name
        assert {f"{step['enforcer']}.{step['action']}" for step in found["steps"]} == good.steps, name
        assert (found["planned_by"], found["jti"], found["subject"]) == (planner, claims["jti"], claims["sub"])
        assert (found["begins"], found["ends"]) == tuple(rfc3339(claims[key] * 10**9) for key in ("nbf", "exp"))
        assert all({"enforcer", "action", "stage", "phase", "target", "summary", "data"} == step.keys() for step in found["steps"])
    assert differences(before, listing(scene)) == []
    assert touched(scene) == []
    assert scene.host.run("journalctl --unit tidegated --grep refused --quiet", check=False).stdout == ""


def test_planning_what_would_be_refused_changes_nothing_and_says_why(scene: Scene, planner: str) -> None:
    before = listing(scene)
    scene.host.run(f"sleep 0.02; touch {MARKER}; sleep 0.02")
    for code, make in BAD.items():
        status, printed = asked(scene, make(scene), "--json")
        found = json.loads(printed)
        assert (status, found["code"], found["verdict"]) == (3, code, "refused"), printed
        assert found.keys() == {"ok", "code", "reason", "field", "verdict"}
    assert differences(before, listing(scene)) == []
    assert touched(scene) == []
    assert not [path for path in (scene.host.root / OUTBOX[1:]).iterdir() if "-answer-" in path.name]


def test_a_planned_grant_can_still_be_opened_and_then_no_longer_be_planned(scene: Scene) -> None:
    token = scene.grant(account("jit-planned"))
    _, printed = asked(scene, token, "--json")
    name = scene.drop(token)
    jti = scene.answer_for(name)["jti"]
    (opened,) = scene.status()["grants"]
    assert opened["uids"] == json.loads(printed)["uids"]
    assert json.loads(asked(scene, token, "--json")[1])["code"] == "jti_replayed"
    scene.stop()
    by_files = scene.tidegate("plan", "-", input=token.decode())
    scene.start()
    assert by_files.returncode == 3
    assert "jti_replayed" in by_files.stderr
    scene.ask("revoke", jti=jti)
    (
        scene.host.root
        / OUTBOX[1:]
        / next(path.name for path in (scene.host.root / OUTBOX[1:]).iterdir() if "-answer-" in path.name)
    ).unlink()


def test_without_a_daemon_what_a_killed_one_journaled_last_counts(scene: Scene) -> None:
    """SQLite leaves it in the write-ahead log; a plan that looked past it would allow a replay and give a UID twice."""
    token = scene.grant(account("jit-killed"))
    jti = scene.answer_for(scene.drop(token))["jti"]
    (opened,) = scene.status()["grants"]
    scene.host.run("systemctl mask --runtime tidegated && systemctl kill --signal KILL tidegated")
    try:
        scene.host.wait_for(lambda: scene.pid() == 0, what="the daemon is dead")
        assert scene.host.run("stat --format %s /var/lib/tidegate/state.db-wal").stdout.strip() != "0"
        before = listing(scene)
        assert json.loads(asked(scene, token, "--json")[1])["code"] == "jti_replayed"
        other = json.loads(asked(scene, scene.grant(account("jit-other")), "--json")[1])
        assert other["planned_by"] == "files"
        assert set(other["uids"].values()) & set(opened["uids"].values()) == set()
        assert differences(before, listing(scene)) == []
    finally:
        scene.host.run("systemctl unmask --runtime tidegated")
        scene.start()
    scene.ask("revoke", jti=jti)


def test_without_a_daemon_a_plan_says_so_and_a_bad_file_is_an_error(scene: Scene) -> None:
    token = scene.grant()
    scene.stop()
    try:
        status, printed = asked(scene, token)
        assert status == 0
        assert "planned without it" in printed
        scene.host.write("/etc/tidegate/policy.d/60-bad.yaml", "rules:\n  - isuers: []\n")
        status, printed = asked(scene, token, "--json")
        found = json.loads(printed)
        assert (status, found["code"], found["file"], found["line"]) == (1, "unknown_key", "/etc/tidegate/policy.d/60-bad.yaml", 2)
        done = scene.tidegate("plan", "-", user="clerk", input=token.decode())
        assert done.returncode == 1
        assert "agent_unreachable" in done.stderr or "agent_forbidden" in done.stderr  # a killed daemon leaves its socket
    finally:
        scene.host.run("rm -f /etc/tidegate/policy.d/60-bad.yaml")
        scene.start()


def test_on_a_host_where_no_daemon_ever_ran_a_plan_makes_nothing(tidegate_host: Host, scene: Scene) -> None:
    before = tidegate_host.snapshot(("/etc/tidegate", "/var/lib/tidegate", "/run/tidegate"))
    done = tidegate_host.run(["tidegate", "plan", "-", "--json"], check=False, input=scene.grant().decode())
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "key_file_missing")
    assert differences(before, tidegate_host.snapshot(("/etc/tidegate", "/var/lib/tidegate", "/run/tidegate"))) == []
