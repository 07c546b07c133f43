"""What is done to a host's file tree before it boots."""

import os
import subprocess
import sys
from pathlib import Path

from tests.hosts import tools
from tests.hosts.errors import HostError

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALLER = REPOSITORY / "packaging" / "install.sh"


class NotInstallable(HostError):  # noqa: N818 - says what is so
    """Tidegate could not be installed into a host; the message says why."""


def install_tidegate(root: Path) -> None:
    """Install this repository's Tidegate into the tree `root`, by `packaging/install.sh ROOT`.

    Raises:
        NotInstallable: the script is missing, or failed.
    """
    if not os.access(INSTALLER, os.X_OK):
        raise NotInstallable(f"{INSTALLER.relative_to(REPOSITORY)} is missing or not executable")
    try:
        tools.run([str(INSTALLER), str(root)], timeout=120)
    except subprocess.CalledProcessError as failure:
        printed = f"{failure.stdout}{failure.stderr}".strip()
        raise NotInstallable(f"packaging/install.sh failed with status {failure.returncode}:\n{printed}") from failure


def install_tidegate_beside_a_person(root: Path) -> None:
    """The same on a host where a person, `deploy`, had an account before.

    Raises:
        NotInstallable: as `install_tidegate`.
    """
    install_tidegate(root)
    tools.run(["chroot", str(root), "useradd", "-m", "-s", "/bin/bash", "deploy"])


def install_tidegate_with_this_python(root: Path) -> None:
    """The same for a host of this machine's own files: its /usr/bin/python3 may lack the libraries, this Python has them.

    Raises:
        NotInstallable: as `install_tidegate`.
    """
    install_tidegate(root)
    for name in ("usr/bin/tidegate", "usr/sbin/tidegated", "usr/lib/tidegate/tidegate-courier"):
        script = root / name
        _, rest = script.read_text().split("\n", 1)
        script.write_text(f"#!{sys.executable} -I\n{rest}")
