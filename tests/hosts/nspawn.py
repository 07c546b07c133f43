"""How systemd-nspawn is started so that a host is whole, alone, and certain to end."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tests.hosts import tools
from tests.hosts.cgroup import Cgroup

# A process id namespace around nspawn itself: when its parent dies, by whatever signal, the kernel kills every process
# in it. (nspawn alone leaves the host running.) The mount namespace is for the fresh /run below and a matching /proc.
_WRAPPER = (
    *tools.DIE_WITH_PARENT,
    "unshare",
    "--mount",
    "--propagation",
    "slave",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)


def launch(script: str, cgroup: Cgroup | None, argv: Sequence[str]) -> list[str]:
    """`argv` in the wrapper: inside the cgroup, after `script` (sh) has run there."""
    # "0" is the writing process itself: its own number would be that of the new namespace.
    enter = "".join(f"echo 0 > {shlex.quote(str(path))}\n" for path in (cgroup.entrances() if cgroup else ()))
    return [*_WRAPPER, "sh", "-euc", f'{script}\n{enter}exec "$@"', "sh", *argv]


def command(name: str, hostname: str, tree: Path, network: str, cgroup: Cgroup) -> list[str]:
    """The argv that boots the tree as the host `name`; `network` is the path of its network namespace."""
    nspawn = [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        "--settings=no",
        "--register=no",
        "--keep-unit",
        f"--machine={name}",
        f"--hostname={hostname}",
        f"--directory={tree}",
        f"--network-namespace-path={network}",
        "--capability=CAP_NET_ADMIN",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=pipe",
        "--notify-ready=yes",
        # systemd's own word for it on the kernel command line; its status lines are the console log of a failed boot.
        "systemd.show_status=1",
    ]
    # nspawn keeps a folder for each host in /run/systemd, and never removes it: let it have its own /run.
    return launch("mount -t tmpfs -o mode=755 tidegate /run", cgroup, nspawn)


def leader(cgroup: Cgroup) -> int:
    """The process id, as the machine sees it, of the host's PID 1. Raises LookupError before it has one."""
    for pid in (cgroup.folder / "payload/init.scope/cgroup.procs").read_text().split():
        status = Path("/proc", pid, "status").read_text()
        if any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in status.splitlines()):
            return int(pid)
    raise LookupError("the host has no PID 1")
