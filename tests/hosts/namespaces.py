"""How a host is made of this machine's own files in namespaces of its own, where systemd-nspawn cannot boot one."""

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import mounts, tools
from tests.hosts.cgroup import Cgroup
from tests.hosts.nspawn import enter

_WRAPPER = (
    *(
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--uts",
        "--ipc",
        "--cgroup",
    ),
)

# The host gets these empty, whatever the machine has mounted there.
_OWN = ("/proc", "/sys", "/dev", "/run", "/tmp")
# What systemd-nspawn keeps from a host as well: the clock, the kernel's modules, log and memory are the machine's.
_NEVER = "-sys_time,-sys_module,-sys_rawio,-syslog,-wake_alarm,-block_suspend,-mac_admin,-mac_override"
# Kinds of file system that hold files worth showing in the host; an overlay is laid on each.
_DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "squashfs", "erofs", "fuseblk", "bcachefs"}

_SSHD_CONFIG = """
Include /etc/ssh/sshd_config.d/*.conf
KbdInteractiveAuthentication no
UsePAM yes
X11Forwarding yes
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""

# PID 1 of the host. It first finishes the tree, which takes the new namespaces, then goes there for good.
_INIT = """
tree=$1
hostname "$2"
cd "$tree"
mount -t proc -o nosuid,nodev,noexec proc proc
# Settings of the whole machine, which are not the host's to change.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup 2>/dev/null || :
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for name in null zero full random urandom tty; do : > dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,nosuid,noexec,mode=620,gid=5,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
# The Python that runs this, wherever it is installed: a host of this machine's own files runs Tidegate with it.
for path in "$4" "$5"; do
  [ -e "./$path/bin" ] || { mkdir -p "./$path"; mount --bind "$path" "./$path"; mount -o remount,bind,ro "./$path"; }
done
mkdir -p run/lock run/sshd run/user run/sudo
chmod 1777 run/lock
chmod 711 run/sudo
# Onto itself and then away: the machine's own tree is out of reach in here.
pivot_root . .
umount -l .
exec setpriv --bounding-set "$3" chroot . /bin/sh -euc '
/usr/sbin/sshd -E /var/log/sshd.log
echo READY=1
exec >&2
while :; do sleep infinity & wait $! || :; done
'
"""


@dataclass(frozen=True)
class Namespaces:
    """A host of the kind "namespaces": overlays on this machine's file systems, a real sshd and sudo, no systemd."""

    name: str
    hostname: str
    lower: Path
    folder: Path
    cgroup: Cgroup | None

    def make_tree(self) -> Path:
        """Mount the host's file tree; returns where. Raises OSError."""
        tree = mounts.mount_root(self.name, self.lower, self.folder, in_memory=True)
        for point in _disks_below(self.lower, self.folder):
            mounts.mount_over(self.name, point, self.folder, tree / point.relative_to("/"))
        self._configure(tree)
        return tree

    def argv(self, tree: Path, namespace: int) -> Sequence[str]:
        """What to start with the descriptor `namespace`, its network; it prints READY=1 when sshd listens."""
        init = ["sh", "-euc", enter(self.cgroup) + _INIT, "sh", str(tree), self.hostname, _NEVER, sys.prefix, sys.base_prefix]
        return [*tools.DIE_WITH_PARENT, "nsenter", f"--net=/proc/self/fd/{namespace}", *_WRAPPER, *init]

    def leader(self, started: int) -> int:
        """The machine's process id of the host's PID 1; `started` is that of `argv`. Raises LookupError."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = stat.read_text().rpartition(")")[2].split()[1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == str(started):
                return int(stat.parent.name)
        raise LookupError("the host has no PID 1")

    def _configure(self, tree: Path) -> None:
        """Put Debian's own sshd configuration and new host keys in the place of this machine's."""
        etc = tree / "etc/ssh"
        (etc / "sshd_config.d").mkdir(parents=True, exist_ok=True)
        for old in (*etc.glob("sshd_config.d/*"), *etc.glob("ssh_host_*")):
            old.unlink()
        (etc / "sshd_config").write_text(_SSHD_CONFIG)
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", secrets.token_hex(4)]
        tools.run([*key, "-f", str(etc / "ssh_host_ed25519_key")])


def _disks_below(lower: Path, folder: Path) -> list[Path]:
    """The folders of this machine that are file systems of their own, outer before inner."""
    points = []
    for mount in mounts.all_mounts():
        hidden = any(mount.point.is_relative_to(own) for own in (*_OWN, folder.parent))
        if mount.kind in _DISKS and not hidden and mount.point != lower and mount.point.is_dir():
            points.append(mount.point)
    return list(dict.fromkeys(points))
