"""An upgrade to a version that renamed a key and changed the journal, over an admin's own files and a live grant; and the way back.

That later version is made here: this one's sources with one more step in each table, built by the same packaging/build.py.
"""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.journal.upgrade import SCHEMA_VERSION
from tests.host.scene import ISSUER, POLICY_FILE, UNIT, Scene, account, public, set_up, ssh
from tests.host.test_recording import Terminal
from tests.hosts.machine import Host

pytestmark = pytest.mark.host(beside=True)
REPOSITORY = Path(__file__).resolve().parents[2]
ALICE = "jit-alice"
OLD, NEW = "0.1.0", "0.2.0"
APT = "DEBIAN_FRONTEND=noninteractive apt-get --yes --no-install-recommends"
MAIN, MORE, POLICY = "/etc/tidegate/tidegate.yaml", "/etc/tidegate/conf.d/50-site.yaml", POLICY_FILE
STATE = "/var/lib/tidegate/state.db"

# What the later version has besides: ``admin_group`` is called ``operators`` there, and a grant has a colour.
CHANGED: Mapping[str, Mapping[str, str]] = {
    "agent/forms.py": {
        'Form("configuration")': 'Form("configuration", ((Rename(("admin_group",), "operators"),),))',
    },
    "agent/config.py": {
        '"tenant_group", "admin_group", "account_backend"': '"tenant_group", "operators", "account_backend"',
        "name: section.optional(name, _group,": 'name: section.optional(name.replace("admin_group", "operators"), _group,',
    },
    "agent/journal/upgrade.py": {f"SCHEMA_VERSION = {SCHEMA_VERSION}": f"SCHEMA_VERSION = {SCHEMA_VERSION + 1}"},
    "agent/journal/schema.sql": {"  supersedes TEXT,": "  colour TEXT NOT NULL DEFAULT 'none',\n  supersedes TEXT,"},
}
MAIN_OLD = "# Ours, see the wiki.\nadmin_group: adm   # the night shift too\n\nbackstop: auto\n"
MAIN_NEW = "version: 2\n# Ours, see the wiki.\noperators: adm   # the night shift too\n\nbackstop: auto\n"
POLICY_OLD = f"""\
# Reviewed by Ann.
rules:
  - name: web   # no limit: here
    issuers: [{ISSUER}]
    accounts: {{ prefix: jit- }}
    ssh: {{ actions: [login, exec] }}
    recording:
      mode: required
      limit: 65536   # 64 KiB
"""
POLICY_NEW = "version: 2\n" + POLICY_OLD.replace("limit: 65536", "max_bytes: 65536")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with deb and rpm of this version, and of a later one that renamed and changed something."""
    out, later = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("later")
    shutil.copytree(REPOSITORY, later, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "dist", "tests"))
    for name, edits in CHANGED.items():
        text = (later / name).read_text()
        for before, after in edits.items():
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, after)
        (later / name).write_text(text)
    for source, version in ((REPOSITORY, OLD), (later, NEW)):
        argv = [sys.executable, str(source / "packaging/build.py"), "--version", version, "--out", str(out), "tidegate"]
        subprocess.run(
            argv, check=True, timeout=120, stdout=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "1"}
        )
    return out


@pytest.fixture
def scene(host: Host, packages: Path) -> Scene:
    """A host with this version's package."""
    host.push(packages, "/srv")
    apt(host, f"install {deb(OLD)}")
    host.run("systemctl stop tidegated")
    return set_up(host, POLICY_OLD)


def deb(version: str) -> str:
    return f"/srv/tidegate_{version}-1_all.deb"


