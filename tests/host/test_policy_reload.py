"""Policy and keys are taken up as they change; what is bad changes nothing and is said everywhere; what is gone allows nothing."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.host.scene import ISSUER, POLICY, POLICY_FILE, UNIT, Scene, account, changes, sudo

pytestmark = pytest.mark.host(beside=True)

POLICY_DIR, TRUST_DIR = "/etc/tidegate/policy.d", "/etc/tidegate/trust.d"
ONLY_GAMES = f"""\
rules:
  - name: games-only
    issuers: [{ISSUER}]
    accounts: {{ prefix: play- }}
"""


@pytest.fixture(autouse=True)
def as_before(scene: Scene) -> Iterator[None]:
    """Each test begins and ends with the scene's own policy and keys in force, and nothing on the host."""
    before, kept = scene.state(("/run/userdb", "/home", "/run/tidegate")), scene.host.read(f"{TRUST_DIR}/cp-1.jwks")
    pid = scene.pid()
    yield
    scene.host.run(f"mkdir -p {POLICY_DIR} {TRUST_DIR}; find {POLICY_DIR} -name '*.yaml' -not -name 50-test.yaml -delete")
    scene.host.run(f"rm -f {TRUST_DIR}/zz-* {TRUST_DIR}/fresh.jwks")
    scene.host.write(f"{TRUST_DIR}/cp-1.jwks", kept)
    scene.host.write(POLICY_FILE, POLICY)
    scene.host.wait_for(lambda: verdict(scene) == "accepted" and not scene.status()["problems"], what="all is as before")
    assert changes(before, scene.state(("/run/userdb", "/home", "/run/tidegate"))) == []
    assert scene.pid() == pid, "the daemon was restarted"


def verdict(scene: Scene, login: str = "jit-probe", *kids: str) -> str:
    """What becomes of a grant now: ``accepted`` (and revoked again), or the code."""
    answer = scene.answer_for(scene.drop(scene.sign(scene.claims(account(login)), *kids)))
    if answer["verdict"] == "accepted":
        scene.ask("revoke", jti=answer["jti"])
    return str(answer["code"] or answer["verdict"])


def becomes(scene: Scene, expected: str, login: str = "jit-probe", *kids: str) -> None:
    """A change is taken up within moments, without a restart."""
    scene.host.wait_for(lambda: verdict(scene, login, *kids) == expected, timeout=5, what=f"the verdict is {expected}")


def told(scene: Scene, where: str, code: str) -> None:
    """``status``, ``doctor`` and journald all say it, with the place."""
    (problem,) = scene.host.wait_for(lambda: scene.status()["problems"], what="a problem is told")
    assert where in problem
    assert code in problem
    assert "in force" in problem
    assert f"! {problem}" in scene.tidegate("status").stdout
    doctor = scene.tidegate("doctor", "--json")
    findings: list[dict[str, Any]] = json.loads(doctor.stdout)["checks"]
    assert doctor.returncode == 1
    assert [check for check in findings if check["level"] == "fail" and where in check["detail"] and code in check["detail"]]
    assert [line for line in scene.host.journal(UNIT).splitlines() if where in line and code in line]


def test_a_good_change_takes_effect_without_a_restart(scene: Scene) -> None:
    assert verdict(scene) == "accepted"
    scene.host.write(POLICY_FILE, ONLY_GAMES)
    becomes(scene, "prefix_required")
    becomes(scene, "accepted", "play-probe")


def test_a_change_written_in_place_takes_effect_too(scene: Scene) -> None:
    """As some editors and ``echo >`` do it."""
    scene.host.run(f"cat > {POLICY_FILE}", input=ONLY_GAMES)
    becomes(scene, "prefix_required")


