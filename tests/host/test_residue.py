"""What tenants leave behind on a whole host: every kind is found and told, their own goes, nobody else's does."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.scene import ISSUER, Scene, account, group, public, set_up, ssh, sudo
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate_beside_a_person
from tests.hosts.snapshot import differences

pytestmark = pytest.mark.host
ALICE, BOB = "jit-alice", "jit-bob"
ROOT_SHELL = "/usr/bin/bash"
POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash], groups: [games], home: [ephemeral, archive], existing: [deploy] }}
    groups: [games]
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["{ROOT_SHELL}"] }}
    root_equivalent: ["{ROOT_SHELL}"]
"""
# One of each that somebody with no privilege can leave.
LEAVE = r"""
set -u
echo mine > /tmp/plain; mkdir -p /var/tmp/tree/deep/er; echo x > /var/tmp/tree/deep/er/f; echo x > /dev/shm/segment
cp /usr/bin/id /var/tmp/suid; chmod 4755 /var/tmp/suid
mkfifo /tmp/fifo; ln -s /etc/passwd /tmp/link; ln /tmp/plain /tmp/second-name
echo x > /srv/shared/work; echo x > /mnt/extra/work; mkdir /srv/shared/folder; chmod 777 /srv/shared/folder
echo x > "/tmp/$(printf 'odd\nname\xff')"
echo "/bin/true" | at now + 1 hour
(crontab -l 2>/dev/null; echo "* * * * * true") | crontab -
ipcmk --shmem 4096; ipcmk --semaphore 1; ipcmk --queue
python3 -c 'import ctypes; libc = ctypes.CDLL("librt.so.1"); libc.mq_open(b"/queue", 0o100 | 2, 0o600, None)'
"""
# And with root: everything that lets somebody in again.
LEAVE_AS_ROOT = r"""
mkdir -p /root/.ssh /etc/systemd/user
echo "* * * * * root true" > /etc/cron.d/evil
echo "jit-alice ALL=(ALL) NOPASSWD: ALL" > /etc/sudoers.d/evil
printf '[Service]\nExecStart=/bin/true\n' > /etc/systemd/system/evil.service
printf '[Service]\nExecStart=/bin/true\n' > /etc/systemd/user/evil.service
systemd-run --quiet --unit=evil-transient --on-active=3600 /bin/true
echo "ssh-ed25519 AAAA jit-alice" >> /root/.ssh/authorized_keys
echo "ssh-ed25519 AAAA evil" >> /home/deploy/.ssh/authorized_keys
useradd -o -u 0 -M toor
usermod -aG sudo deploy
touch /etc/ld.so.preload /var/lib/systemd/linger/deploy
echo "true" > /etc/profile.d/evil.sh
mount -t tmpfs none /mnt/evil
mkdir -p ~jit-alice/mnt; mount -t tmpfs none ~jit-alice/mnt; echo x > ~jit-alice/mnt/f
echo root > /tmp/of-root; echo root > /srv/shared/of-root; echo root > /srv/shared/of-group; chgrp jit-alice /srv/shared/of-group
setfacl -m u:jit-alice:rw /srv/shared/precious
echo "/bin/true" | at now + 1 hour 2>/dev/null
"""


def prepare(root: Path) -> None:
    install_tidegate_beside_a_person(root)
    for path in ("srv/shared", "mnt/extra", "mnt/evil", "home/deploy/.ssh", "var/lib/systemd/linger"):
        (root / path).mkdir(parents=True, exist_ok=True)
    (root / "srv/shared").chmod(0o777)
    (root / "srv/shared/precious").write_text("precious")


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Host.boot(prepare=prepare) as host:
        host.run("mount -t tmpfs -o mode=1777 none /mnt/extra")
        yield set_up(host, POLICY)


@pytest.fixture
def clean(scene: Scene) -> Iterator[Scene]:
    yield scene
    scene.tidegate("revoke", "--all")
    scene.host.wait_for(lambda: not scene.status()["grants"], timeout=30, what="everything is shut")


