"""What each line that tidegated's unit lacks would break: ``python -m benchmarks.confinement [--only WORD] [--json]``.

One host, and the same story under the unit as it is and under each line added to it: a tenant logs in on a terminal and without,
runs a sudo command, leaves processes, files, shared memory and a mount; a person is lent a group. Then all is revoked.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from tests.host.scene import ALLOWED, ISSUER, UNIT, Scene, account, group, public, set_up, ssh, sudo
from tests.host.test_recording import Terminal
from tests.hosts import ssh as keys
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

ALICE, PERSON = "jit-alice", "deploy"
POLICY = f"""\
rules:
  - name: lent
    issuers: [{ISSUER}]
    accounts: {{ create: false, existing: [{PERSON}] }}
    groups: [games]
    recording: off
  - name: tenant
    issuers: [{ISSUER}]
    accounts: {{ prefix: jit-, home: [ephemeral, archive] }}
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["{ALLOWED}"] }}
    recording: required
"""
_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "LEASE", "LINUX_IMMUTABLE", "KILL", "SETUID", "SETGID"),
    *("SYS_PTRACE", "SYS_ADMIN", "SYS_CHROOT", "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "NET_ADMIN"),
)
LINES = (
    "",
    "ProtectSystem=full",
    "ProtectSystem=strict\nReadWritePaths=/etc /run /var /home /root /srv /opt /tmp",
    "ProtectHome=yes",
    "ProtectHome=read-only",
    "ProtectControlGroups=yes",
    "PrivateUsers=yes",
    "RestrictSUIDSGID=yes",
    "RestrictNamespaces=yes",
    "ProcSubset=pid",
    "ProtectProc=invisible",
    "ProtectKernelTunables=yes",
    "RestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX",
    "SystemCallFilter=~@mount",
    "SystemCallFilter=~@resources",
    "SystemCallFilter=~@privileged",
    *(f"CapabilityBoundingSet=~CAP_{name}" for name in _CAPABILITIES),
)


def tell(scene: Scene, key: Path) -> list[str]:
    """The story; returns what was not as it should be."""
    host = scene.host
    wrong = [f"status: {problem}" for problem in scene.status()["problems"]]
    began = time.monotonic()
    wrong += _open(scene, account(home="archive"), ssh(ALICE, public(key)), sudo())
    wrong += [f"slow: opened after {took:.1f} s"] if (took := time.monotonic() - began) > 2 else []
    boot = "/proc/sys/kernel/random/boot_id"
    own = host.run(f"nsenter -t {scene.pid()} -m cat {boot}", check=False).stdout
    wrong += [] if own == host.run(f"cat {boot}").stdout else ["another boot id than the host's"]
    wrong += _open(scene, group(PERSON, "games"), sub="person@example.com")
    if not scene.status()["grants"]:
        return wrong
    left = "cp /bin/true /tmp/mine; chmod 4755 /tmp/mine; mkdir m; ipcmk -M 64 >/dev/null; nohup sleep 900 >/dev/null 2>&1 & "
    done = host.ssh(ALICE, key, left + f"sudo -n {ALLOWED} && echo in")
    wrong += [] if done.stdout == "in\n" else [f"login: {done.returncode} {done.stdout} {done.stderr}"[:300]]
    try:
        terminal = Terminal(scene, key)
        terminal.wait_for(r"\$ ")
        terminal.close()
    except AssertionError as error:
        wrong.append(f"terminal: {error}"[:300])
    armed = "cp /bin/true /tmp/lent && chown deploy:games /tmp/lent && chmod 6755 /tmp/lent"
    host.run(f"mount -t tmpfs none /home/{ALICE}/m; {armed}", check=False)
    scene.tidegate("revoke", "--all", timeout=100)
    return wrong + _after(scene)


def _open(scene: Scene, *entries: dict[str, object], **more: object) -> list[str]:
    answer = scene.answer_for(scene.drop(scene.grant(*entries, **more)), 30)
    return [] if answer["verdict"] == "accepted" else [f"refused: {answer['code']}: {answer['reason']}"]


def _after(scene: Scene) -> list[str]:
    host, wrong = scene.host, []
    end = time.monotonic() + 10
    while scene.status()["grants"] and time.monotonic() < end:
        time.sleep(0.2)
    wrong += [f"not over: {grant['logins']} {grant['error']}" for grant in scene.status()["grants"]]
    checks = {
        "processes": "ps -eo uid= | awk '$1 >= 70000'",
        "account": f"getent passwd {ALICE}",
        "home": f"ls -d /home/{ALICE}",
        "files": "ls /tmp/mine",
        "shared memory": "ipcs -m | grep -w 64",
        "mount": "grep /home/jit-alice /proc/mounts",
        "lent group's bit": "find /tmp/lent -perm -2000",
    }
    wrong += [f"{name} left" for name, command in checks.items() if host.run(command, check=False).stdout.strip()]
    claims = [entry["claims"] for entry in json.loads(scene.tidegate("receipts", "list", "--json").stdout)["receipts"][:2]]
    wrong += sorted({f"residue: {found}"[:200] for claim in claims for found in claim["residue"] if not found["removed"]})
    wrong += sorted({f"proof: {text}"[:200] for claim in claims for text in (claim["proof"]["closed"] or {}).get("troubles", [])})
    return wrong


def main() -> None:
    """One line of the unit after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="lines that have this in them")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder, Host.boot(prepare=install_tidegate) as host:
        key = keys.make_key(Path(folder) / "key")
        host.run(f"useradd -m {PERSON}")
        scene = set_up(host, POLICY)
        for line in [line for line in LINES if chosen.only in line]:
            host.write("/etc/systemd/system/tidegated.service.d/90-try.conf", f"[Service]\n{line}\n") if line else None
            host.run("rm -f /tmp/mine /tmp/lent; systemctl daemon-reload")
            try:
                host.run(f"systemctl restart {UNIT}", timeout=70)
                host.wait_for(scene._answers_status, 20)
                found[line] = tell(scene, key)
            except Exception as error:  # the line's fault, and what is being measured
                found[line] = [f"{type(error).__name__}: {error}"[:300]]
            if not chosen.json:
                print(
                    f"{line.splitlines()[-1] if line else '(as it is)'}\n" + "".join(f"    {one}\n" for one in found[line]),
                    flush=True,
                )
            _undo(host, scene)
    if chosen.json:
        print(json.dumps(found))


def _undo(host: Host, scene: Scene) -> None:
    """The unit as it is, and nothing left of the last try."""
    host.run(
        "rm -rf /etc/systemd/system/tidegated.service.d; mkdir -p /etc/systemd/system/tidegated.service.d; systemctl daemon-reload"
    )
    host.run(f"systemctl restart {UNIT}", check=False, timeout=100)
    host.wait_for(scene._answers_status, 30)
    scene.tidegate("revoke", "--all", timeout=100)
    host.run(f"umount /home/{ALICE}/m; rm -rf /home/{ALICE}; ipcrm --all=shm; rm -f /tmp/mine /tmp/lent", check=False)
    host.wait_for(lambda: not scene.status()["grants"], 60)


if __name__ == "__main__":
    main()
