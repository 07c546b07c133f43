"""What of the host itself matters to Tidegate: sshd, sudo, accounts, cgroups, clock, disk, and the backstops."""

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

from agent.cli.finding import Finding
from agent.config import Config
from agent.errors import TidegateError
from agent.host import command, processes, recorder, room, standby
from agent.host.accounts import nsswitch_has_systemd
from agent.host.cgroups import Cgroups
from agent.host.clock import synchronised
from agent.host.timers import SystemdTimers

_DISK_LOW = 256 * 1024 * 1024
_OPENSSH_Z_SUFFIX = (9, 1)


def host_findings(config: Config) -> Iterator[Finding]:
    """Every check of the host, in the order of a login."""
    yield _sshd(config)
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
    yield from _disk(config)


def _said(*argv: str) -> str:
    """What a tool prints of itself, on either stream; empty when it is missing or fails to start."""
    try:
        result = command.run(list(argv), timeout_s=5)
    except TidegateError:
        return ""
    return result.stdout + result.stderr


def _sshd(config: Config) -> Finding:
    found = re.search(r"OpenSSH_(\d+)\.(\d+)\S*", _said("sshd", "-V") or _said("ssh", "-V"))
    if not found:
        return Finding.fail("sshd_missing", "sshd", "no OpenSSH server here", "install openssh-server")
    version = (int(found[1]), int(found[2]))
    if version < _OPENSSH_Z_SUFFIX:
        return Finding.fail(
            "sshd_too_old", "sshd", f"{found[0]} takes no UTC expiry-time in key files", "OpenSSH 9.1 or later is needed"
        )
    trouble = _config_trouble(config.paths.sshd_config)
    if trouble:
        mend = "mend what it names, then: systemctl kill -s HUP tidegated; sshd -T -C user=LOGIN shows what counts for one"
        return Finding.fail("sshd_failed", "sshd", f"{found[0]} does not take its configuration: {trouble}", mend)
    return Finding.ok("sshd", f"{found[0].rstrip(',')}; backstop: expiry-time on every key and principal")


def _config_trouble(path: Path) -> str:
    """What ``sshd -t`` says is wrong; empty when nothing is, or when it can't be asked: host keys are root's to read."""
    if os.geteuid() != 0:
        return ""
    try:
        result = command.run(["sshd", "-t", "-f", str(path)], timeout_s=10)
    except TidegateError as error:
        return str(error)
    said = (result.stderr or result.stdout).strip().splitlines()
    return "" if result.ok else (said[-1] if said else f"exit status {result.returncode}")


def _sudo() -> Finding:
    said = _said("sudo", "-V")
    first = said.splitlines()[0] if said else ""
    if not first:
        return Finding.warn("sudo_missing", "sudo", "no sudo here: grants of sudo are refused", "install sudo")
    if not first.startswith("Sudo version"):
        detail = f"{first}: grants of sudo are refused, for it knows no NOTAFTER and no TIMEOUT"
        return Finding.warn(
            "sudo_unsupported", "sudo", detail, "let sudo be that of package sudo (sudo.ws); sudo-rs may stay beside it"
        )
    return Finding.ok("sudo", f"{first}; backstops: NOTAFTER and TIMEOUT on every rule")


def _drop_in(name: str, path: Path) -> Finding:
    if path.exists():
        return Finding.ok(name, str(path))
    return Finding.warn(
        "drop_in_missing", name, f"{path} is not there", "tidegated writes it when it starts: journalctl -u tidegated"
    )


def _accounts(config: Config) -> Finding:
    try:
        text = Path("/etc/nsswitch.conf").read_bytes()
    except OSError:
        text = b""
    named = nsswitch_has_systemd(text)
    if config.account_backend == "userdb" and not named:
        mend = "add systemd to passwd: and group: in /etc/nsswitch.conf, or set account_backend: auto"
        return Finding.fail("nsswitch_without_systemd", "accounts", "nsswitch.conf resolves no records in /run/userdb", mend)
    if config.account_backend != "passwd" and named and not _resolver():
        detail = "nsswitch.conf names systemd, and libnss_systemd is not installed: accounts are rows of /etc/passwd"
        return Finding.warn("nss_systemd_missing", "accounts", detail, "install libnss-systemd, then restart tidegated")
    chosen = config.account_backend if config.account_backend != "auto" else ("userdb" if named else "passwd")
    where = "records in /run/userdb (gone at a reboot)" if chosen == "userdb" else "rows of /etc/passwd, removed exactly"
    return Finding.ok("accounts", f"backend {chosen}: {where}")


def _resolver() -> bool:
    """Whether libc could load what resolves the records (nss-systemd(8))."""
    try:
        ctypes.CDLL("libnss_systemd.so.2")
    except OSError:
        return False
    return True


def _tenant_shell(config: Config) -> Finding:
    shell = config.paths.tenant_shell
    if os.access(shell, os.X_OK):
        return Finding.ok("tenant shell", str(shell))
    mend = "reinstall the package: without it, what an ssh entry allows is held by sshd's options alone"
    return Finding.warn("tenant_shell_missing", "tenant shell", f"{shell} is missing", mend)


