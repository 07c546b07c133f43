"""What of the host itself matters to Tidegate: sshd, sudo, accounts, cgroups, clock, disk, and the backstops."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.config import Config
from agent.errors import TidegateError
from agent.host import command, recorder, standby
from agent.host.accounts import nsswitch_has_systemd
from agent.host.cgroups import Cgroups
from agent.host.timers import SystemdTimers

_DISK_LOW = 256 * 1024 * 1024
_OPENSSH_Z_SUFFIX = (9, 1)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ``level``: ok, warn (less protection) or fail (grants can't be enforced). ``mend``: what to do."""

    name: str
    level: str
    detail: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        """For ``--json``."""
        return {"name": self.name, "level": self.level, "detail": self.detail, "mend": self.mend}


def host_findings(config: Config) -> Iterator[Finding]:
    """Every check of the host, in the order of a login."""
    yield _sshd()
    yield _drop_in("sshd drop-in", config.paths.sshd_drop_in)
    yield _sudo()
    yield _drop_in("sudoers drop-in", config.paths.sudoers_drop_in)
    yield _accounts(config)
    yield _tenant_shell(config)
    yield _recorder(config)
    yield _cgroups()
    yield _systemd()
    yield _timers(config)
    yield _boot()
    yield _clock()
    yield _disk(config)


def _said(*argv: str) -> str:
    """What a tool prints of itself, on either stream; empty when it is missing or fails to start."""
    try:
        result = command.run(list(argv), timeout_s=5)
    except TidegateError:
        return ""
    return result.stdout + result.stderr


def _sshd() -> Finding:
    found = re.search(r"OpenSSH_(\d+)\.(\d+)\S*", _said("sshd", "-V") or _said("ssh", "-V"))
    if not found:
        return Finding("sshd", "fail", "no OpenSSH server here", "install openssh-server")
    version = (int(found[1]), int(found[2]))
    if version < _OPENSSH_Z_SUFFIX:
        return Finding("sshd", "fail", f"{found[0]} takes no UTC expiry-time in key files", "OpenSSH 9.1 or later is needed")
    return Finding("sshd", "ok", f"{found[0].rstrip(',')}; backstop: expiry-time on every key and principal")


def _sudo() -> Finding:
    said = _said("sudo", "-V")
    first = said.splitlines()[0] if said else ""
    if not first:
        return Finding("sudo", "warn", "no sudo here: grants of sudo are refused", "install sudo")
    if not first.startswith("Sudo version"):
        detail = f"{first}: grants of sudo are refused (sudo_unsupported), for it knows no NOTAFTER and no TIMEOUT"
        return Finding("sudo", "warn", detail, "let sudo be that of package sudo (sudo.ws); sudo-rs may stay beside it")
    return Finding("sudo", "ok", f"{first}; backstops: NOTAFTER and TIMEOUT on every rule")


def _drop_in(name: str, path: Path) -> Finding:
    if path.exists():
        return Finding(name, "ok", str(path))
    return Finding(name, "warn", f"{path} is not there", "tidegated writes it when it starts: journalctl -u tidegated")


def _accounts(config: Config) -> Finding:
    try:
        text = Path("/etc/nsswitch.conf").read_bytes()
    except OSError:
        text = b""
    # nsswitch.conf may name what is not installed; the module knows nobody by itself (nss-systemd(8)).
    userdb = nsswitch_has_systemd(text) and _said("getent", "-s", "systemd", "passwd", "nobody").startswith("nobody:")
    chosen = config.account_backend if config.account_backend != "auto" else ("userdb" if userdb else "passwd")
    where = "records in /run/userdb (gone at a reboot)" if chosen == "userdb" else "rows of /etc/passwd, removed exactly"
    return Finding("accounts", "ok", f"backend {chosen}: {where}")


def _tenant_shell(config: Config) -> Finding:
    shell = config.paths.tenant_shell
    if os.access(shell, os.X_OK):
        return Finding("tenant shell", "ok", str(shell))
    mend = "reinstall the package: without it, what an ssh entry allows is held by sshd's options alone"
    return Finding("tenant shell", "warn", f"{shell} is missing", mend)


