"""What the package runs before its files go: every grant is ended, and what Tidegate put into the host's own files taken out.

``/usr/lib/tidegate/leave [--end-only] [--reason TEXT] [--config FILE]``. Called by the packages' scripts (packaging/), as root; and
by an admin where tidegated can't be had to run (docs/INCIDENTS.md). With ``--end-only`` (an older version is about to take this
one's place, and may not know what is open) the drop-ins stay. Exit status 0 means that nothing is left; anything else that the
package must stay: the daemon is started again then, if it ran before.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from agent import backstop
from agent.assembly import registry
from agent.config import Config, config_path
from agent.control import client
from agent.errors import TidegateError
from agent.expiry.ledger import SWEEPS_MS
from agent.host import command, files, service, standby
from agent.host.config_store import ConfigStore
from agent.host.system import SystemHost
from agent.host.timers import SystemdTimers, timer_unit
from agent.model.text import counted
from agent.trust import HostKey

log = logging.getLogger("tidegate")

PROGRAM = "leave"
HOST_KEY = "host-key.jwks"
_UNIT = "tidegated.service"
_STOP_S = 60.0
_REMOVED, _OLDER = "Tidegate is being removed from this host", "an older Tidegate takes this one's place"


def leave(config: Config, why: str, *, end_only: bool = False) -> list[str]:
    """End everything; unless ``end_only``, take away what stands outside of our own folders. Returns what is left, one line each.

    The daemon ends its grants itself where it answers: it has the recordings sealed. Then it is stopped, and whatever is live
    by the journal is ended here, so that a dead or hung one changes nothing.
    """
    if _by_daemon(config, why):
        time.sleep(SWEEPS_MS[-1] / 1000 + 0.2)  # it looks again for what has turned up
    _stop_daemon()
    left = []
    if config.paths.state_db.exists():
        left = [
            f"grant {live.record.jti} of {live.record.sub or 'nobody known'}: {live.error or 'not over'}"
            for live in backstop.at_removal(config, why)
        ]
    # Of another journal than this configuration's: what they stand behind nobody here has ended.
    left += [f"a timer stands behind a grant: {timer_unit(name)}" for name in sorted(SystemdTimers().standing())]
    if left or end_only:
        return left
    _keep_host_key(config)
    writer = SystemHost(config)
    for name, enforcer in registry().items():
        try:
            enforcer.retire(writer)
        except TidegateError as error:
            log.warning("%s: %s", name, error)
    standby.forget()
    return []


def _by_daemon(config: Config, why: str) -> int:
    """How many grants it ended, or began to; none where it does not answer."""
    try:
        answer = cast(dict[str, list[object]], client.call(config.paths.control_socket, "revoke", all=True, reason=why))
    except TidegateError as error:
        log.info("tidegated is not asked to end its grants: %s", error)
        return 0
    ended = len(answer["revoked"])
    if ended:
        log.warning("%s ended: %s", counted(ended, "grant"), why)
    return ended


def _stop_daemon() -> None:
    """Where systemd runs it. Otherwise its lock tells whether it still does (agent.backstop.at_removal)."""
    _systemctl("stop")


def _systemctl(verb: str) -> bool:
    if not Path("/run/systemd/system").is_dir():
        return False
    with contextlib.suppress(TidegateError):
        return command.run(["systemctl", "--quiet", verb, _UNIT], timeout_s=_STOP_S).ok
    return False


def _keep_host_key(config: Config) -> None:
    """The public half, beside the state: receipts and recordings that outlive this package stay provable."""
    try:
        key = HostKey.load(config.paths.host_key)
        public = json.dumps({"keys": [key.public_jwk(config.host_id)]}, indent=2).encode() + b"\n"
        files.atomic_write(config.paths.state_db.with_name(HOST_KEY), public, 0o644)
    except TidegateError as error:
        log.info("no public half of this host's key is kept: %s", error)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; always exits."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--end-only", action="store_true", help="end all grants, and leave the drop-ins where they are")
    parser.add_argument("--reason", metavar="TEXT", help="what receipts say of why")
    parser.add_argument("--config", type=Path, help="another configuration (default: the one that the daemon ran with last)")
    chosen = parser.parse_args(argv)
    service.log_to_stderr(False)
    if os.geteuid() != 0:
        sys.exit(f"{PROGRAM}: must be run by root")
    ran = _systemctl("is-active")
    over = False
    try:
        left = leave(_config(chosen.config), chosen.reason or (_OLDER if chosen.end_only else _REMOVED), end_only=chosen.end_only)
        over = not left
    except TidegateError as error:
        sys.exit(f"tidegate: {error}")
    finally:
        if ran and not over:  # it stays, so it goes on: revocations, new grants, and another try at what would not end
            _systemctl("start")
    for line in left:
        print(f"tidegate: still live: {line}", file=sys.stderr)
    sys.exit(0 if over else 1)


def _config(named: Path | None) -> Config:
    """A package's script has not the environment of the unit: what the daemon ran with stands beside the backstop's program."""
    return ConfigStore(config_path(named or standby.config_file())).config
