"""A few more packages over a cached root: a folder of its own with what they add, made once; the root stays as it is.

overlayfs takes several lower folders, so a host boots on ``layer:root`` as it would on the root alone.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.hosts import cache, root, tools

# Run in namespaces of its own: what it mounts goes with it. $1 is the root, $2 a folder for the layer, $3 the package files.
_BUILD = """
set -eu
mkdir "$2/merged"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" layer "$2/merged"
mount --bind "$3" "$2/merged/var/cache/apt/archives"
mount --bind /etc/resolv.conf "$2/merged/etc/resolv.conf"  # the root's own is empty
mount -t proc proc "$2/merged/proc"
exec chroot "$2/merged" sh
"""
_INSTALL = """
set -eu
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
apt-get -o Acquire::Check-Valid-Until=false update
apt-get install --yes --no-install-recommends -o DPkg::Options::=--force-unsafe-io \\
  -o APT::Keep-Downloaded-Packages=true {packages}
rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d
"""


def ensure(packages: Sequence[str], suite: str) -> Path:
    """What a host with these packages is booted on: ``layer:root``; the layer is made now if it is not in the cache yet.

    Raises:
        HostUnavailable: as `root.ensure`.
        BuildFailed: apt-get failed, or no overlay can be laid on the cache folder.
    """
    base = root.ensure(suite)
    name = hashlib.sha256(" ".join([base.name, _INSTALL, *sorted(packages)]).encode()).hexdigest()[:12]
    layers = cache.folder() / "layers"
    layers.mkdir(exist_ok=True)
    finished = layers / f"{suite}-{name}"
    fd = cache.lock(layers / f"{suite}.lock", wait=True)
    try:
        if not finished.is_dir():
            _build(base, packages, suite, layers).rename(finished)
    finally:
        os.close(fd)
    return Path(f"{finished}:{base}")


def _build(base: Path, packages: Sequence[str], suite: str, layers: Path) -> Path:
    for stale in layers.glob(f".building-{suite}-*"):  # we hold the lock, so whoever made these is dead
        shutil.rmtree(stale)
    debs = cache.folder() / "debs" / suite
    (debs / "partial").mkdir(parents=True, exist_ok=True)
    folder = layers / f".building-{suite}-{secrets.token_hex(4)}"
    for part in ("upper", "work"):
        (folder / part).mkdir(parents=True)
    isolated = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    argv = [*isolated, "sh", "-c", _BUILD, "sh", str(base), str(folder), str(debs)]
    try:
        script = _INSTALL.format(packages=" ".join(packages))
        tools.Progress("a layer of packages (once)").run(f"installing {' '.join(packages)}", argv, script)
        done = layers / f".building-{suite}-{secrets.token_hex(4)}-done"
        (folder / "upper").rename(done)
        return done
    finally:
        shutil.rmtree(folder, ignore_errors=True)
