"""What the daemon does around its start: its folders, its word to systemd, and what of sshd's and sudo's files it has seen."""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import socket
from pathlib import Path

from agent.config import Config
from agent.host import courier, recorder
from agent.host.memory import keep_for_good


def make_folders(config: Config) -> None:
    """What tmpfiles.d makes where systemd runs, for hosts where it does not."""
    paths = config.paths
    for folder, mode in (
        (paths.run_dir, 0o755),
        (paths.keys, 0o755),
        (paths.principals, 0o755),
        (paths.sudoers, 0o755),
        (paths.tenants, 0o755),
        (paths.state_db.parent, 0o711),
        (paths.inbox.parent, 0o711),
        (paths.inbox, 0o700),
        (paths.outbox, 0o700),
        (paths.sessions, 0o700),
        (paths.courier, 0o711),
        (paths.execs, 0o700),
        (paths.archive, 0o700),
        (paths.policy_dir, 0o755),
        (paths.trust_dir, 0o755),
    ):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
    recorder.own(paths.sessions)
    courier.share(paths)
    for left in paths.run_dir.glob("ask-*"):  # of a question to sshd that a kill cut short (agent.host.asker)
        shutil.rmtree(left, ignore_errors=True)


def tool_folders(config: Config) -> set[Path]:
    """Where sshd's and sudo's configuration files lie."""
    paths = config.paths
    return {paths.sshd_config.parent, paths.sshd_drop_in.parent, paths.sudoers_drop_in.parent}


def digest_of_tools(config: Config) -> bytes:
    """SHA-256 over the names and bytes of sshd's and sudo's configuration files."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in tool_folders(config) if folder.is_dir() for file in folder.iterdir() if file.is_file()):
        with contextlib.suppress(OSError):
            digest.update(bytes(file) + b"\0" + file.read_bytes() + b"\0")
    return digest.digest()


class _Formatter(logging.Formatter):
    """One line a message; where journald reads stderr, with the priority it is to be filed under (sd-daemon(3))."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def __init__(self, for_journald: bool) -> None:
        super().__init__("%(message)s" if for_journald else "%(levelname)s %(message)s")
        self._for_journald = for_journald

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        text = super().format(record)
        if not self._for_journald:
            return text
        priority = next((number for level, number in self._PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines() or [""])


def log_to_stderr(verbose: bool) -> None:
    """Say what is worth saying on stderr; ``verbose`` also what is not."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(for_journald="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    logging.getLogger("watchdog").setLevel(logging.WARNING)


def tell_systemd(state: str) -> None:
    """sd_notify(3), where systemd asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify, contextlib.suppress(OSError):
        notify.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def ready(loop: asyncio.AbstractEventLoop) -> None:
    """The start is over: what it made stays, systemd is told, and from now on also that the loop goes round."""
    keep_for_good()
    tell_systemd("READY=1")
    watchdog(loop)


def watchdog(loop: asyncio.AbstractEventLoop) -> None:
    """Tell systemd from now on that the loop goes round, three times in each of its periods (sd_watchdog_enabled(3))."""
    period_us = os.environ.get("WATCHDOG_USEC", "")
    if period_us.isdigit() and int(period_us):
        tell_systemd("WATCHDOG=1")
        loop.call_later(int(period_us) / 3e6, watchdog, loop)
