"""``tidegate-courier``: carries signed files in, and what the host signed out, as a user of its own. It can make none of them."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.config import config_path, load_config
from agent.courier.service import Service, refuse_root
from agent.errors import TidegateError
from agent.host.service import log_to_stderr


def parser() -> argparse.ArgumentParser:
    """Its arguments; docs/make_man.py reads them too."""
    made = argparse.ArgumentParser(prog="tidegate-courier", description=__doc__, allow_abbrev=False)
    made.add_argument("--config", type=Path, help="another file than /etc/tidegate/tidegate.yaml")
    made.add_argument("--verbose", action="store_true", help="log each step as well")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop; returns only by exit: 0 stopped, 1 failed, 2 wrong arguments or run by root."""
    asked = parser().parse_args(argv)
    why = refuse_root()
    if why:
        sys.stderr.write(f"tidegate-courier: {why}\n")
        sys.exit(2)
    os.umask(0o077)
    log_to_stderr(verbose=asked.verbose)
    try:
        anew = Service(load_config(config_path(asked.config)), os.environ).run()
    except (TidegateError, OSError) as error:
        sys.stderr.write(f"tidegate-courier: {error}\n")
        sys.exit(1)
    if anew:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # itself, as it was called
    sys.stderr.flush()
    os._exit(0)  # a thread may still wait for a name server; nothing of it is needed any more


if __name__ == "__main__":
    main()
