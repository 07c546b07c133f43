"""How systemd-nspawn is started so that a host is whole, alone, and certain to end."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import mounts, tools
from tests.hosts.cgroup import Cgroup

# A process id namespace around nspawn itself: when its parent dies, by whatever signal, the kernel kills every process
# in it. (nspawn alone leaves the host running.) The mount namespace is for the fresh /run below and a matching /proc.
_WRAPPER = (
    *tools.DIE_WITH_PARENT,
    *("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"),
)


def enter(cgroup: Cgroup | None) -> str:
    """sh commands by which the shell moves itself into `cgroup`."""
    # "0" is the writing process itself: its own number would be that of the new namespace.
    paths = cgroup.entrances() if cgroup else []
    return "".join(f"echo 0 > {shlex.quote(str(path))}\n" for path in paths)


@dataclass(frozen=True)
class Nspawn:
    """A host of the kind "nspawn": a cached Debian root, booted whole by systemd-nspawn."""

    name: str
    hostname: str
    lower: Path
    folder: Path
    cgroup: Cgroup

    def make_tree(self) -> Path:
        """Mount the host's file tree; returns where. Raises OSError."""
        return mounts.mount_root(self.name, self.lower, self.folder)

    def argv(self, tree: Path, namespace: int) -> Sequence[str]:
        """What to start, with `namespace` (a descriptor) its network; it says READY=1 to NOTIFY_SOCKET when booted."""
        nspawn = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--settings=no",
            "--register=no",
            "--keep-unit",
            f"--machine={self.name}",
            f"--hostname={self.hostname}",
            f"--directory={tree}",
            f"--network-namespace-path=/proc/self/fd/{namespace}",
            "--capability=CAP_NET_ADMIN",
            # What systemd gives a real host; nspawn would give the kernel's own 4096, and dbus complains.
            "--rlimit=NOFILE=1024:524288",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--console=pipe",
            "--notify-ready=yes",
            # For systemd, as if on the kernel's command line: its status lines tell why a boot failed.
            "systemd.show_status=1",
        ]
        # nspawn keeps a folder for each host in /run/systemd, and never removes it: let it have its own /run.
        script = f'mount -t tmpfs -o mode=755 tidegate /run\n{enter(self.cgroup)}exec "$@"'
        return [*_WRAPPER, "sh", "-euc", script, "sh", *nspawn]

    def leader(self, started: int) -> int:
        """The machine's process id of the host's PID 1; `started` is that of `argv`. Raises LookupError."""
        for pid in (self.cgroup.folder / "payload/init.scope/cgroup.procs").read_text().split():
            status = Path("/proc", pid, "status").read_text()
            if any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in status.splitlines()):
                return int(pid)
        raise LookupError("the host has no PID 1")