def _cgroups() -> Finding:
    if Cgroups.find().available:
        return Finding.ok("cgroups", "cgroup2: whole sessions are killed at once")
    mend = "boot with the unified cgroup hierarchy"
    return Finding.warn("cgroup2_missing", "cgroups", "no cgroup2: processes are ended by kill(-1) and a walk of /proc", mend)


def _recorder(config: Config) -> Finding:
    """Who records sessions; only grants that require it are refused without."""
    seen = recorder.look(config)
    if seen.why:
        mend = "install the package again: it makes the account and tidegate-shell's interpreter; then systemctl restart tidegated"
        return Finding.warn("recorder_unready", "recorder", f"grants that must be recorded are refused: {seen.why}", mend)
    socket = config.paths.run_dir / "recorder/sock"
    if not socket.is_socket():
        mend = "systemctl restart tidegate-recorder; journalctl -u tidegate-recorder"
        return Finding.fail(
            "recorder_socket_missing", "recorder", f"nobody gets in who must be recorded: {socket} is not there", mend
        )
    if not processes.runs_as(seen.uid):
        mend = "systemctl restart tidegate-recorder; journalctl -u tidegate-recorder"
        return Finding.fail("recorder_down", "recorder", "nobody gets in who must be recorded: the recorder does not run", mend)
    return Finding.ok("recorder", f"records as uid {seen.uid}; tidegate-shell can't be traced by its tenant")


def _systemd() -> Finding:
    if Path("/run/systemd/system").exists():
        return Finding.ok("systemd", "is PID 1; it starts tidegated again should it die")
    return Finding.warn(
        "systemd_absent", "systemd", "is not PID 1: nothing starts tidegated again should it die", "run it under a supervisor"
    )


def _timers(config: Config) -> Finding:
    """The timer behind each grant, and what it would start."""
    absent, opens = SystemdTimers().absent, "grants are refused" if config.backstop == "required" else "grants open without"
    if absent:
        mend = "boot with systemd, or keep tidegated under a supervisor: with it dead, live sessions have no other end"
        return Finding.warn("backstop_none", "backstop timers", f"none: {absent}; {opens}", mend)
    missing = [str(path) for path in (standby.UNIT, standby.CURRENT / standby.PROGRAM) if not os.path.lexists(path)]
    if missing and os.geteuid() == 0:
        mend = "tidegated writes it when it starts: systemctl restart tidegated; journalctl -u tidegated"
        return Finding.warn(
            "backstop_program_missing", "backstop timers", f"{', '.join(missing)} is not there: a timer would start nothing", mend
        )
    word = "" if config.backstop == "best-effort" else "; nothing opens without"
    return Finding.ok("backstop timers", f"a systemd timer behind each grant ends it should tidegated be dead or hung{word}")


def _boot() -> Finding:
    """What ends grants before anybody logs in, where tidegated itself does not start."""
    if SystemdTimers().absent:
        mend = "start tidegated before sshd, and cron and atd after it"
        return Finding.warn("boot_backstop_none", "backstop at boot", "none: systemd is not PID 1", mend)
    state = _said("systemctl", "is-enabled", "tidegate-boot.service").strip()
    if state.startswith(("static", "enabled")):
        return Finding.ok("backstop at boot", "tidegate-boot.service ends what expired before anybody may log in")
    mend = "systemctl unmask tidegate-boot.service, or install the package again"
    return Finding.warn(
        "boot_backstop_off",
        "backstop at boot",
        f"tidegate-boot.service is {state.splitlines()[-1] if state else 'not there'}",
        mend,
    )


def _clock() -> Finding:
    """By the kernel's own word; where it may not be asked that is no good sign either."""
    if synchronised():
        return Finding.ok("clock", "synchronised; deadlines are held on the boot clock too")
    mend = "grants end by this host's clock: run an NTP client"
    return Finding.warn("clock_unsynchronised", "clock", "not known to be synchronised", mend)


def _disk(config: Config) -> Iterator[Finding]:
    """Each file system that something of ours grows on, once."""
    paths, seen = config.paths, set()
    for folder in (paths.state_db.parent, paths.outbox, paths.sessions):
        free, device = room.free_bytes(folder), room.device_of(folder)
        if free is None or device is None:
            if folder == paths.state_db.parent:
                yield Finding.fail("disk_unreadable", "disk", f"{folder} can't be read", "tidegated makes it when it starts")
        elif device not in seen:
            seen.add(device)
            yield _room(folder, free)


def _room(folder: Path, free: int) -> Finding:
    if free >= _DISK_LOW:
        return Finding.ok("disk", f"{free >> 20} MiB free at {folder}")
    mend = "make room: without it new grants wait and no end can be written down; doors still shut on time"
    return Finding.warn("disk_low", "disk", f"{free >> 20} MiB free at {folder}", mend)
