"""The cached Debian roots: one for each suite, built by debootstrap, then only read (hosts lay an overlay on it)."""

import hashlib
import json
import os
import re
import secrets
import shutil
from pathlib import Path

from tests.hosts import cache, mounts, tools
from tests.hosts.errors import BuildFailed, HostUnavailable

DEFAULT_SUITE = "bookworm"
VARIABLE = "TIDEGATE_SUITE"  # of the environment, so that whatever a test starts boots the same Debian

# Raise this whenever CONFIGURE or the way of building changes: roots made by another recipe are not used.
_RECIPE = 1

_PACKAGES = (
    "systemd systemd-sysv dbus libpam-systemd libnss-systemd openssh-server openssh-client sudo python3 python3-click "
    "python3-cryptography python3-jwt python3-yaml python3-watchdog python3-psutil python3-systemd python3-paramiko "
    "procps iproute2 strace at cron tmux acl less vim-tiny rsync"
)

# Units that cost boot time or wake up on their own, and prove nothing about Tidegate.
_MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer "
    "man-db.timer systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service "
    "systemd-resolved.service systemd-timesyncd.service console-getty.service getty@.service container-getty@.service "
    "getty-static.service getty.target systemd-firstboot.service systemd-machine-id-commit.service "
    "systemd-sysctl.service dev-hugepages.mount ssh.socket rsync.service"
)

# Run by sh inside the root. The package files sit on a bind mount of the cache, so no `apt-get clean` here.
_CONFIGURE = """
set -eu
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
# Its signature is what counts: a mirror that stands still (a snapshot) is as good as any for a test.
apt-get -o Acquire::Check-Valid-Until=false update
apt-get install --yes --no-install-recommends -o DPkg::Options::=--force-unsafe-io \\
  -o APT::Keep-Downloaded-Packages=true {packages}
# Masked by hand: systemctl refuses to mask a template or a unit that is not installed in some versions.
for unit in {masked}; do ln -sf /dev/null "/etc/systemd/system/$unit"; done
ln -sf /usr/lib/systemd/system/multi-user.target /etc/systemd/system/default.target
systemctl enable ssh.service
ssh-keygen -A
passwd --lock root
grep -Eq '^passwd:.*systemd' /etc/nsswitch.conf
# No name server is reachable from a host: an empty file fails at once, where a missing one asks localhost and waits.
: > /etc/resolv.conf
rm -rf /var/lib/apt/lists/*
: > /etc/machine-id
rm -f /var/lib/dbus/machine-id
ln -s /etc/machine-id /var/lib/dbus/machine-id
mkdir -p /var/log/journal
rm -rf /var/log/journal/*
# Tests read the journal: no line of it may be dropped.
mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\\nRateLimitIntervalSec=0\\n' > /etc/systemd/journald.conf.d/10-test-host.conf
"""


def mirror(suite: str) -> str:
    """The Debian mirror's URL, as this machine's own apt configuration has it (or `$TIDEGATE_MIRROR`).

    Raises:
        HostUnavailable: apt knows no Debian mirror here.
    """
    if named := os.environ.get("TIDEGATE_MIRROR"):
        return named
    targets = tools.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Origin: Debian", "Label: Debian"])
    found = [line.split() for line in targets.splitlines()]
    if not found:
        # No lists downloaded yet: then origins are unknown, and only the shape of the address tells the main archive.
        asked = tools.run(["apt-get", "update", "--print-uris"], check=False)
        found = [list(pair) for pair in re.findall(r"'([^']+/debian/)dists/([a-z]+)/InRelease'", asked)]
    for uri, release in sorted(found, key=lambda pair: pair[1] != suite):
        if "-" not in release:
            return uri
    raise HostUnavailable("this machine's apt sources name no Debian mirror (set TIDEGATE_MIRROR to one)")


def key(suite: str) -> str:
    """What a root is cached under: a change of suite, package list or recipe makes another root."""
    recipe = json.dumps([suite, _PACKAGES, _MASKED, _CONFIGURE, _RECIPE])
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def chosen() -> str:
    """The Debian suite that hosts are booted on where nobody names another: `$TIDEGATE_SUITE`, else `DEFAULT_SUITE`."""
    return os.environ.get(VARIABLE) or DEFAULT_SUITE


def built(suite: str) -> Path | None:
    """The folder of the finished root of `suite`, or None."""
    root = cache.folder() / "roots" / f"{suite}-{key(suite)}"
    return root if root.is_dir() else None


def ensure(suite: str) -> Path:
    """The folder of the root of `suite`, built now if it is not in the cache (about a minute, told on stderr).

    Raises:
        HostUnavailable: a tool or a mirror is missing here.
        BuildFailed: debootstrap or apt-get failed.
    """
    if not re.fullmatch(r"[a-z]+", suite):
        raise ValueError(f"not a Debian suite's name: {suite!r}")
    if root := built(suite):
        return root
    if os.geteuid() != 0:
        raise HostUnavailable("building a Debian root needs root")
    roots = cache.folder() / "roots"
    roots.mkdir(exist_ok=True)
    lock = roots / f"{suite}.lock"
    fd = cache.lock(lock, wait=False)
    if fd is None:
        tools.Progress(f"the {suite} root").say("waiting for another run that is building it")
        fd = cache.lock(lock, wait=True)
    try:
        return built(suite) or _build(suite, roots)
    finally:
        os.close(fd)


def _build(suite: str, roots: Path) -> Path:
    tools.need("debootstrap")
    for stale in roots.glob(f".building-{suite}-*"):  # we hold the lock, so whoever made these is dead
        shutil.rmtree(stale)
    debs = cache.folder() / "debs" / suite
    (debs / "partial").mkdir(parents=True, exist_ok=True)
    root = roots / f".building-{suite}-{secrets.token_hex(4)}"
    progress = tools.Progress(f"building the {suite} root (once)")
    address = mirror(suite)
    try:
        bootstrap = ["debootstrap", "--variant=minbase", f"--cache-dir={debs}", suite, str(root), address]
        progress.run(f"debootstrap from {address}", [*_ISOLATED, *bootstrap])
        progress.run("packages and configuration", [*_ISOLATED, "sh", "-c", _IN_CHROOT, "sh", str(root), str(debs)], _script())
    except BuildFailed:
        shutil.rmtree(root, ignore_errors=True)
        raise
    finished = roots / f"{suite}-{key(suite)}"
    root.rename(finished)
    progress.say(f"done: {finished}")
    return finished


def prune() -> list[str]:
    """Remove roots of other recipes than today's, and half-built ones, which nothing uses; returns their names."""
    roots = cache.folder() / "roots"
    options = [option for mount in mounts.all_mounts() for option in mount.options if option.startswith("lowerdir=")]
    used = {lower for option in options for lower in option.removeprefix("lowerdir=").split(":")}
    removed = []
    for root in sorted(roots.glob("*-*")) if roots.is_dir() else []:
        suite = root.name.removeprefix(".building-").partition("-")[0]
        current = root.name == f"{suite}-{key(suite)}"
        if current or str(root) in used:
            continue
        fd = cache.lock(roots / f"{suite}.lock", wait=False)
        if fd is not None:  # else it is being built
            shutil.rmtree(root)
            os.close(fd)
            removed.append(root.name)
    return removed


# Namespaces of their own: a build killed half-way leaves neither a process nor a mount.
_ISOLATED = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
_IN_CHROOT = """
set -eu
mount --bind "$2" "$1/var/cache/apt/archives"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sys "$1/sys"
exec chroot "$1" sh
"""


def _script() -> str:
    return _CONFIGURE.format(packages=_PACKAGES, masked=_MASKED)