def end(scene: Scene, jti: str) -> dict[str, Any]:
    """Revoke it; the receipt."""
    scene.tidegate("revoke", jti, timeout=90)
    found: dict[str, Any] = scene.receipt(jti)
    return found


def told(found: dict[str, Any], removed: bool) -> set[tuple[str, str]]:
    """Kind and place of each."""
    return {(each["kind"], each["where"]) for each in found["residue"] if each["removed"] is removed}


def as_root(scene: Scene, key: Path, script: str) -> subprocess.CompletedProcess[str]:
    argv = [*scene.host.ssh_argv(ALICE, key), f"sudo -n {ROOT_SHELL}"]
    return subprocess.run(argv, input=script, capture_output=True, text=True, check=False, timeout=60)


def owned(scene: Scene, uid: int) -> list[str]:
    """Everything on the host's local file systems that the uid owns, as find(1) sees it."""
    listed = scene.host.run(f"find / /tmp /dev /run /mnt/extra -xdev -uid {uid} 2>/dev/null", check=False).stdout
    return listed.split()


def test_each_thing_that_a_tenant_leaves_is_told_and_gone(clean: Scene, ssh_key: Path) -> None:
    jti = clean.open(account(), ssh(ALICE, public(ssh_key)))
    uid = clean.status()["grants"][0]["uids"][ALICE]
    before = clean.host.snapshot()
    left = clean.host.ssh(ALICE, ssh_key, LEAVE)
    clean.host.run("echo precious > /srv/shared/folder/of-deploy; chown deploy /srv/shared/folder/of-deploy")
    found = end(clean, jti)
    removed = told(found, True)
    assert removed >= {
        ("file", "/tmp/plain"),
        ("file", "/tmp/second-name"),
        ("file", "/tmp/fifo"),
        ("file", "/tmp/link"),
        ("file", "/var/tmp/tree"),
        ("setuid", "/var/tmp/suid"),
        ("posix-shm", "/dev/shm/segment"),
        ("mqueue", "/dev/mqueue/queue"),
        ("file", "/srv/shared/work"),
        ("file", "/mnt/extra/work"),
    }, left.stdout + left.stderr
    assert {kind for kind, _ in removed} >= {"at", "shm", "sem", "msg"}
    assert len([where for _, where in removed if where.startswith("/tmp/odd") and where.isprintable()]) == 1
    kept = told(found, False)
    assert kept == {("file", "/srv/shared/folder/of-deploy")}, "deploy's, so the folder stays too"
    assert clean.host.run("cat /srv/shared/folder/of-deploy").stdout == "precious\n"
    assert owned(clean, uid) == ["/srv/shared/folder"]
    assert clean.host.run("ipcs -a | grep -c 70", check=False).stdout.strip() in {"", "0"}
    changed = differences(before, clean.host.snapshot())
    expected = ("jit-alice", "tidegate", "/run/userdb", "/.SEQ")  # the account's own; atd counts its jobs
    assert [line for line in changed if not any(each in line for each in expected)] == []
    kinds = json.loads(clean.tidegate("status", "--json").stdout)["uids_kept_back"]
    assert kinds == 1
    doctor = clean.tidegate("doctor").stdout
    assert f"{uid} ({ALICE}) is kept back" in doctor and "/srv/shared/folder" in doctor

    # Somebody mends it; the next look frees the number.
    clean.host.run("mv /srv/shared/folder/of-deploy /srv/shared/; rm /srv/shared/of-deploy")
    clean.restart()
    clean.host.wait_for(lambda: not clean.status()["uids_kept_back"], timeout=60, what="the uid is free")
    assert owned(clean, uid) == []