def apt(host: Host, words: str) -> str:
    done = host.run(f"{APT} {words}", timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def admins(host: Host) -> str:
    """Who may use the control socket; empty while there is none."""
    return host.run("stat -c %G /run/tidegate/control.sock", check=False).stdout.strip()


def version_of(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def told(scene: Scene) -> str:
    return "\n".join(map(str, scene.status()["problems"]))


def test_an_upgrade_rewrites_the_admins_files_and_the_journal_and_a_live_grant_keeps_its_deadline(
    scene: Scene, ssh_key: Path
) -> None:
    host = scene.host
    host.write(MAIN, MAIN_OLD)
    host.write(MORE, "# nothing of it has changed\ntenant_group: tidegate-tenants\n")
    host.run(f"chmod 0640 {MAIN} && chgrp adm {MAIN} {POLICY}")
    host.wait_for(lambda: admins(host) == "adm", what="the group is taken up")
    host.wait_for(scene._answers_status, what="it answers again")
    jti = scene.open(account(ALICE), ssh(ALICE, public(ssh_key)))
    ends = {grant["jti"]: grant["ends"] for grant in scene.status()["grants"]}
    terminal = Terminal(scene, ssh_key)
    terminal.wait_for(r"\$ ")

    said = apt(host, f"install {deb(NEW)}")
    for path, before, after in ((MAIN, MAIN_OLD, MAIN_NEW), (POLICY, POLICY_OLD, POLICY_NEW)):
        assert host.read(path).decode() == after
        assert host.read(f"{path}.~1~").decode() == before
        assert f"tidegate: {path}: brought from version 1 to 2; before: {Path(path).name}.~1~" in said
    assert host.run(f"stat -c '%a %U %G' {MAIN} {MAIN}.~1~").stdout == "640 root adm\n" * 2
    assert host.run(f"ls {MORE}*").stdout == f"{MORE}\n"
    status = scene.status()
    assert status["problems"] == []
    assert {grant["jti"]: grant["ends"] for grant in status["grants"]} == ends == {jti: ends[jti]}
    assert admins(host) == "adm"
    state = host.root / STATE[1:]
    assert (version_of(state), version_of(state.with_name("state.db.~2~"))) == (SCHEMA_VERSION + 1, SCHEMA_VERSION)
    terminal.type("echo af$((1+1))ter\r")
    terminal.wait_for("af2ter")
    assert host.ssh(ALICE, ssh_key, "echo again").stdout == "again\n"
    assert "in today's form" in host.run("tidegate config migrate").stdout
    assert "tidegate: /etc" not in apt(host, f"install --reinstall {deb(NEW)}"), "the second time there is nothing to tell"

    apt(host, f"install --allow-downgrades {deb(OLD)}")
    host.wait_for(scene._answers_status, what="the older daemon answers, over the newer one's files")
    assert "older Tidegate" in scene.receipt(jti)["cause_text"]
    assert "version_newer" in told(scene)
    assert "journal_newer" in told(scene)
    assert scene.status()["grants"] == []
    assert host.run("ls /var/lib/tidegate").stdout.count("state.db.newer-") >= 1
    assert version_of(state) == SCHEMA_VERSION
    assert admins(host) == "adm", "the last good configuration counts"
    answer = scene.answer_for(scene.drop(scene.grant(account(ALICE), ssh(ALICE, public(ssh_key)))))
    assert answer["code"] == "jti_replayed", "of what was used nothing may be forgotten"
    host.run(f"mv {MAIN}.~1~ {MAIN}")
    host.wait_for(
        lambda: "version_newer" not in str(scene._answers_status().get("problems", "version_newer")), what="it is taken up"
    )
    claims = scene.claims(account(ALICE), ssh(ALICE, public(ssh_key)))
    host.wait_for(
        lambda: scene.answer_for(scene.drop(_later(scene, claims)))["verdict"] == "accepted", 90, "grants are taken again"
    )
    assert host.ssh(ALICE, ssh_key, "echo older").stdout == "older\n"
    terminal.client.wait(20)
    terminal.close()


def _later(scene: Scene, claims: Mapping[str, object]) -> bytes:
    """The same wish once more, signed now."""
    now = scene.claims()
    return scene.sign({**claims, **{name: now[name] for name in ("iat", "nbf", "exp", "jti")}})


def test_where_a_file_is_broken_all_stay_as_they_are_it_is_said_and_the_daemon_runs_on(scene: Scene, ssh_key: Path) -> None:
    host = scene.host
    jti = scene.open(account(ALICE), ssh(ALICE, public(ssh_key)))
    broken = "# Half an edit.\nadmin_group: adm\nuids: {first: 70000\n"
    host.write(MAIN, broken)
    host.wait_for(lambda: "yaml_syntax" in told(scene), what="the daemon says that it is bad")
    said = apt(host, f"install {deb(NEW)}")
    assert "the files in /etc/tidegate stay in the form that they have, since one of them can't be read:" in said
    assert f"{MAIN}:" in said
    assert "yaml_syntax" in said
    assert "once it is mended: tidegate config migrate" in said
    assert host.read(MAIN).decode() == broken
    assert host.read(POLICY).decode() == POLICY_OLD
    assert host.run("find /etc/tidegate -name '*~'").stdout == ""
    assert host.run(["systemctl", "is-active", UNIT]).stdout.strip() == "active"
    assert "yaml_syntax" in told(scene)
    assert [grant["jti"] for grant in scene.status()["grants"]] == [jti]
    assert host.ssh(ALICE, ssh_key, "echo still").stdout == "still\n"
    host.write(MAIN, MAIN_OLD)
    changes = json.loads(host.run("tidegate config migrate --json").stdout)["changes"]
    assert [(change["file"], change["from"], change["to"]) for change in changes] == [(MAIN, 1, 2), (POLICY, 1, 2)]
    assert host.read(MAIN).decode() == MAIN_NEW
    host.wait_for(lambda: scene._answers_status().get("problems") == [], what="all is well")
