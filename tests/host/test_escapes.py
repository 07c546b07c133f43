"""Real escapes: what the tables call root gives root, and what they let pass gives none, whatever the tenant's environment says."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.policy.privileged import root_equivalent
from tests.host.scene import ISSUER, Scene, account, set_up, ssh, sudo
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

pytestmark = pytest.mark.host
ALICE = "jit-alice"
MARK = "/root/was-here"

# command → what is typed into it, on a terminal of the tenant's.
ESCAPES = {
    "/usr/bin/bash": f"touch {MARK}\nexit\n",
    "/usr/bin/dash": f"touch {MARK}\nexit\n",
    "/usr/bin/env /usr/bin/sh": f"touch {MARK}\nexit\n",
    "/usr/bin/xargs -I X /usr/bin/touch X": f"{MARK}\n\x04",
    "/usr/bin/python3": f"open('{MARK}', 'w')\n\x04",
    "/usr/bin/perl": f"open(my $f, '>', '{MARK}');\n\x04",
    "/usr/bin/awk -f /dev/stdin": f'BEGIN {{ system("touch {MARK}") }}\n\x04',
    "/usr/bin/vi /etc/motd": f":!touch {MARK}\n\n:q!\n",
    "/usr/bin/less /etc/passwd": f"!touch {MARK}\n\nq",
    f"/usr/bin/tee {MARK}": "x\n\x04",
    f"/usr/bin/dd of={MARK}": "x\n\x04",
    "/usr/bin/sed -f /dev/stdin /etc/hostname": f"w {MARK}\n\x04",
    "/usr/bin/tar -cf /dev/null /etc/hostname --checkpoint=1 --checkpoint-action=exec=/usr/local/bin/mark": "",
    "/usr/bin/find /etc/hostname -exec /usr/local/bin/mark ;": "",
    "/usr/bin/nice /usr/bin/sh": f"touch {MARK}\nexit\n",
    "/usr/bin/timeout 5 /usr/bin/python3": f"open('{MARK}', 'w')\n\x04",
    "/usr/bin/systemd-run --quiet --pipe --wait /usr/bin/sh": f"touch {MARK}\nexit\n",
    "/usr/bin/top": "",  # not tried: listed to see that it is flagged
}
PLAIN = (
    "/usr/bin/systemctl --no-pager status cron",
    "/usr/bin/systemctl --no-pager cat cron",
    "/usr/bin/systemctl --no-pager list-units",
    "/usr/bin/systemctl restart cron",
    "/usr/bin/journalctl --no-pager -n 5",
    "/usr/bin/journalctl -u cron --no-pager",
    "/usr/bin/cat /var/log/dpkg.log",
    "/usr/bin/tail -n 3 /var/log/dpkg.log",
    "/usr/bin/ls -l /var/log",
    "/usr/bin/id",
    "/usr/bin/date",
    "/opt/site/report",
)
EVIL = "/home/jit-alice/evil"  # a folder full of programs that would leave the mark
NAMES = ("sh", "less", "pager", "more", "cat", "date", "id", "vi", "systemd-tty-ask-password-agent", "pkttyagent", "ls")
HOSTILE = {
    **dict.fromkeys(
        ("PAGER", "SYSTEMD_PAGER", "EDITOR", "VISUAL", "SUDO_EDITOR", "SYSTEMD_EDITOR", "SUDO_ASKPASS", "SHELL"), f"{EVIL}/sh"
    ),
    **dict.fromkeys(("GIT_PAGER", "GIT_SSH", "GIT_EDITOR", "MANPAGER", "BROWSER"), f"{EVIL}/sh"),
    "LESSOPEN": f"|{EVIL}/sh %s",
    "PATH": f"{EVIL}:/usr/bin:/bin",
    "BASH_ENV": f"{EVIL}/sh",
    "ENV": f"{EVIL}/sh",
    "LD_PRELOAD": f"{EVIL}/x.so",
    "PYTHONPATH": EVIL,
    "PERL5OPT": f"-I{EVIL} -Mx",
    "SYSTEMD_PAGERSECURE": "0",
    "SYSTEMD_LOG_TARGET": f"{EVIL}/sh",
    "TZ": f":{EVIL}/sh",
    "HOME": EVIL,
    "XDG_CONFIG_HOME": EVIL,
}


def policy(commands: list[str], root: list[str]) -> str:
    listed = "\n".join(f"        - {command!r}" for command in commands)
    explicit = "\n".join(f"      - {command!r}" for command in root)
    return (
        f"rules:\n  - name: r\n    issuers: [{ISSUER}]\n    accounts: {{ prefix: jit-, groups: [games] }}\n"
        "    ssh: { keys: true }\n"
        f"    sudo:\n      commands:\n{listed}\n" + (f"    root_equivalent:\n{explicit}\n" if explicit else "")
    )


def prepare(root: Path) -> None:
    install_tidegate(root)
    mark = root / "usr/local/bin/mark"
    mark.write_text(f"#!/bin/sh\nexec touch {MARK}\n")
    mark.chmod(0o755)
    (root / "opt/typist.py").write_text(Path(__file__).with_name("typist.py").read_text())
    report = root / "opt/site/report"
    report.parent.mkdir(parents=True)
    report.write_text("#!/bin/sh\ndate\nid -un\necho ${PAGER-unset} $PATH $HOME\n")
    report.chmod(0o755)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Host.boot(prepare=prepare) as host:
        yield set_up(host, policy(list(ESCAPES) + list(PLAIN), list(ESCAPES)))


@pytest.fixture(scope="module")
def alice(scene: Scene, ssh_key: Path) -> Iterator[Scene]:
    """With one grant of everything, and a hostile tenant's folder."""
    public = " ".join(ssh_key.with_suffix(".pub").read_text().split()[:2])
    scene.open(account(ALICE), ssh(ALICE, public), sudo(ALICE, *list(ESCAPES)[:-1], *PLAIN))
    scene.host.run(f"mkdir {EVIL}")
    for name in NAMES:
        scene.host.write(f"{EVIL}/{name}", f"#!/bin/sh\ntouch {MARK}\n")
    scene.host.run(f"chmod 755 {EVIL}/*; chown -R {ALICE} {EVIL}")
    yield scene
    scene.tidegate("revoke", "--all")