def test_what_root_leaves_is_told_with_nothing_of_the_hosts_touched(clean: Scene, ssh_key: Path) -> None:
    jti = clean.open(account(), ssh(ALICE, public(ssh_key)), sudo(ALICE, ROOT_SHELL))
    done = as_root(clean, ssh_key, LEAVE_AS_ROOT)
    planted = ("/etc", "/root", "/srv", "/home/deploy", "/var/lib/systemd/linger", "/run/systemd/transient", "/tmp/of-root")
    before = clean.host.snapshot(planted)
    found = end(clean, jti)
    kept = told(found, False)
    assert kept >= {
        ("cron", "/etc/cron.d/evil"),
        ("sudoers", "/etc/sudoers.d/evil"),
        ("unit", "/etc/systemd/system/evil.service"),
        ("unit", "/etc/systemd/user/evil.service"),
        ("transient-unit", "/run/systemd/transient/evil-transient.service"),
        ("transient-unit", "/run/systemd/transient/evil-transient.timer"),
        ("authorized-keys", "/root/.ssh/authorized_keys"),
        ("authorized-keys", "/home/deploy/.ssh/authorized_keys"),
        ("account", "/etc/passwd: toor"),
        ("account", "/etc/group: sudo"),
        ("loader", "/etc/ld.so.preload"),
        ("login", "/etc/profile.d/evil.sh"),
        ("linger", "/var/lib/systemd/linger/deploy"),
        ("mount", "/mnt/evil"),
        ("group-file", "/srv/shared/of-group"),
        ("acl", "/srv/shared/precious"),
    }, done.stdout + done.stderr
    assert "at" in {kind for kind, _ in kept}, "root's own at job"
    assert ("mount", "/home/jit-alice/mnt") in told(found, True)
    details = {each["where"]: each["detail"] for each in found["residue"]}
    assert "names jit-alice" in details["/etc/sudoers.d/evil"] and "root by another name" in details["/etc/passwd: toor"]
    changed = [line for line in differences(before, clean.host.snapshot(planted)) if "tidegate" not in line]
    assert changed == [], "nothing that may be the host's is touched"
    assert found["not_containable"] and all(step["undone"] for step in found["steps"])
    clean.host.run(
        "systemctl stop evil-transient.timer; umount /mnt/evil; userdel toor; gpasswd -d deploy sudo; rm -r /etc/cron.d/evil"
        " /etc/sudoers.d/evil /etc/systemd/*/evil.service /etc/ld.so.preload /etc/profile.d/evil.sh /srv/shared/of-group"
        " /var/lib/systemd/linger/deploy; setfacl -b /srv/shared/precious; atrm $(atq | cut -f1)",
        check=False,
    )


def test_a_home_to_be_archived_takes_with_it_what_lies_elsewhere(clean: Scene, ssh_key: Path) -> None:
    jti = clean.open(account(home="archive"), ssh(ALICE, public(ssh_key)))
    clean.host.ssh(
        ALICE, ssh_key, "mkdir -p /srv/shared/project; echo weeks of work > /srv/shared/project/report; echo home > note"
    )
    found = end(clean, jti)
    archive = next(where for kind, where in told(found, True) if kind == "archive")
    assert clean.host.run(f"tar -xOf {archive} srv/shared/project/report").stdout == "weeks of work\n"
    assert clean.host.run(f"stat -c '%a %U' {archive}").stdout == "600 root\n"
    assert clean.host.run("ls /srv/shared/project", check=False).returncode != 0


def test_a_group_that_was_lent_does_not_live_on_in_a_setgid_file_unseen(clean: Scene) -> None:
    jti = clean.open(group("deploy", "games"))
    keep = "cd /home/deploy && cp /usr/bin/id games && chgrp games games && chmod 2755 games"
    clean.host.run(["runuser", "-u", "deploy", "--", "sh", "-c", keep])
    found = end(clean, jti)
    assert told(found, True) == {("setgid", "/home/deploy/games")}
    assert clean.host.run("stat -c %a /home/deploy/games; rm /home/deploy/games").stdout == "755\n"