def _cgroups() -> Finding:
    if Cgroups.find().available:
        return Finding("cgroups", "ok", "cgroup2: whole sessions are killed at once")
    mend = "boot with the unified cgroup hierarchy"
    return Finding("cgroups", "warn", "no cgroup2: processes are ended by kill(-1) and a walk of /proc", mend)


def _recorder(config: Config) -> Finding:
    """Who records sessions; only grants that require it are refused without."""
    seen = recorder.look(config)
    if seen.why:
        mend = "install the package again: it makes the account and tidegate-shell's interpreter; then systemctl restart tidegated"
        return Finding("recorder", "warn", f"grants that must be recorded are refused: {seen.why}", mend)
    socket = config.paths.run_dir / "recorder/sock"
    if not socket.is_socket():
        mend = "systemctl restart tidegate-recorder; journalctl -u tidegate-recorder"
        return Finding("recorder", "fail", f"nobody gets in who must be recorded: {socket} is not there", mend)
    return Finding("recorder", "ok", f"records as uid {seen.uid}; tidegate-shell can't be traced by its tenant")


def _systemd() -> Finding:
    if Path("/run/systemd/system").exists():
        return Finding("systemd", "ok", "is PID 1; it starts tidegated again should it die")
    return Finding("systemd", "warn", "is not PID 1: nothing starts tidegated again should it die", "run it under a supervisor")


def _timers(config: Config) -> Finding:
    """The timer behind each grant, and what it would start."""
    absent, opens = SystemdTimers().absent, "grants are refused" if config.backstop == "required" else "grants open without"
    if absent:
        mend = "boot with systemd, or keep tidegated under a supervisor: with it dead, live sessions have no other end"
        return Finding("backstop timers", "warn", f"none: {absent}; {opens}", mend)
    missing = [str(path) for path in (standby.UNIT, standby.CURRENT / standby.PROGRAM) if not os.path.lexists(path)]
    if missing and os.geteuid() == 0:
        mend = "tidegated writes it when it starts: systemctl restart tidegated; journalctl -u tidegated"
        return Finding("backstop timers", "warn", f"{', '.join(missing)} is not there: a timer would start nothing", mend)
    word = "" if config.backstop == "best-effort" else "; nothing opens without"
    return Finding("backstop timers", "ok", f"a systemd timer behind each grant ends it should tidegated be dead or hung{word}")


def _boot() -> Finding:
    """What ends grants before anybody logs in, where tidegated itself does not start."""
    if SystemdTimers().absent:
        mend = "start tidegated before sshd, and cron and atd after it"
        return Finding("backstop at boot", "warn", "none: systemd is not PID 1", mend)
    state = _said("systemctl", "is-enabled", "tidegate-boot.service").strip()
    if state.startswith(("static", "enabled")):
        return Finding("backstop at boot", "ok", "tidegate-boot.service ends what expired before anybody may log in")
    mend = "systemctl unmask tidegate-boot.service, or install the package again"
    return Finding("backstop at boot", "warn", f"tidegate-boot.service is {state.splitlines()[-1] if state else 'not there'}", mend)


def _clock() -> Finding:
    said = _said("timedatectl", "show", "--property=NTPSynchronized", "--value").strip()
    if said == "yes":
        return Finding("clock", "ok", "synchronised; deadlines are held on the boot clock too")
    return Finding("clock", "warn", "not known to be synchronised", "grants end by this host's clock: run an NTP client")


def _disk(config: Config) -> Finding:
    folder = config.paths.state_db.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", "fail", f"{folder}: {error.strerror}", "tidegated makes it when it starts")
    if free < _DISK_LOW:
        return Finding(
            "disk",
            "warn",
            f"{free >> 20} MiB free at {folder}",
            "make room: without it new grants wait and no end can be written down; doors still shut on time",
        )
    return Finding("disk", "ok", f"{free >> 20} MiB free at {folder}")
