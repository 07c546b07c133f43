"""The disk of a virtual machine: the cached Debian root with a kernel and the agent in it, made once, then only read."""

import functools
import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import cache, root, tools
from tests.hosts.errors import BuildFailed, HostUnavailable

GUEST = Path(__file__).with_name("guest.py")
DISK = "disk.img"
STATE_DISK = "state.img"
STATE_LABEL = "tidegate-state"
_DISK_SIZE, _STATE_SIZE = "1500M", "128M"

# Units that only cost a machine its boot time under emulation.
_MASKED = (
    "systemd-binfmt.service systemd-pstore.service systemd-hwdb-update.service systemd-update-done.service ldconfig.service "
    "systemd-journal-catalog-update.service systemd-boot-system-token.service dev-mqueue.mount sys-kernel-debug.mount "
    "sys-kernel-tracing.mount sys-fs-fuse-connections.mount systemd-udev-settle.service keyboard-setup.service "
    "console-setup.service kmod-static-nodes.service modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service "
    "modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service systemd-rfkill.socket serial-getty@ttyS0.service "
    "cron.service rsync.service systemd-quotacheck.service systemd-random-seed.service systemd-modules-load.service "
    "systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service "
    "systemd-remount-fs.service systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-sysusers.service"
)

# Run by sh inside a copy of the root.
_CONFIGURE = """
set -eu
export DEBIAN_FRONTEND=noninteractive
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
mkdir -p /etc/initramfs-tools/conf.d
printf 'MODULES=list\\nCOMPRESS=lz4\\nBUSYBOX=n\\n' > /etc/initramfs-tools/conf.d/machine
apt-get -o Acquire::Check-Valid-Until=false update
apt-get install --yes --no-install-recommends -o DPkg::Options::=--force-unsafe-io \\
  -o APT::Keep-Downloaded-Packages=true initramfs-tools lz4 linux-image-cloud-amd64
# Neither there nor later is udev wanted: a few seconds of a boot, for five devices that the kernel names itself.
for place in init-top init-bottom; do
  mkdir -p "/etc/initramfs-tools/scripts/$place"
  printf '#!/bin/sh\\nexit 0\\n' > "/etc/initramfs-tools/scripts/$place/udev"
  chmod 755 "/etc/initramfs-tools/scripts/$place/udev"
done
printf '%s\\n' virtio_pci virtio_blk virtio_console virtio_net > /etc/initramfs-tools/modules
update-initramfs -u
for unit in {masked}; do ln -sf /dev/null "/etc/systemd/system/$unit"; done
rm -rf /var/lib/apt/lists/*
: > /etc/fstab
printf 'machine\\n' > /etc/hostname
printf '127.0.0.1 localhost machine\\n::1 localhost\\n' > /etc/hosts
mkdir -p /usr/lib/test-machine /etc/systemd/system/sysinit.target.wants /etc/systemd/system/network-pre.target.wants
cat > /etc/systemd/system/test-agent.service <<'UNIT'
[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service
[Service]
ExecStart=/usr/bin/python3 -I /usr/lib/test-machine/guest.py
Nice=-15
OOMScoreAdjust=-1000
KillMode=process
UNIT
cat > /etc/systemd/system/test-network.service <<'UNIT'
[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up'
UNIT
for unit in test-agent test-network; do
  ln -sf "/etc/systemd/system/$unit.service" "/etc/systemd/system/sysinit.target.wants/$unit.service"
done
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n' > /etc/machine-id
"""

_ISOLATED = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
_IN_CHROOT = """
set -eu
mount --bind "$2" "$1/var/cache/apt/archives"
mount --bind /etc/resolv.conf "$1/etc/resolv.conf"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sys "$1/sys"
exec chroot "$1" sh
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A finished image: ``folder`` holds ``disk.img`` and ``state.img`` (ext4), ``vmlinuz`` and ``initrd``."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The root file system, raw; never written again."""
        return self.folder / DISK

    @property
    def state_disk(self) -> Path:
        """An empty file system, raw, for a machine that keeps something apart from its root."""
        return self.folder / STATE_DISK

    @property
    def kernel(self) -> Path:
        """The kernel."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Its initial RAM disk."""
        return self.folder / "initrd"


def key(suite: str) -> str:
    """What an image is cached under: the root it is made from, the recipe and the agent."""
    recipe = json.dumps([root.key(suite), _CONFIGURE, _MASKED, _DISK_SIZE, _STATE_SIZE, GUEST.read_text()])
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


@functools.cache  # one run has one image, whatever is edited meanwhile
def ensure(suite: str = root.DEFAULT_SUITE) -> Image:
    """The image of `suite`, made now if it is not in the cache (about a minute, told on stderr).

    Raises:
        HostUnavailable: a tool or a mirror is missing here.
        BuildFailed: a step failed.
    """
    finished = cache.folder() / "machines" / f"{suite}-{key(suite)}"
    if finished.is_dir():
        return Image(finished)
    if os.geteuid() != 0:
        raise HostUnavailable("making a machine's image needs root")
    base = root.ensure(suite)
    finished.parent.mkdir(exist_ok=True)
    fd = cache.lock(finished.parent / f"{suite}.lock", wait=True)
    try:
        if not finished.is_dir():
            _build(base, finished, suite)
    finally:
        os.close(fd)
    return Image(finished)


def _build(base: Path, finished: Path, suite: str) -> None:
    tools.need("mkfs.ext4")
    for stale in finished.parent.glob(f".building-{suite}-*"):  # we hold the lock, so whoever made these is dead
        shutil.rmtree(stale)
    debs = cache.folder() / "debs" / suite
    debs.mkdir(parents=True, exist_ok=True)
    building = finished.parent / f".building-{suite}-{secrets.token_hex(4)}"
    tree = building / "tree"
    progress = tools.Progress(f"making the {suite} machine's disk (once)")
    script = _CONFIGURE.format(masked=_MASKED)
    try:
        building.mkdir()
        progress.run("a copy of the root", ["cp", "-a", str(base), str(tree)])
        progress.run("kernel and configuration", [*_ISOLATED, "sh", "-c", _IN_CHROOT, "sh", str(tree), str(debs)], script)
        shutil.copy(GUEST, tree / "usr/lib/test-machine/guest.py")
        for source, target in (("vmlinuz-*", "vmlinuz"), ("initrd.img-*", "initrd")):
            next(iter((tree / "boot").glob(source))).rename(building / target)
        plain = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
        progress.run("file systems", [*plain, "-d", str(tree), str(building / DISK), _DISK_SIZE])
        progress.run("file systems", [*plain, "-L", STATE_LABEL, str(building / STATE_DISK), _STATE_SIZE])
        shutil.rmtree(tree)
    except (BuildFailed, OSError, StopIteration) as failure:
        shutil.rmtree(building, ignore_errors=True)
        raise BuildFailed(f"the machine's disk: {failure}") from failure
    building.rename(finished)
    progress.say(f"done: {finished}")