def attempt(scene: Scene, command: str, typed: str, environment: dict[str, str] | None = None) -> bool:
    """Whether root left the mark, when the tenant ran it on a terminal and typed that."""
    scene.host.run(f"rm -f {MARK}")
    words = [
        "python3",
        "-I",
        "/opt/typist.py",
        "5",
        typed,
        json.dumps(environment or {}),
        "/usr/bin/sudo",
        "-n",
        *shlex.split(command),
    ]
    scene.host.run(["runuser", "-u", ALICE, "--", *words], check=False, timeout=60)
    return scene.host.run(["test", "-e", MARK], check=False).returncode == 0


@pytest.mark.parametrize("command", ESCAPES)
def test_what_is_called_root_is_root(alice: Scene, command: str) -> None:
    assert root_equivalent(shlex.split(command)), "not flagged"
    if command != "/usr/bin/top":
        assert attempt(alice, command, ESCAPES[command])


@pytest.mark.parametrize("command", PLAIN)
def test_what_passes_gives_no_root_whatever_the_environment_and_the_keys(alice: Scene, command: str) -> None:
    assert root_equivalent(shlex.split(command)) is None
    assert not attempt(alice, command, f"!touch {MARK}\n:!touch {MARK}\n!sh\nq\n", HOSTILE)
    refused = alice.host.run(["runuser", "-u", ALICE, "--", "sudo", "-n", f"PAGER={EVIL}/sh", *shlex.split(command)], check=False)
    assert refused.returncode != 0 and "not allowed to set" in refused.stderr


def test_a_scripts_own_path_and_home_are_the_hosts(alice: Scene) -> None:
    said = alice.host.run(
        ["runuser", "-u", ALICE, "--", "env", f"PATH={EVIL}", "PAGER=x", "/usr/bin/sudo", "-n", "/opt/site/report"]
    ).stdout
    assert said.splitlines()[1:] == ["root", "unset /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /root"]


def test_a_program_that_starts_no_other_is_kept_from_it(alice: Scene) -> None:
    listed = alice.host.run(["sudo", "-ll", "-U", ALICE]).stdout
    noexec = next(part for part in listed.split("Sudoers entry") if "/usr/bin/journalctl --no-pager -n 5" in part)
    assert "noexec" in noexec and "/usr/bin/systemctl restart cron" in noexec and "/opt/site/report" not in noexec
    done = alice.host.run(["runuser", "-u", ALICE, "--", "sudo", "-n", "/usr/bin/systemctl", "restart", "cron"], check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_that_others_can_replace_is_refused_without_its_line(scene: Scene) -> None:
    scene.host.run("mkdir -p /opt/loose && install -m 0775 /opt/site/report /opt/loose/report && chgrp games /opt/loose/report")
    scene.policy(policy(["/opt/loose/report", "/usr/bin/cat /opt/loose/report"], []))
    for command in ("/opt/loose/report", "/usr/bin/cat /opt/loose/report"):
        login = "jit-bob"
        answer = scene.answer_for(scene.drop(scene.grant(account(login, groups=["games"]), sudo(login, command))))
        assert (answer["verdict"], answer.get("code")) == ("refused", "command_root_equivalent"), answer
        assert "can be written by group" in answer["reason"]
    warned = scene.tidegate("policy", "check").stdout
    assert "always_denied" in warned and "/opt/loose/report" in warned
    scene.policy(policy(["/opt/loose/report"], ["/opt/loose/report"]))
    jti = scene.open(account("jit-bob"), sudo("jit-bob", "/opt/loose/report"))
    shown = scene.ask("grants")["grants"]
    assert any("can be written by group" in str(grant) for grant in shown if grant["jti"] == jti)
