"""What the daemon does around its start: its folders, and what of sshd's and sudo's files it has seen."""

import contextlib
import hashlib
import shutil
from pathlib import Path

from agent.config import Config
from agent.host import courier, recorder


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