@pytest.mark.parametrize(
    ("text", "line", "key", "code"),
    [
        ("rules:\n  - name: x\n    isuers: [a]\n", 3, "rules[0].isuers", "unknown_key"),
        (
            "rules:\n  - name: x\n    issuers: [https://cp.example]\n    max_duration: 8\n",
            4,
            "rules[0].max_duration",
            "duration_invalid",
        ),
        ("rules: [\n", 2, "", "yaml_syntax"),
        ("rules: &a []\nroles: *a\n", 1, "", "yaml_alias"),
        ("rules: !!python/object/apply:os.system [id]\n", 1, "rules", "yaml_tag"),
        ("extra_root_equivalent: [../x]\n", 1, "extra_root_equivalent[0]", "path_invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)
def test_a_bad_file_keeps_the_old_policy_in_force_and_is_loud(scene: Scene, text: str, line: int, key: str, code: str) -> None:
    bad = f"{POLICY_DIR}/90-bad.yaml"
    scene.host.write(bad, text)
    told(scene, f"{bad}:{line}: {key}", code)
    assert verdict(scene) == "accepted"
    assert verdict(scene, "play-probe") == "prefix_required"
    scene.host.run(["rm", bad])
    scene.host.wait_for(lambda: not scene.status()["problems"], what="it is no problem any more")


def test_a_file_that_others_may_write_is_no_policy(scene: Scene) -> None:
    scene.host.run(f"chmod o+w {POLICY_FILE}")
    told(scene, POLICY_FILE, "file_unsafe")
    scene.host.run(f"chmod o-w {POLICY_FILE}")
    scene.host.wait_for(lambda: not scene.status()["problems"], what="it is no problem any more")


def test_a_deleted_policy_allows_nothing(scene: Scene) -> None:
    scene.host.run(["rm", POLICY_FILE])
    becomes(scene, "no_rule")
    assert scene.status()["problems"] == []
    assert json.loads(scene.tidegate("doctor", "--json").stdout)["ok"] is True


def test_a_deleted_folder_allows_nothing_and_one_that_comes_back_is_taken_up(scene: Scene) -> None:
    scene.host.run(["rm", "-r", POLICY_DIR])
    becomes(scene, "no_rule")
    scene.host.run(["mkdir", POLICY_DIR])
    scene.host.write(POLICY_FILE, ONLY_GAMES)
    becomes(scene, "accepted", "play-probe")
    scene.host.write(POLICY_FILE, POLICY)
    becomes(scene, "accepted")


def test_a_folder_exchanged_as_a_whole_is_taken_up(scene: Scene) -> None:
    """As configuration management does it: a new folder, renamed into place."""
    scene.host.run(f"mkdir {POLICY_DIR}.new && mv {POLICY_DIR} {POLICY_DIR}.old && mv {POLICY_DIR}.new {POLICY_DIR}")
    becomes(scene, "no_rule")
    scene.host.write(POLICY_FILE, ONLY_GAMES)
    becomes(scene, "accepted", "play-probe")
    scene.host.run(["rm", "-r", f"{POLICY_DIR}.old"])


def test_a_deleted_folder_of_keys_trusts_nobody(scene: Scene) -> None:
    scene.host.run(["rm", "-r", TRUST_DIR])
    becomes(scene, "unknown_key")
    (problem,) = scene.status()["problems"]
    assert TRUST_DIR in problem
    assert "trust_folder" in problem


def test_an_inbox_that_was_deleted_is_made_and_watched_again(scene: Scene) -> None:
    scene.host.run("rm -r /var/lib/tidegate/spool/inbox")
    scene.host.wait_for(scene.inbox.exists, what="the inbox is back")
    becomes(scene, "accepted")
    assert scene.host.run("stat --format '%a %U %G' /var/lib/tidegate/spool/inbox").stdout == "1770 root tidegate-courier\n"
    assert not [found for found in scene.status()["refusals"] if not found["source"]]


def test_a_key_that_is_taken_away_opens_nothing_more_and_what_is_open_ends_in_its_time(scene: Scene) -> None:
    jti = scene.open(account("jit-standing"), sudo("jit-standing"))
    scene.host.run(["rm", f"{TRUST_DIR}/cp-1.jwks"])
    becomes(scene, "unknown_key")
    assert [grant["state"] for grant in scene.status()["grants"]] == ["open"]
    scene.ask("revoke", jti=jti)


def test_a_grant_that_waits_is_not_opened_once_its_key_is_gone(scene: Scene) -> None:
    claims = scene.claims(account("jit-later"))
    assert scene.answer_for(scene.drop(scene.sign({**claims, "nbf": claims["nbf"] + 3})))["verdict"] == "accepted"
    scene.host.run(["rm", f"{TRUST_DIR}/cp-1.jwks"])
    scene.host.wait_for(lambda: not scene.status()["grants"], what="the pending grant is over")
    found = scene.ask("grant", jti=claims["jti"])["grants"][0]
    assert (found["state"], found["cause"], found["opened"]) == ("ended", "policy", None)
    assert "unknown_key" in found["cause_text"]


def test_a_grant_that_waits_is_not_opened_once_the_policy_says_no(scene: Scene) -> None:
    claims = scene.claims(account("jit-later"))
    scene.answer_for(scene.drop(scene.sign({**claims, "nbf": claims["nbf"] + 3})))
    scene.host.write(POLICY_FILE, ONLY_GAMES)
    scene.host.wait_for(lambda: not scene.status()["grants"], what="the pending grant is over")
    assert "prefix_required" in scene.ask("grant", jti=claims["jti"])["grants"][0]["cause_text"]


def test_a_new_key_is_taken_up_and_one_kid_never_stands_for_two_keys(scene: Scene) -> None:
    scene.new_key("fresh", ISSUER)
    becomes(scene, "accepted", "jit-probe", "fresh")
    copy = json.loads(scene.host.read(f"{TRUST_DIR}/cp-1.jwks"))
    copy["keys"][0]["kid"] = "fresh"
    scene.host.write(f"{TRUST_DIR}/zz-evil.jwks", json.dumps(copy))
    told(scene, f"{TRUST_DIR}/zz-evil.jwks", "key_kid_twice")
    assert verdict(scene) == "accepted"
    scene.host.run(["rm", f"{TRUST_DIR}/zz-evil.jwks", f"{TRUST_DIR}/fresh.jwks"])
    becomes(scene, "unknown_key", "jit-probe", "fresh")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("echo '{{' > {}", "json_syntax"),
        ("echo '{{\"keys\": [1]}}' > {}", "key_invalid"),
        ("ln -s /etc/hostname {}", "key_file_kind"),
        ("mkfifo {}", "key_file_kind"),
        ("install -m 666 " + TRUST_DIR + "/cp-1.jwks {}", "key_file_mode"),
        ("install -o nobody " + TRUST_DIR + "/cp-1.jwks {}", "key_file_owner"),
        ("head -c 300000 /dev/zero > {}", "key_file_size"),
    ],
    ids=lambda value: value.split()[0],
)
def test_a_bad_key_file_keeps_the_old_keys_in_force_and_is_loud(scene: Scene, command: str, code: str) -> None:
    bad = f"{TRUST_DIR}/zz-bad.jwks"
    scene.host.run(command.format(bad))
    told(scene, bad, code)
    assert verdict(scene) == "accepted"
    scene.host.run(["rm", bad])
    scene.host.wait_for(lambda: not scene.status()["problems"], what="it is no problem any more")
