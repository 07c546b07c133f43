"""Playing rows on one host: open their grants, do what their tenants do, let T pass, and look from outside what is left."""

import contextlib
import json
import re
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.host.scene import ISSUER, POLICY_FILE, Scene, account, group, ssh, sudo
from tests.hosts import tools
from tests.hosts.errors import HostError
from tests.hosts.fallback import NamespaceHost
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate, install_tidegate_with_this_python
from tests.hosts.ssh import make_key
from tests.survival import bombs, outside
from tests.survival.rows import Row

MATE = "mate"  # the accomplice, whose account was there before
MOBILE = "/usr/local/lib/mobile"
_LAST_SWEEP_S = 5.0
_AFTER_S = 1.5  # past the last sweep
_RECEIPT_S = 60.0
_SETUP_S = 60.0
_FIRST_S, _EACH_S = 10.0, 0.8  # from the grants' opening to T, by the number of rows
_CRON_S = 80.0  # its minute has to come
NOT_SET_UP = "not set up"


@dataclass
class Verdict:
    """How a row ended. ``verdict``: dead, prevented, not containable, survived, spared died, not set up, n/a."""

    row: Row
    verdict: str = ""
    ms: int | None = None  # from T to the last process dead, as the receipt has it
    seen_ms: int | None = None  # from T to the last time one was seen from outside
    detail: str = ""

    @property
    def survived(self) -> bool:
        """Whether Tidegate did not keep its promise, or the row proved nothing."""
        return self.verdict not in {"dead", "prevented", "not containable", "n/a"}


@dataclass
class Play:
    """One row with names of its own, while it is played."""

    row: Row
    number: int
    folder: Path
    stamp: str
    result: Verdict
    uid: int | None = None
    jti: str = ""
    clients: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def login(self) -> str:
        """Who plays it."""
        return f"{'jit' if self.row.kind == 'tenant' else 'p'}-{self.number:02}"

    @property
    def subject(self) -> str:
        """A grant for each."""
        return f"s{self.number}@example.com"

    @property
    def cookie(self) -> str:
        """What tells its processes from all others: seconds to sleep."""
        return f"86400.{self.stamp}{self.number:02}"

    @property
    def spared(self) -> str:
        """The same for what must go on."""
        return f"86401.{self.stamp}{self.number:02}"

    def fill(self, text: str) -> str:
        """A text of the row with its own names."""
        names = {
            "{sleep}": f"sleep {self.cookie}",
            "{spared}": f"/usr/bin/sleep {self.spared}",
            "{cookie}": self.cookie,
            "{login}": self.login,
            "{folder}": str(self.folder),
            "{mobile}": MOBILE,
        }
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    @property
    def commands(self) -> list[str]:
        """What its grant asks for by sudo."""
        return [self.fill(command) for command in self.row.sudo]

    def belongs(self, seen: outside.Seen) -> bool:
        """Whether a process is one that must die at T."""
        uid = self.uid if self.row.kind == "tenant" and not self.row.never else None
        if self.row.never:
            return self.cookie.encode() in seen.text and seen.name == "sleep"
        return seen.belongs(self.cookie, uid)


