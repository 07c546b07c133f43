"""Taking a host down, and finding those whose owner was killed together with its supervisor.

Each host has a lock file, `<name>.lock` in the run folder, held by its supervisor for as long as that lives. Who gets
the lock may take the host down; nobody else touches it. A name is random and used once: all with it is that host's.
"""

import os
import subprocess
from pathlib import Path

from tests.hosts import cache, mounts, tools
from tests.hosts.cgroup import Cgroup
from tests.hosts.errors import HostUnavailable

PREFIX = "tidegate-"


def destroy(name: str, run: Path) -> None:
    """End every process of the host `name`, then remove its mounts, cgroups, files and lock file from `run`.

    Only for the holder of its lock. What is gone already is passed over. Its network went with its processes.
    """
    try:
        cgroup = Cgroup.named(name)
    except HostUnavailable:
        cgroup = None  # a host made where there are no cgroups: its processes ended with their supervisor
    if cgroup is not None:
        cgroup.kill()
    mounts.unmount_all(run / name)
    if cgroup is not None:
        cgroup.remove()
    _remove_tree(run / name)
    (run / f"{name}.lock").unlink(missing_ok=True)


def sweep() -> list[str]:
    """Take down every host in this cache whose supervisor is dead; returns their names."""
    run = cache.run_folder()
    swept = []
    for path in sorted(run.glob(f"{PREFIX}*.lock")):
        fd = cache.lock(path, wait=False)
        if fd is None:
            continue
        try:
            destroy(path.stem, run)
        finally:
            os.close(fd)
        swept.append(path.stem)
    return swept


def _remove_tree(folder: Path) -> None:
    if not folder.exists():
        return
    # rm, since Python's rmtree gives up on a tree some thousand folders deep, and tests make such homes.
    remove = ["rm", "-rf", "--one-file-system", str(folder)]
    if subprocess.run(remove, check=False, env=tools.environment(), capture_output=True).returncode != 0:
        # A test may leave immutable files behind; root can clear that flag, and only below this host's own folder.
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(folder)], check=False, env=tools.environment(), capture_output=True)
        tools.run(remove)
