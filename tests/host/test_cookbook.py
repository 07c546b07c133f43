"""docs/COOKBOOK.md on a booted host: each rule alone in policy.d, its grant opened for real and used, the other one refused."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host.scene import Claims, Scene, public
from tests.hosts.machine import Host
from tests.pages import Example, Recipe, recipes

ACCESS, CI = "https://access.example.com", "https://ci.example.com"
SECONDS = {"h": 3600, "m": 60}
LISTS_JOURNAL = "sudo -n /usr/bin/journalctl --no-pager --unit"

pytestmark = pytest.mark.host(beside=True)


@pytest.fixture(scope="module")
def cooking(scene: Scene) -> Scene:
    """The host as the recipes suppose it: the page's keys, the accounts, groups and programs that they name."""
    host = scene.host
    for kid, issuer, approver in (
        ("cp-1", ACCESS, None),
        ("carol", ACCESS, "carol@example.com"),
        ("dana", ACCESS, "dana@example.com"),
        ("ci", CI, None),
    ):
        scene.new_key(kid, issuer, approver=approver)
    host.run("groupadd dba; groupadd docker; useradd --create-home deploy; useradd operator", check=False)
    host.write("/usr/local/sbin/deploy-web", "#!/bin/sh\necho deployed by $(id -un)\n", mode=0o755)
    host.run("ssh-keygen -q -t ed25519 -N '' -f /root/ca && cp /root/ca.pub /etc/tidegate/ssh_user_ca.pub")
    host.wait_for(lambda: scene.status()["problems"] == [], what="the host is ready")
    return scene


def seconds(lifetime: str) -> int:
    return int(lifetime[:-1]) * SECONDS[lifetime[-1]]


def claims(scene: Scene, example: Example, ssh_key: Path) -> Claims:
    """The example's, for this host and from now, with a key that is at hand."""
    details = [
        {**entry, **({"keys": [public(ssh_key)]} if "keys" in entry else {})} for entry in example.claims["authorization_details"]
    ]
    more = {name: value for name, value in example.claims.items() if name not in {"aud", "authorization_details"}}
    return scene.claims(*details, lifetime=seconds(example.lifetime), **{"reason": None, **more})


def answer(scene: Scene, example: Example, ssh_key: Path) -> dict[str, str]:
    token = scene.sign(claims(scene, example, ssh_key), *example.signers)
    found: dict[str, str] = scene.answer_for(scene.drop(token))
    return found


@pytest.fixture(autouse=True)
def nothing_stays_open(cooking: Scene) -> Iterator[None]:
    yield
    cooking.tidegate("revoke", "--all")


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.title)
def test_every_recipe_is_opened_and_refused_on_a_host_as_the_page_says(cooking: Scene, ssh_key: Path, recipe: Recipe) -> None:
    cooking.policy(recipe.policy)
    assert cooking.status()["problems"] == []
    taken = answer(cooking, recipe.taken, ssh_key)
    assert taken["verdict"] == "accepted", taken
    (grant,) = cooking.status()["grants"]
    assert grant["state"] == "open"
    if use := USED.get(recipe.title):
        use(cooking.host, ssh_key)
    done = cooking.tidegate("revoke", "--all", "--json")
    assert json.loads(done.stdout)["revoked"][0]["ended"], done.stdout
    refused = answer(cooking, recipe.refused, ssh_key)
    assert (refused["verdict"], refused["code"]) == ("refused", recipe.refused.code)


# What a grant is good for, and not


def reads_one_log(host: Host, key: Path) -> None:
    assert host.ssh("jit-bob", key, f"{LISTS_JOURNAL} cron.service").returncode == 0
    assert host.ssh("jit-bob", key, f"{LISTS_JOURNAL} ssh.service").returncode != 0
    assert host.ssh("jit-bob", key, "journalctl --no-pager --quiet --unit cron.service").stdout == ""


def moves_files(host: Host, key: Path) -> None:
    argv = host.ssh_argv("up-erin", key)
    words = ["sftp", "-q", "-b", "-", *argv[1 : argv.index("-l")], f"up-erin@{host.address}"]
    done = subprocess.run(words, input=f"put {key}.pub here.pub\nls\n", capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0 and "here.pub" in done.stdout, done.stderr
    assert host.ssh("up-erin", key, "echo in").stdout == ""


def hops(host: Host, key: Path) -> None:
    argv = host.ssh_argv("hop-heidi", key, options=("-W", "127.0.0.1:22"))
    done = subprocess.run(argv, input="", capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("SSH-2.0-"), done.stderr
    assert host.ssh("hop-heidi", key, "echo in").stdout == ""


def deploys(host: Host, key: Path) -> None:
    assert host.ssh("ci-deploy", key, "sudo -n /usr/local/sbin/deploy-web").stdout == "deployed by root\n"
    assert host.ssh("ci-deploy", key, "sudo -n /usr/local/sbin/deploy-web now").returncode != 0


def has_root(host: Host, key: Path) -> None:
    assert host.ssh("jit-grace", key, "sudo -n /bin/bash -c 'id -u'").returncode != 0, "only without arguments"
    assert host.ssh("jit-grace", key, "echo id -u | sudo -n /bin/bash").stdout == "0\n"


def is_in_docker(host: Host, _key: Path) -> None:
    assert "docker" in host.run("id -nG deploy").stdout.split()


def restarts_a_database(host: Host, key: Path) -> None:
    assert "dba" in host.ssh("jit-frank", key, "id -nG").stdout.split()
    listed = host.ssh("jit-frank", key, "sudo -n -l").stdout
    assert "/usr/bin/systemctl restart postgresql.service" in listed


USED: dict[str, Callable[[Host, Path], None]] = {
    "Reading logs, and nothing else": reads_one_log,
    "Files over sftp, no shell": moves_files,
    "A DBA, approved by two people": restarts_a_database,
    "Break glass: a root shell": has_root,
    "A jump host": hops,
    "A CI job": deploys,
    "An account that is there gets a group for an hour": is_in_docker,
}


def test_what_is_used_is_a_recipe() -> None:
    assert USED.keys() <= {recipe.title for recipe in recipes()}