class Stage:
    """One booted host of either kind, and the rows that are played on it at the same time."""

    def __init__(self, host: Host, rows: Sequence[Row], key: Path, folder: Path) -> None:
        self.host = host
        self.scene = Scene(host)
        self.key = key
        stamp = f"{time.time_ns() // 1000 % 1_000_000:06}"
        self.plays = [Play(row, number, folder / f"{number:02}", stamp, Verdict(row)) for number, row in enumerate(rows)]
        self.whole = not isinstance(host, NamespaceHost)

    @classmethod
    @contextlib.contextmanager
    def booted(cls, kind: type[Host], rows: Sequence[Row]) -> Iterator["Stage"]:
        """A host with Tidegate running and everybody's accounts; gone after the ``with``."""
        with tempfile.TemporaryDirectory(prefix="survive-") as name:
            folder = Path(name)
            key = make_key(folder / "key")
            people = [f"p-{number:02}" for number, row in enumerate(rows) if row.kind == "person"]
            with kind.boot(prepare=lambda root: _prepare(root, kind, people, key)) as host:
                stage = cls(host, rows, key, folder)
                stage._start()
                yield stage

    def play(self, seconds: float) -> list[Verdict]:
        """All rows, T being that many seconds away once the grants are open."""
        self._leave_out()
        plays = [play for play in self.plays if not play.result.verdict]
        try:
            self._each(plays, self._before)
            exp = int(time.time() + seconds)
            for play in plays:
                self._open(play, exp)
            self._each(plays, self._act)
            self._wait_until_alive(plays, exp)
            self._watch(plays, exp)
        finally:
            for client in (client for play in self.plays for client in play.clients):
                client.kill()
                client.communicate()
        return [play.result for play in self.plays]

    def _start(self) -> None:
        scene = self.scene
        scene.new_key("cp-1", ISSUER)
        self.host.write(POLICY_FILE, json.dumps({"rules": [rule for play in self.plays for rule in _rules(play)]}))
        own = "".join(f"{play.login} ALL=(root) NOPASSWD: /usr/bin/sleep {play.spared}\n" for play in self.plays
                      if play.row.kind == "person" and "sudo" in play.row.before)  # fmt: skip
        self.host.write("/etc/sudoers.d/own-rules", own, mode=0o440)
        if self.whole:
            self.host.run(["systemd-run", "--quiet", "--wait", "true"])
            scene.start()
        else:
            self.host.run("setsid /usr/sbin/tidegated >/var/log/tidegated.log 2>&1 </dev/null &")
            scene.host_id = self.host.wait_for(scene._answers_status, 20, "tidegated answers")["host_id"]
        assert not (problems := scene.status()["problems"]), problems

    def _leave_out(self) -> None:
        """Rows that this kind of host has no means for."""
        for play in self.plays:
            missing = [need for need in play.row.needs if not (self.whole if need == "systemd" else self._has(need))]
            if missing:
                play.result.verdict, play.result.detail = "n/a", f"no {', '.join(missing)} here"

    def _has(self, program: str) -> bool:
        return self.host.run(["sh", "-c", f"command -v {program}"], check=False).returncode == 0

    def _each(self, plays: Sequence[Play], act: Callable[[Play], object]) -> None:
        with ThreadPoolExecutor(4) as pool:
            for play, job in [(play, pool.submit(act, play)) for play in plays]:
                try:
                    job.result()
                except Exception as error:  # told as this row's; the others are played
                    play.result.detail = f"{type(error).__name__}: {str(error)[:300]}"

    def _as(self, login: str, script: str, play: Play) -> None:
        done = self.host.ssh(login, self.key, play.fill(script), timeout=_SETUP_S)
        if done.returncode != 0:
            play.result.detail = f"rc {done.returncode}: {(done.stdout + done.stderr).strip()[-200:]}"

    def _before(self, play: Play) -> None:
        play.folder.mkdir()
        if play.row.before:
            self._as(MATE if play.row.accomplice else play.login, play.row.before, play)

    def _open(self, play: Play, exp: int) -> None:
        row = play.row
        entries: list[dict[str, Any]] = []
        if row.kind == "tenant":
            public = " ".join(self.key.with_suffix(".pub").read_text().split()[:2])
            entries = [account(play.login), ssh(play.login, public, actions=list(row.actions))]
        if row.sudo:
            if row.uncontainable:
                self._is_refused_by_default(play, entries)
            entries.append(sudo(play.login, *play.commands, run_as=[row.run_as]))
        if row.groups:
            entries.append(group(play.login, *row.groups))
        play.jti = self.scene.open(*entries, exp=exp, sub=play.subject)
        found = next(grant for grant in self.scene.status()["grants"] if grant["jti"] == play.jti)
        play.uid = found["uids"].get(play.login)

    def _is_refused_by_default(self, play: Play, entries: list[dict[str, Any]]) -> None:
        """The proof: the same commands, allowed by a rule without the explicit word, are refused."""
        asked = [*entries, sudo(play.login, *play.commands, run_as=[play.row.run_as])]
        token = self.scene.grant(*asked, sub=f"plain-{play.subject}")
        answer = self.scene.answer_for(self.scene.drop(token))
        play.result.detail = f"refused by default: {answer['verdict']} {answer.get('code')}"
        play.result.verdict = "" if answer.get("code") == "command_root_equivalent" else "not refused by default"

    def _act(self, play: Play) -> None:
        row = play.row
        if row.script:
            self._as(play.login, row.script, play)
        if row.accomplice:
            self._as(MATE, row.accomplice, play)
        if row.upload:
            self._upload(play)
        for options in row.clients:
            argv = self.host.ssh_argv(play.login, self.key, None, shlex.split(play.fill(options)))
            argv += ["exec", *play.fill("{sleep}").split()] if options.startswith("-S") else []
            play.clients.append(
                subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=tools.environment()
                )
            )
            time.sleep(0.5 if len(row.clients) > 1 else 0)

    def _upload(self, play: Play) -> None:
        """By sftp alone: a unit that the user manager starts by itself at the next login."""
        client = self.host.paramiko(play.login, self.key)
        with client, client.open_sftp() as sftp:
            for path in (".config", ".config/systemd", ".config/systemd/user", ".config/systemd/user/default.target.wants"):
                sftp.mkdir(path)
            with sftp.open(".config/systemd/user/x.service", "w") as unit:
                unit.write(play.fill("[Service]\nExecStart=/usr/bin/{sleep}\n"))
            sftp.symlink("../x.service", ".config/systemd/user/default.target.wants/x.service")
        manager = f"user@{play.uid}.service"  # one that was started by this login stays for 10 s, and reads no unit again
        self.host.wait_for(lambda: self.host.run(["systemctl", "is-active", "--quiet", manager], check=False).returncode != 0, 20)
        client = self.host.paramiko(play.login, self.key)
        with client, client.open_sftp() as sftp:
            sftp.listdir()
            time.sleep(2.0)
            if any(play.belongs(each) for each in self._look()):  # it would be gone with the manager, some seconds after this login
                play.result.verdict, play.result.detail = "survived", "it ran while the grant stood"

    def _wait_until_alive(self, plays: Sequence[Play], exp: int) -> None:
        """Really there before T, and told as not set up if not."""
        waiting = [play for play in plays if not play.row.never]
        while waiting and time.time() < exp - 1.0:
            seen = self._look()
            waiting = [play for play in waiting if not any(play.belongs(each) for each in seen)]
            time.sleep(0.25)
        for play in waiting:
            play.result.verdict = NOT_SET_UP
        if time.time() > exp - 0.5:
            for play in plays:
                play.result.verdict = play.result.verdict or NOT_SET_UP
                play.result.detail = play.result.detail or "setting up took until T"
        time.sleep(max(0.0, exp - 0.7 - time.time()))

    def _watch(self, plays: Sequence[Play], exp: int) -> None:
        stop = threading.Event()
        storm = [threading.Thread(target=self._knock, args=(play, stop)) for play in plays for _ in range(play.row.storm)]
        for thread in storm:
            thread.start()
        last: dict[int, float] = {}
        while time.time() < exp + _LAST_SWEEP_S + _AFTER_S:
            at = time.time()
            for each in outside.scan(self.host):
                for play in plays:
                    if play.belongs(each):
                        last[play.number] = at
            if at > exp + 2:
                stop.set()
            time.sleep(0.03 if at < exp + 1 else 0.25)
        stop.set()
        for thread in storm:
            thread.join()
        self._conclude(plays, exp, last)

    def _conclude(self, plays: Sequence[Play], exp: int, last: dict[int, float]) -> None:
        seen = self._look()
        # What was alive then has survived, whatever comes. A receipt waits for the search of the host's files, of low priority.
        self._wait_for_receipts(plays)
        for play in plays:
            result = play.result
            result.seen_ms = round((last[play.number] - exp) * 1000) if last.get(play.number, 0) >= exp else None
            left = [f"{each.name}[{each.pid}]" for each in seen if play.belongs(each)]
            claims = self._receipt(play)
            result.ms = claims.get("lateness_ms", {}).get("last_process") if claims else None
            if result.verdict:
                continue
            if play.row.never:
                result.verdict = "survived" if left or play.number in last else "prevented"
            elif left:
                result.verdict = "not containable" if play.row.uncontainable else "survived"
                result.detail = f"{' '.join(left[:4])} {result.detail}".strip()
            elif not claims:
                result.verdict, result.detail = "survived", f"no receipt: {self._error_of(play)}"
            elif play.row.before and not any(play.spared.encode() in each.text for each in seen):
                result.verdict = "spared died"
            elif self._still_lets_in(play):
                result.verdict, result.detail = "survived", "the tenant still gets in"
            else:
                result.verdict = "dead"

    def _still_lets_in(self, play: Play) -> bool:
        """Through what is open, or by a new login."""
        if play.row.kind == "person":
            return False
        tries = [()] + [tuple(shlex.split(play.fill(options))) for options in play.row.clients if options.startswith("-S")]
        return any(self.host.ssh(play.login, self.key, "true", options=options).returncode == 0 for options in tries)

    def _look(self) -> list[outside.Seen]:
        with outside.standing_still(self.host):
            return outside.scan(self.host)

    def _knock(self, play: Play, stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.host.ssh(play.login, self.key, play.fill("{sleep}"), timeout=20)

    def _wait_for_receipts(self, plays: Sequence[Play]) -> None:
        until = time.monotonic() + _RECEIPT_S
        while any(grant["state"] == "shutting" for grant in self.scene.status()["grants"]) and time.monotonic() < until:
            time.sleep(0.5)

    def _receipt(self, play: Play) -> dict[str, Any] | None:
        done = self.host.run(["tidegate", "receipts", "show", play.jti, "--json"], check=False)
        claims: dict[str, Any] | None = json.loads(done.stdout)["receipts"][0]["claims"] if done.returncode == 0 else None
        return claims

    def _error_of(self, play: Play) -> str:
        grant = next((found for found in self.scene.status()["grants"] if found["jti"] == play.jti), None)
        return re.sub(r"\s+", " ", str(grant))[:300]


def play(kind: type[Host], rows: Sequence[Row], *, again: bool = True) -> list[Verdict]:
    """These rows together on one fresh host. What was not set up by T, as happens on a busy machine, gets more time once more."""
    seconds = _FIRST_S + _EACH_S * len(rows)
    if any("crontab" in row.needs for row in rows):
        seconds = max(seconds, _CRON_S)
    try:
        with Stage.booted(kind, rows) as stage:
            results = stage.play(seconds if again else 3 * seconds)
    except (HostError, AssertionError, OSError, subprocess.SubprocessError) as error:
        results = [Verdict(row, NOT_SET_UP, detail=f"{type(error).__name__}: {str(error)[:300]}") for row in rows]
    late = [result.row for result in results if result.verdict == NOT_SET_UP]
    if not late or not again:
        return results
    second = iter(play(kind, late, again=False))
    return [next(second) if result.verdict == NOT_SET_UP else result for result in results]


def _prepare(root: Path, kind: type[Host], people: Sequence[str], key: Path) -> None:
    install_tidegate_with_this_python(root) if kind is NamespaceHost else install_tidegate(root)
    public = key.with_suffix(".pub").read_text()
    for login in (MATE, *people):
        subprocess.run(["chroot", str(root), "useradd", "-m", "-s", "/bin/bash", login], check=True, capture_output=True)
        home = root / "home" / login
        (home / ".ssh").mkdir(mode=0o700)
        (home / ".ssh/authorized_keys").write_text(public)
        subprocess.run(["chroot", str(root), "chown", "-R", f"{login}:", f"/home/{login}"], check=True)
    mobile = root / MOBILE[1:]
    mobile.write_bytes(bombs.mobile())
    mobile.chmod(0o755)


def _rules(play: Play) -> list[dict[str, Any]]:
    """The policy for one row: with the explicit words it needs; and without them, for the same commands, for a plain subject."""
    row = play.row
    new = row.kind == "tenant"
    rule: dict[str, Any] = {
        "name": f"row-{play.number}",
        "issuers": [ISSUER],
        "subjects": [play.subject],
        "max_duration": "1h",
        "accounts": {"prefix": "jit-", "shells": ["/bin/bash"]} if new else {"create": False, "existing": [play.login]},
    }
    if new:
        rule["ssh"] = {"keys": True, "actions": list(row.actions)}
    if row.groups:
        rule["groups"] = list(row.groups)
    if not row.sudo:
        return [rule]
    rule["sudo"] = {"run_as": [row.run_as], "commands": play.commands}
    plain = {**rule, "name": f"plain-{play.number}", "subjects": [f"plain-{play.subject}"]}
    words = [command for command in play.commands if command.startswith("/bin/")]
    return [{**rule, "root_equivalent": words} if words else rule, plain]
