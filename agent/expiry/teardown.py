"""Shutting grants: close, tell, sever, remove, sweep — for all that end together, so that the hundredth waits for none.

Closing comes first for every grant of the batch (well under a millisecond each), then every tenant's processes are ended
together, and only then are homes and accounts removed. The account goes last: once its name is gone, systemd can no longer
be asked about it.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.enforcement import revert
from agent.errors import TidegateError
from agent.expiry.live import LiveGrant
from agent.expiry.sever import Severed, sever
from agent.host.cgroups import Cgroups
from agent.host.clock import Clock
from agent.host.contract import Writer
from agent.host.processes import ProcessTable
from agent.model import Enforcer, Phase, Residue

_LINGER = Path("/var/lib/systemd/linger")
_CRONTABS = Path("/var/spool/cron/crontabs")
_SYSTEMD = Path("/run/systemd/system")
_LAST_WORDS_S = 0.005  # for sshd to send what a terminal was told; the doors are shut already


@dataclass(slots=True)
class Shut:
    """How one attempt to end a grant went. Times are wall-clock nanoseconds; ``ended_ns`` is None while anything is left."""

    live: LiveGrant
    began_ns: int
    ended_ns: int | None = None
    undone: list[tuple[int, str]] = field(default_factory=list)
    severed: list[Severed] = field(default_factory=list)
    residue: list[Residue] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """Everything that keeps the grant from being over."""
        failed = [error for _, error in self.undone if error]
        survivors = [f"still alive: {name}" for severed in self.severed for name in severed.survivors]
        return failed + survivors


class Teardown:
    """The hands of teardown on one host. Holds no state of its own; safe to call again on whatever is left."""

    def __init__(
        self, writer: Writer, enforcers: Mapping[str, Enforcer], table: ProcessTable, cgroups: Cgroups, clock: Clock
    ) -> None:
        self._writer = writer
        self._enforcers = enforcers
        self._table = table
        self._cgroups = cgroups
        self._clock = clock

    def shut(
        self, grants: Sequence[LiveGrant], tell: Callable[[LiveGrant], int], closed: Callable[[list[Shut]], None]
    ) -> list[Shut]:
        """End the grants, never raising: what fails stands in each result's ``errors``.

        ``tell`` is called for each once its doors are shut and before its processes die, and returns how many terminals it
        reached; ``closed`` is called once, with all of them.
        """
        shuts = [self._close(live) for live in grants]
        if sum(tell(shut.live) for shut in shuts):
            time.sleep(_LAST_WORDS_S)
        self._sever(shuts)
        closed(shuts)
        units = threading.Thread(target=self._stop_units, args=([uid for shut in shuts for uid in shut.live.tenants],))
        units.start()  # beside the removal: systemd takes its time, and needs nothing of what is removed
        for shut in shuts:
            self._remove(shut)
        units.join()
        for shut in shuts:
            self._look_back(shut)
        return shuts

    def sweep(self, tenants: dict[int, str]) -> dict[int, Severed]:
        """Once more after the end: end whatever of these (former) tenants has turned up since."""
        for login in tenants.values():
            self._close_side_doors(login)
        return sever(tenants, self._table, self._cgroups, self._clock.wall_ns) if self._table.of(tenants) else {}

    def _close(self, live: LiveGrant) -> Shut:
        shut = Shut(live, self._clock.wall_ns())
        live.began_ns = live.began_ns or shut.began_ns
        shut.undone += self._revert(live, Phase.CLOSE)
        for login in live.uids:
            shut.undone += [(-1, error) for error in self._close_side_doors(login)]
        if not shut.errors and live.doors_ns is None:
            live.doors_ns = self._clock.wall_ns()
        return shut

    def _revert(self, live: LiveGrant, phase: Phase) -> list[tuple[int, str]]:
        """``(seq, error)`` of each step of the phase, the error empty where it is undone."""
        failed = revert([step for _, step in live.steps], self._enforcers, phase, self._writer)
        errors = {id(step): f"{step.summary}: {error}" for step, error in failed}
        return [(seq, errors.get(id(step), "")) for seq, step in live.steps if step.phase is phase]

    def _close_side_doors(self, login: str) -> list[str]:
        """What would start something for the tenant later: lingering, its crontab. (atd runs as the uid; see sweep of files.)"""
        errors = []
        for path in (_LINGER / login, _CRONTABS / login):
            try:
                self._writer.remove(path)
            except TidegateError as error:
                errors.append(str(error))
        return errors

    def _sever(self, shuts: list[Shut]) -> None:
        tenants = {uid: login for shut in shuts for uid, login in shut.live.tenants.items()}
        results = sever(tenants, self._table, self._cgroups, self._clock.wall_ns) if tenants else {}
        now = self._clock.wall_ns()
        for shut in shuts:
            shut.severed = [results[uid] for uid in shut.live.tenants]
            shut.live.killed += [name for severed in shut.severed for name in severed.killed]
            shut.live.killed_count += sum(severed.killed_count for severed in shut.severed)
            if all(severed.empty_wall_ns for severed in shut.severed):
                shut.live.last_process_ns = max((severed.empty_wall_ns for severed in shut.severed), default=now)

    def _stop_units(self, uids: list[int]) -> None:
        """Let systemd forget the tenants' managers and runtime folders; their processes are dead, so this waits for nothing."""
        if not uids or not self._writer.exists(_SYSTEMD):
            return
        units = [unit for uid in uids for unit in (f"user@{uid}.service", f"user-runtime-dir@{uid}.service", f"user-{uid}.slice")]
        for action in ("stop", "reset-failed"):
            try:
                self._writer.run(["systemctl", action, "--quiet", *units], timeout_s=30.0)
            except TidegateError:
                continue  # their processes are gone already; the residue check below has the last word

    def _remove(self, shut: Shut) -> None:
        live = shut.live
        if any(severed.survivors for severed in shut.severed):
            return  # a live process on a removed account would be an orphan on a reusable UID
        shut.undone += self._revert(live, Phase.REMOVE)
        for uid in live.tenants:
            removed, left = self._writer.sweep_files(uid)
            shut.residue += [Residue("file", path, "owned by the tenant", removed=True) for path in removed]
            shut.residue += [Residue("file", path, "owned by the tenant") for path in left]

    def _look_back(self, shut: Shut) -> None:
        """What is left of it; nothing, and no failed undo, means it is over."""
        if any(severed.survivors for severed in shut.severed):
            return
        steps = [step for _, step in shut.live.steps]
        for name, enforcer in self._enforcers.items():
            shut.residue += enforcer.residue([step for step in steps if step.enforcer == name], self._writer)
        if not shut.errors:
            shut.ended_ns = self._clock.wall_ns()