@pytest.mark.parametrize("trick", ["link", "mount"])
def test_an_accomplice_who_swaps_folders_meanwhile_turns_it_on_nobody(clean: Scene, ssh_key: Path, trick: str) -> None:
    """bob, who stays, exchanges what is in alice's folder and links to /etc, while alice's is cleared away."""
    jti = clean.open(account(), ssh(ALICE, public(ssh_key)))
    clean.open(account(BOB), ssh(BOB, public(ssh_key)), sub="bob@example.com")
    make = "mkdir -m 777 /tmp/a; for n in $(seq 300); do mkdir -m 777 /tmp/a/$n; touch /tmp/a/$n/passwd; done"
    clean.host.ssh(ALICE, ssh_key, make)
    before = clean.host.snapshot(("/etc", "/home/deploy"))
    swap = "cd /tmp/a; while :; do for n in *; do mv $n ../$n.x; ln -s /etc $n; rm $n; mv ../$n.x $n; done; done"
    if trick == "mount":
        clean.host.run("mkdir /tmp/a/300/mnt; mount --bind /home/deploy /tmp/a/300/mnt")
    bob = subprocess.Popen([*clean.host.ssh_argv(BOB, ssh_key), swap], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        found = end(clean, jti)
    finally:
        clean.tidegate("revoke", "--all", timeout=90)
        bob.wait(30)
    changed = [line for line in differences(before, clean.host.snapshot(("/etc", "/home/deploy"))) if "tidegate" not in line]
    assert changed == []
    assert {kind for kind, _ in told(found, True)} >= {"file"}
    # Bob may have been stopped between two of his renames: the mount is under either name, and rm must not go into it.
    clean.host.run("umount /tmp/a/300/mnt /tmp/300.x/mnt; rm -rf --one-file-system /tmp/a /tmp/*.x", check=False)
    assert clean.host.run("ls -d /tmp/a /tmp/*.x", check=False).stdout == ""


def test_a_tenant_that_fills_tmp_keeps_back_no_uid_but_its_own(clean: Scene, ssh_key: Path) -> None:
    clean.open(account(BOB), ssh(BOB, public(ssh_key)), sub="bob@example.com")
    fill = "import os\nfor n in range(60000): os.close(os.open(f'/tmp/{n}', os.O_CREAT))"
    clean.host.ssh(BOB, ssh_key, f'python3 -c "{fill}"', timeout=120)
    for _ in range(2):
        jti = clean.open(account(), ssh(ALICE, public(ssh_key)))
        clean.host.ssh(ALICE, ssh_key, "touch /tmp/zz-alice")
        found = end(clean, jti)
        assert {where for kind, where in told(found, True) if kind == "file"} == {"/tmp/zz-alice"} and told(found, False) == set()
    kept_back = clean.status()["uids_kept_back"]
    clean.tidegate("revoke", "--all", timeout=120)
    clean.host.wait_for(lambda: not clean.status()["grants"], timeout=60, what="bob is out")
    assert clean.status()["uids_kept_back"] == kept_back
    assert clean.host.run("find /tmp -maxdepth 1 -name '[0-9]*' | head").stdout == ""


def test_a_grant_with_no_privilege_takes_no_baseline_and_one_with_sudo_a_small_one(clean: Scene) -> None:
    plain = clean.open(account())
    mighty = clean.open(account(BOB), sudo(BOB, ROOT_SHELL), sub="bob@example.com")
    query = "SELECT grants.jti, length(notes.value) FROM notes JOIN grants ON grants.id = notes.grant_id WHERE name = 'baseline'"
    script = f"import sqlite3; print(dict(sqlite3.connect('/var/lib/tidegate/state.db').execute({query!r}).fetchall()))"
    sizes = eval(clean.host.run(["python3", "-c", script]).stdout)
    assert plain not in sizes and 0 < sizes[mighty] < 64 * 1024
