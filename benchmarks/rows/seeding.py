"""Run on the test host by its own Python, with the installed code, while tidegated is stopped: fill the host with live grants.

``python3 -I seeding.py < tokens`` (one on a line); prints how many were opened. Each goes through the daemon's own pipeline: the
journal, the account, the key, the timer, all that a live grant is. Left out is what only takes time here: syncing, events, asking
sshd, looking for what an earlier try left, and asking the name service about logins that are known to be new.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, "/usr/lib/tidegate")

from agent import keeping, trust
from agent.assembly import assemble
from agent.config import load_config
from agent.expiry.schedule import Schedule
from agent.host import files
from agent.host.system import SystemHost
from agent.pipeline import Pipeline
from enforcers import sshd_match


def main() -> None:
    """Open them all."""
    for name in ("fsync", "fdatasync"):
        setattr(os, name, lambda _fd: None)
    config = load_config()
    keys = trust.KeyStore(config.paths.trust_dir)
    keys.reload()
    kept = keeping.open_kept(config)
    pipeline = assemble(config, keys, kept.journal, kept.host_key)
    pipeline.policies.reload()
    _stub(pipeline)
    kept.journal._db._connection.execute("PRAGMA synchronous=OFF")
    opened = 0
    for line in sys.stdin:
        pipeline.open(line.strip().encode())
        pipeline.ledger._live.clear()  # each as if it were the first: what is measured comes later
        pipeline.ledger._schedule = Schedule()
        opened += 1
    kept.journal.close()
    sys.stdout.write(f"{opened}\n")


def _stub(pipeline: Pipeline) -> None:
    """In this process only. Logins and numbers are new, the tenants' group is what it was at the start."""
    group = pipeline.writer.group(pipeline.config.tenant_group)
    last = pipeline.journal.last_uid() or pipeline.config.uid_first
    numbers: Iterator[int] = itertools.count(last + 1)
    stubs: dict[tuple[type, str], Any] = {
        (type(pipeline.trail), "emit"): lambda _self, _events: None,
        (Pipeline, "_uids"): lambda _self: lambda _login: next(numbers),
        (SystemHost, "user"): lambda _self, _name: None,
        (SystemHost, "user_by_uid"): lambda _self, _uid: None,
        (SystemHost, "group"): lambda _self, name: group if group and name == group.name else None,
        (SystemHost, "group_by_gid"): lambda _self, _gid: None,
        (SystemHost, "groups_of"): lambda _self, _name: frozenset(),
    }
    for (owner, name), stub in stubs.items():
        setattr(owner, name, stub)
    for module, function in ((sshd_match.Known, "check"), (files, "clear_leftovers")):
        setattr(module, function, lambda *_: None)


if __name__ == "__main__":
    main()
