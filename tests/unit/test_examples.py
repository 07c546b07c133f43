"""Every rule of examples/policy.d and docs/POLICY.md takes the grant that it is for, and not one a step beyond; docs/LSM.md
gives each of our places a label."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from agent import policy, trust
from agent.assembly import registry
from agent.config import Paths
from tests.unit.test_docs import ROOT, blocks, texts

PLACES = {str(item.default) for item in dataclasses.fields(Paths)}
NOW = 1_795_302_999
HOST = "urn:example:web1"
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBnc8i9vGk7Rfw1reGCxSy82P4TZjXaxZnTjibyr7uwi"
ACCESS, PAGER, CI = "https://access.example.com", "https://pager.example.com", "https://ci.example.com"
MADE = {kid: trust.generate_key(kid, (ACCESS, PAGER, CI), f"{kid}@example.com") for kid in ("carol", "dana")}
RING = trust.keyring({"keys": [public for _, public in MADE.values()]})
DECODERS = policy.decoders(registry())
ONE, BOTH = ("carol",), ("carol", "dana")
NGINX = "/usr/bin/systemctl restart nginx"


def account(login: str = "jit-alice", **more: object) -> dict[str, object]:
    return {"type": "account", "identifier": login, **more}


def ssh(login: str = "jit-alice", **more: object) -> dict[str, object]:
    return {"type": "ssh", "identifier": login, **({} if "principals" in more else {"keys": [SSH_KEY]}), **more}


def sudo(*commands: str) -> dict[str, object]:
    return {"type": "sudo", "identifier": "jit-alice", "commands": list(commands)}


def docker(login: str) -> dict[str, object]:
    return {"type": "group", "identifier": login, "groups": ["docker"]}


ROLE = {"type": "role", "identifier": "jit-alice", "name": "db-oncall"}
LEE = ssh(principals=["lee@example.com"], source_address=["192.0.2.7"])
CONTRACTOR = {"iss": ACCESS, "sub": "a@contractor.example", "ticket": "INC-42"}
# rule → hours, who signs, claims; then what is changed in them, and the code that this has.
CASES: dict[str, tuple[float, tuple[str, ...], dict[str, Any], dict[str, Any], str]] = {
    "contractor-web": (
        8,
        ONE,
        {**CONTRACTOR, "authorization_details": [account(), ssh(source_address=["10.20.3.4"]), sudo(NGINX, "/usr/sbin/nginx -t")]},
        {"ticket": "INC-"},
        "ticket_invalid",
    ),
    "upload": (
        2,
        ONE,
        {"iss": ACCESS, "sub": "erin", "authorization_details": [account("up-erin"), ssh("up-erin", actions=["sftp"])]},
        {"authorization_details": [account("up-erin"), ssh("up-erin")]},
        "action_not_allowed",
    ),
    "deploy-window": (
        0.5,
        ONE,
        {"iss": CI, "sub": "release-bot@example.com", "ticket": "REL-7", "authorization_details": [docker("deploy")]},
        {"authorization_details": [docker("operator")]},
        "existing_not_allowed",
    ),
    "on-call": (
        8,
        ONE,
        {"iss": PAGER, "sub": "lee@example.com", "authorization_details": [ROLE, LEE]},
        {"authorization_details": [ROLE, ssh(principals=["lee@example.com"])]},
        "source_required",
    ),
    "break-glass": (
        1,
        BOTH,
        {
            "iss": ACCESS,
            "sub": "grace@example.com",
            "reason": "down",
            "authorization_details": [account(), ssh(), sudo("/bin/bash")],
        },
        {"reason": None},
        "reason_required",
    ),
    "watched": (
        8,
        ONE,
        {"iss": ACCESS, "sub": "kim", "authorization_details": [account(), ssh()]},
        {"authorization_details": [account("other-kim"), ssh("other-kim")]},
        "prefix_required",
    ),
}


def sources() -> list[tuple[str, str]]:
    """``(rule's name, the whole file)`` of every rule there is in the two places."""
    files = [texts(path) for path in sorted((ROOT / "examples/policy.d").glob("*.yaml"))] + blocks(ROOT / "docs/POLICY.md", "yaml")
    return [(name, text) for text in files for name in re.findall(r"^  - name: (\S+)", text, re.MULTILINE)]


def verdict(folder: Path, text: str, hours: float, signers: tuple[str, ...], claims: dict[str, Any]) -> str:
    """The rule's name, or the code of the refusal."""
    file = folder / "policy.yaml"
    file.write_text(text)
    file.chmod(0o644)
    whole = {"aud": HOST, "iat": NOW, "nbf": NOW, "exp": NOW + int(hours * 3600), "jti": "g-1", **claims}
    whole = {name: value for name, value in whole.items() if value is not None}
    token = trust.sign_general(whole, trust.TYP_GRANT, [MADE[kid][0] for kid in signers]).encode()
    grant = trust.decode(trust.verify(token, RING, typ=trust.TYP_GRANT), host_id=HOST, now_s=NOW, decoders=DECODERS)
    limits = policy.load_policy_file(file, DECODERS)
    found = policy.judge(grant, limits, now_s=NOW, live=(), is_ours=lambda _login: False)
    return found.code if isinstance(found, policy.Denied) else found.rule


@pytest.mark.parametrize(("name", "text"), sources(), ids=lambda value: value if "\n" not in value else "")
def test_every_rule_of_the_examples_takes_its_grant_and_not_one_a_step_beyond(name: str, text: str, tmp_path: Path) -> None:
    hours, signers, claims, changed, code = CASES[name]
    assert verdict(tmp_path, text, hours, signers, claims) == name
    assert verdict(tmp_path, text, hours, signers, {**claims, **changed}) == code
    assert verdict(tmp_path, text, hours + 24, signers, claims) == "duration_too_long"
    if len(signers) > 1:
        assert verdict(tmp_path, text, hours, ONE, claims) == "approvals_missing"


def test_the_page_on_selinux_labels_each_place_that_the_packages_or_the_defaults_have() -> None:
    (block,) = [found for found in blocks(ROOT / "docs/LSM.md", "text") if "object_r" in found]
    contexts = [line.split() for line in block.splitlines()]
    installed = re.findall(r" (/\S+)$", texts(ROOT / "packaging/install.sh"), re.MULTILINE)
    ours = {*PLACES, *installed, "/usr/lib/tidegate/agent", "/usr/lib/tidegate/tenant-python", "/var/lib/tidegate/backstop"}
    for pattern, _ in contexts:
        assert any(re.fullmatch(pattern, place) for place in ours | {"/var/lib/tidegate/spool", "/run/tidegate/recorder"}), pattern
    places = {place for place in PLACES if place.startswith(("/etc/tidegate", "/var/lib/tidegate", "/run/tidegate/"))}
    assert not [place for place in places if not any(re.fullmatch(pattern, place) for pattern, _ in contexts)]
