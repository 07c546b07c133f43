"""README's five minutes, letter by letter, as a part of one host's whole life: installed, used, upgraded in mid-session, purged."""

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.host.laptop import ROOT, Laptop
from tests.host.test_package import APT, ours
from tests.hosts.machine import Host
from tests.hosts.snapshot import differences
from tests.pages import marked

NEWER = "0.1.1"
WHOLE = ["/etc", "/var", "/home", "/usr/lib/tidegate", "/run/tidegate"]
LIFETIME_S = 40
CHECK_S = 5.0  # from T to the client's own end, on a machine that does other things: not a measurement

pytestmark = pytest.mark.host(beside=True)


def follow(laptop: Laptop, host: Host) -> None:
    """Do what README says, and look whether each block prints what it promises."""
    said = []
    for where, commands in marked(ROOT / "README.md"):
        if where == "here":
            said.append(laptop.run(commands))
        else:
            done = host.run(["bash", "-euo", "pipefail", "-c", f"cd /root\n{commands}"], check=False, timeout=120)
            assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
            said.append(done.stdout)
        print(said[-1])
    assert "Nobody can get in" in said[1]
    assert "jit-alice" in said[-4]
    assert "/usr/bin/systemctl restart cron.service" in said[-3]
    assert "ended, doors shut" in said[-2]
    assert said[-1].startswith("valid: ")


def test_a_host_is_as_it_was_after_a_whole_life_with_tidegate(host: Host, tmp_path: Path) -> None:
    laptop = Laptop(tmp_path, host)
    host.run(["systemd-run", "--quiet", "--wait", "true"])
    before = ours(host.snapshot(WHOLE))
    follow(laptop, host)

    ends = bobs_grant(laptop)
    session = laptop.popen("ssh -i alice jit-bob@web1 cat")
    assert echoed(session, "before") == "before\n"
    argv = [sys.executable, str(ROOT / "packaging/build.py"), "tidegate", "--version", NEWER, "--out", str(tmp_path / "newer")]
    subprocess.run(argv, check=True, timeout=120, stdout=subprocess.DEVNULL)
    host.push(tmp_path / "newer", "/srv/newer")
    host.run(f"{APT} install /srv/newer/tidegate_{NEWER}-1_all.deb", timeout=120)
    assert time.time() < ends, "the upgrade took longer than the grant: nothing is shown"
    assert echoed(session, "after") == "after\n"

    session.wait(max(1.0, ends - time.time()) + 30)
    late = time.time() - ends
    session.communicate()
    assert -0.5 < late < CHECK_S
    listed = "tidegate receipts list --json"
    host.wait_for(lambda: len(json.loads(host.run(listed).stdout)["receipts"]) == 2, 20, "Bob's receipt")
    assert {found["claims"]["cause"] for found in json.loads(host.run(listed).stdout)["receipts"]} == {"revoked", "expired"}

    said = host.run(f"{APT} purge 'tidegate*'", timeout=120).stdout
    assert "/var/lib/tidegate/archive" in said
    archive = ("new: /var/lib/tidegate ", "new: /var/lib/tidegate/archive")
    assert [line for line in differences(before, ours(host.snapshot(WHOLE))) if not line.startswith(archive)] == []


def bobs_grant(laptop: Laptop) -> float:
    """A second grant, for another account, that nobody revokes; returns its end, in seconds since 1970."""
    laptop.run(
        f"""sed 's/alice@example.com/bob@example.com/; s/jit-alice/jit-bob/' grant.json > bob.json
        tidegate sign bob.json --key cp-1.jwk --for {LIFETIME_S}s --out bob.jwt
        scp bob.jwt root@web1:/var/lib/tidegate/spool/inbox/bob.jwt.part
        ssh root@web1 mv /var/lib/tidegate/spool/inbox/bob.jwt.part /var/lib/tidegate/spool/inbox/bob.jwt
        sleep 1"""
    )
    (grant,) = json.loads(laptop.run("ssh root@web1 tidegate status --json"))["grants"]
    return datetime.fromisoformat(grant["ends"]).timestamp()


def echoed(session: subprocess.Popen[str], line: str) -> str:
    """What cat at the other end gives back."""
    assert session.stdin is not None
    assert session.stdout is not None
    session.stdin.write(f"{line}\n")
    session.stdin.flush()
    return session.stdout.readline()
