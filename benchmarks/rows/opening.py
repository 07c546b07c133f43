"""From a grant in the inbox to access: what the agent takes, and to the first login; beside useradd, key and sudoers by script."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import paramiko

from benchmarks.frame.row import OURS, Goal, Plot, Row, Run
from benchmarks.ground import Ground, standing
from examples.demo.watch import offer_key
from tests.host.scene import account, public, ssh, sudo

_OPEN, _LOGIN = "inbox to open", "inbox to the first login accepted"
_FIRST = "inbox to open, no other grant standing"
_SCRIPT, _SSHD = "script", "sshd"
_REST_S = 0.4
_INSIDE = Path(__file__).with_name("opening_inside.py")
_PARTS = {
    "timer": "a timer armed, to systemd's word that it stands, by itself",
    "baseline": "looking at the host's own files, by itself",
    "cvtsudoers": "cvtsudoers about the rule's text, one process by itself",
    "commit": "one commit of the journal, with its fsync, by itself (its steps, its notes, and that it is open)",
}
_WARM = 2
# As admins write it: an account, its key, its rule, checked before it is put in place.
_BY_HAND = """\
useradd -m -s /bin/bash -p '*' {login} && install -d -o {login} -m 700 /home/{login}/.ssh && \
echo '{key}' > /home/{login}/.ssh/authorized_keys && chown {login}: /home/{login}/.ssh/authorized_keys && \
echo '{login} ALL=(root) NOPASSWD: {command}' > /etc/.sudo-new && visudo -qcf /etc/.sudo-new && chmod 440 /etc/.sudo-new && \
mv /etc/.sudo-new /etc/sudoers.d/{login}; echo done
"""


def measure(run: Run) -> None:
    """One grant, one account by script, one login to an account that is there, in turn."""
    with standing(run) as ground, _root_shell(ground) as by_hand:
        key = paramiko.Ed25519Key.from_private_key_file(str(ground.key))
        by_hand(_BY_HAND.format(login="plain", key=public(ground.key), command="/usr/bin/id"))
        number = iter(range(10**6))
        for way_number in range(_WARM + run.times(10, 2)):
            _ours(run if way_number >= _WARM else Run("warm"), ground, key, next(number), alone=True)
        ground.scene.open(account("jit-stands"), ssh("jit-stands", public(ground.key)), sudo("jit-stands"), sub="s@example.com")
        ways: dict[str, Callable[[], None]] = {
            OURS: lambda: _ours(run, ground, key, next(number)),
            _SCRIPT: lambda: _script(run, ground, key, by_hand, next(number)),
            _SSHD: lambda: _plain(run, ground, key),
        }
        run.turns(50, 5, ways)
        _others_parts(run, ground)


def _ours(run: Run, ground: Ground, key: paramiko.PKey, number: int, *, alone: bool = False) -> None:
    login, scene = f"jit-open{number}", ground.scene
    claims = scene.claims(account(login), ssh(login, public(ground.key)), sudo(login), sub=f"{login}@example.com")
    token, keys = scene.sign(claims), ground.inside(f"/run/tidegate/keys/{login}")
    began_ns = time.time_ns()
    scene.drop(token)
    end = time.monotonic() + 10
    while not keys.exists():
        if time.monotonic() > end:
            raise RuntimeError(f"{login} was not opened")
        time.sleep(0.0005)
    _accepted_ms(ground, key, login)
    login_ms, case = (time.time_ns() - began_ns) / 1e6, _FIRST if alone else _OPEN
    found = next(grant for grant in scene.status()["grants"] if grant["jti"] == claims["jti"])
    opened_ms, received_ms = (datetime.fromisoformat(found[name]).timestamp() * 1000 for name in ("opened", "received"))
    run.add(case, OURS, "ms", opened_ms - began_ns / 1e6)
    if not alone:
        run.add(_LOGIN, OURS, "ms", login_ms)
    run.part(case, "until it is written down as accepted (noticed, verified, judged, planned)", "ms", received_ms - began_ns / 1e6)
    run.part(case, "from then on (journal, timer, account, key, rule, all synced)", "ms", opened_ms - received_ms)
    scene.tidegate("revoke", claims["jti"])
    time.sleep(_REST_S)  # so that nobody's undoing is in the next one's figure


def _script(run: Run, ground: Ground, key: paramiko.PKey, by_hand: Callable[[str], None], number: int) -> None:
    login = f"hand{number}"
    began = time.monotonic()
    by_hand(_BY_HAND.format(login=login, key=public(ground.key), command="/usr/bin/id"))
    run.add(_OPEN, _SCRIPT, "ms", (time.monotonic() - began) * 1000)
    _accepted_ms(ground, key, login)
    run.add(_LOGIN, _SCRIPT, "ms", (time.monotonic() - began) * 1000)
    ground.host.run(f"rm -f /etc/sudoers.d/{login}; userdel -f -r {login} 2>/dev/null", check=False)
    time.sleep(_REST_S)


def _plain(run: Run, ground: Ground, key: paramiko.PKey) -> None:
    run.add(_LOGIN, _SSHD, "ms", _accepted_ms(ground, key, "plain"))
    time.sleep(_REST_S)


def _accepted_ms(ground: Ground, key: paramiko.PKey, login: str) -> float:
    """From the connection to sshd's word that the key is accepted."""
    began = time.monotonic()
    for _ in range(20):
        if offer_key(ground.host.address, login, key)[0]:
            return (time.monotonic() - began) * 1000
    raise RuntimeError(f"{login} does not get in")


def _others_parts(run: Run, ground: Ground) -> None:
    """What of it is systemd's, the disk's and sudo's: each by itself, by the installed code."""
    ground.host.write("/usr/local/lib/opening_inside.py", _INSIDE.read_bytes())
    argv = ["python3", "-I", "/usr/local/lib/opening_inside.py", str(run.times(50, 10))]
    found = json.loads(ground.host.run(argv, timeout=120).stdout)
    for case in (_OPEN, _FIRST):
        for name, what in _PARTS.items():
            run.part(case, what, "ms", *found[name])


@contextmanager
def _root_shell(ground: Ground) -> Iterator[Callable[[str], None]]:
    """A shell on the host that stands ready, so that starting one is in no figure."""
    shell = ground.host.popen("exec bash", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(script: str) -> None:
        if shell.stdin is None or shell.stdout is None:
            raise RuntimeError("no shell")
        shell.stdin.write(script)
        shell.stdin.flush()
        while (line := shell.stdout.readline()) != "done\n":
            if not line:
                raise RuntimeError("the shell ended")

    try:
        yield run
    finally:
        if shell.stdin is not None:
            shell.stdin.close()
        shell.wait(10)


ROW = Row(
    name="opening",
    title="From the inbox to access",
    about="A grant with an account, a key and a sudo rule is renamed into the inbox; open is when the journal has it as "
    "open, by the daemon's own clock. The login goes on until sshd has accepted the key, by a client that connects "
    "when the key file is there. The script does the same by useradd, an authorized_keys and a sudoers file that "
    "visudo has checked, in a root shell that stands ready. Plain sshd is a login to an account that is there. "
    "After each, nothing happens for a while.",
    measure=measure,
    goals=(Goal(_OPEN, "median", 10), Goal(_FIRST, "median", 10), Goal(_LOGIN, "ratio", 1.1, against=_SSHD)),
    ways={OURS: "Tidegate", _SCRIPT: "useradd, key, sudoers by script", _SSHD: "plain sshd, no account made"},
    limits={_LOGIN: (_SSHD,)},
    plots=(Plot("spread", "From the inbox to access", (_OPEN, _LOGIN)),),
)
