"""Shutting grants: close, tell, sever, remove, sweep — for all that end together, so that the hundredth waits for none.

Closing comes first for every grant of the batch (well under a millisecond each), then every tenant's processes are ended
together, and only then are homes and accounts removed. The account goes last: once its name is gone, systemd can no longer
be asked about it.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path

from agent.enforcement import revert
from agent.errors import TidegateError
from agent.expiry import residue
from agent.expiry.leftovers import Leftovers
from agent.expiry.live import LiveGrant
from agent.expiry.sever import PATIENCE_S, Severed, sever
from agent.expiry.shut import Shut, shown
from agent.host.cgroups import Cgroups
from agent.host.clock import Clock
from agent.host.contract import Writer
from agent.host.lent import Lent, merged
from agent.host.processes import Process, ProcessTable
from agent.model import Enforcer, Phase, Residue
from agent.model.text import one_line
from agent.sessions.last_words import LastWords

log = logging.getLogger("tidegate")
Tell = Callable[[Sequence[LiveGrant]], int]
_KILLED_NAMED = 64
_GROUPS_OF_SSHD = 32  # of a user's slice: the sessions' come first
_PATH_SHOWN = 4096
_LINGER = Path("/var/lib/systemd/linger")
_CRONTABS = Path("/var/spool/cron/crontabs")
_SYSTEMD = Path("/run/systemd/system")


class Teardown:
    """The hands of teardown on one host. Holds nothing of any grant; safe to call again on whatever is left."""

    def __init__(
        self,
        writer: Writer,
        enforcers: Mapping[str, Enforcer],
        table: ProcessTable,
        cgroups: Cgroups,
        clock: Clock,
        *,
        patience_s: float = PATIENCE_S,
        others: Callable[[], Sequence[Lent]] = tuple,
    ) -> None:
        self._writer = writer
        self._enforcers = enforcers
        self._table = table
        self._cgroups = cgroups
        self._clock = clock
        self._patience_s = patience_s
        self.beside: Executor | None = None  # threads that are there already: with no memory left, starting one may never return
        self._leftovers = Leftovers(writer, others)
        self._others = others  # what grants lend that go on: a login may hold the same by two of them
        self.still_ours: Callable[[LiveGrant], bool] = lambda _live: True  # else its logins may be a newer grant's by now
        self._lock, self._undoing = threading.Lock(), set[int]()  # of which a copy is being severed

    def cut(self, grants: Sequence[LiveGrant], tell: Tell, *, undoing: Sequence[LiveGrant] = ()) -> list[Shut]:
        """Close and sever: nobody gets in or goes on. Never raises, and takes no longer than the patience for processes.

        ``tell`` is called once all doors are shut and before any process dies, and returns how many terminals it reached.
        ``undoing``: grants whose opening undoes itself as soon as its thread goes on. What stands of them is cut, and nothing owed.
        """
        # These first, each only as long as its thread is still at it: what it had may be another grant's soon after.
        apart = [(live, self._close(live.apart())) for live in undoing if live.opener]
        for live, shut in apart:
            _began(live, shut.live)
        shuts = [self._close(live) for live in grants]
        with self._lock:
            apart = [(live, shut) for live, shut in apart if live.id not in self._undoing]
            self._undoing |= {live.id for live, _ in apart}
        try:
            everybody = [*shuts, *(shut for _, shut in apart)]
            self._tell(tell, [shut.live for shut in everybody])
            self._sever(everybody)
            for live, shut in apart:
                self._count(live, shut.live.killed, shut.live.killed_count)
        finally:
            with self._lock:
                self._undoing -= {live.id for live, _ in apart}
        return shuts

    def set_aside(self, shuts: Sequence[Shut]) -> None:
        """After a cut, of what is to come back: forget the jobs it has queued and the units it ran in, and remove nothing else.

        Copies that would give a lent group back are disarmed as at an end.
        """
        self._disarm_groups(shuts)
        uids = [uid for shut in shuts if not shut.survivors for uid in shut.live.tenants]
        for uid in uids:
            try:
                self._writer.drop_at_jobs(uid)
            except Exception as error:  # told; whatever an at job starts is ended by the next look
                log.error("at jobs of suspended tenants: %s", shown(error))
        self._stop_units(uids)

    def close_logins(self, live: LiveGrant) -> list[str]:
        """Shut the way in for new logins alone (keys and principals); what runs goes on. Returns what went wrong."""
        logins = [step for _, step in live.steps if step.enforcer == "ssh"]
        return [f"{step.summary}: {error}" for step, error in revert(logins, self._enforcers, Phase.CLOSE, self._writer)]

    def end_processes(self, tenants: dict[int, str]) -> dict[int, Severed]:
        """End every process of these tenants (uid → login); their doors are the caller's. Never raises."""
        return self._end_processes(tenants) if tenants else {}

    def clear(self, shuts: Sequence[Shut]) -> None:
        """Remove and sweep what sessions stood on, and look back. Never raises: what fails stands in each one's ``errors``.

        This may take as long as a tenant's files make it take, so no other's end may wait for it.
        """
        self._disarm_groups(shuts)
        units = self._stop_units_beside([uid for shut in shuts if not shut.survivors for uid in shut.live.tenants])
        self._leftovers.detach(shuts)
        for shut in shuts:
            if self.still_ours(shut.live):
                self._remove(shut)
        if units:
            units.result()
        self._leftovers.detach(shuts, runtime=True)
        self._leftovers.search(shuts)
        self._leftovers.settle(shuts)
        for shut in shuts:
            self._look_back(shut)
        self._conclude(shuts)

    def thaw_left(self) -> None:
        """At start: let go on what an agent that was killed in the middle of a teardown held still."""
        for group in self._cgroups.thaw_left():
            log.warning("thawed %s, which an earlier agent was killed over", group)

    def sweep(self, tenants: dict[int, str], lent: Sequence[Lent] = ()) -> dict[int, Severed]:
        """Once more after the end: end whatever of these former tenants (uid → login; empty: another's by now) has come.

        And whatever holds again what was lent.
        """
        for login in filter(None, tenants.values()):
            self._close_side_doors(login)
        lent = merged(lent, self._others())
        for each in lent:
            self._drop_at_jobs(each)
        try:
            if not self._table.of(tenants, lent):
                return {}
        except TidegateError as error:
            log.error("the sweep can't look, so it kills unseen: %s", error)
        return self._end_processes(tenants, lent)

    def _tell(self, tell: Tell, grants: Sequence[LiveGrant]) -> None:
        """And let sshd send it: neither holds up for long what shuts."""
        try:
            uids = {uid for live in grants for uid in live.uids.values()}
            words = LastWords(uids, lambda uid: self._cgroups.pids(self._cgroups.user_slice(uid), _GROUPS_OF_SSHD))
            if uids and tell(grants):
                words.wait()
        except Exception:
            log.exception("teardown goes on past this")

    def _close(self, live: LiveGrant) -> Shut:
        shut = Shut(live, self._clock.wall_ns())
        if live.began_ns is None:
            live.began_ns = shut.began_ns
            live.overdue_ns, live.moved_ns = live.deadline.overdue_ns(self._clock), live.deadline.moved_ns(self._clock)
        shut.undone += self._revert(live, Phase.CLOSE)
        for login in live.uids:
            shut.undone += [(-1, error) for error in self._close_side_doors(login)]
        shut.undone += [(-1, error) for lent in live.lent for error in self._drop_at_jobs(lent)]
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
        for folder in (_LINGER, _CRONTABS) if login else ():
            try:
                self._writer.remove(folder / login)
            except Exception as error:  # what shuts goes past every failure
                errors.append(shown(error))
        return errors

    def _drop_at_jobs(self, lent: Lent) -> list[str]:
        """A job of at(1) keeps the group that it was put there with."""
        try:
            if lent.gids:
                self._writer.drop_at_jobs(lent.uid, lent.gids)
        except Exception as error:  # as above
            return [shown(error)]
        return []

    def _sever(self, shuts: Sequence[Shut]) -> None:
        tenants = {uid: login for shut in shuts for uid, login in shut.live.tenants.items()}
        lent = self._lent_by(shuts)
        homes = [Path(str(step.data["path"])) for shut in shuts for _, step in shut.live.steps if step.action == "home"]
        results = self._end_processes(tenants, lent, homes) if tenants or lent else {}
        now = self._clock.wall_ns()
        for shut in shuts:
            live = shut.live
            shut.severed = [results[uid] for uid in _uids(live) if uid in results]
            live.alive = bool(shut.survivors)
            killed = sum(severed.killed_count for severed in shut.severed)
            self._count(live, [name for severed in shut.severed for name in severed.killed], killed)
            if not live.alive and (killed or live.last_process_ns is None):  # a later attempt that found nobody is not the moment
                live.last_process_ns = max((severed.empty_wall_ns for severed in shut.severed), default=now)

    def _count(self, live: LiveGrant, names: Sequence[str], killed: int) -> None:
        with self._lock:  # an opening that undoes itself may be severed by two threads
            live.killed = [*live.killed, *names][:_KILLED_NAMED]
            live.killed_count += killed

    def _lent_by(self, shuts: Sequence[Shut]) -> tuple[Lent, ...]:
        """By these, and by nobody else as well. On a full host what all others lend takes long to put together: not for nothing."""
        lent = [lent for shut in shuts for lent in shut.live.lent]
        return merged(lent, self._others()) if lent else ()

    def _disarm_groups(self, shuts: Sequence[Shut]) -> None:
        """First of all that takes long: until then an old session may go on starting a copy that holds the lent group."""
        if armed := [shut for shut in shuts if self._leftovers.disarm_group(shut)]:
            self._sever(armed)

    def _end_processes(self, tenants: dict[int, str], lent: Sequence[Lent] = (), homes: Sequence[Path] = ()) -> dict[int, Severed]:
        return sever(
            *(tenants, self._table, self._cgroups, self._clock.wall_ns),
            patience_s=self._patience_s,
            lent=lent,
            disarm=lambda: self._writer.disarm(tenants, homes),
        )

    def _stop_units_beside(self, uids: list[int]) -> Future[None] | None:
        """Beside the removal where there is a thread for it: systemd takes its time, and needs nothing of what is removed."""
        if self.beside is not None:
            return self.beside.submit(self._stop_units, uids)
        self._stop_units(uids)
        return None

    def _stop_units(self, uids: list[int]) -> None:
        """Let systemd forget the tenants' managers and runtime folders; their processes are dead, so this waits for nothing."""
        if not uids or not self._writer.exists(_SYSTEMD):
            return
        units = [unit for uid in uids for unit in (f"user@{uid}.service", f"user-runtime-dir@{uid}.service", f"user-{uid}.slice")]
        for action in ("stop", "reset-failed"):
            try:
                self._writer.run(["systemctl", action, "--quiet", *units], timeout_s=30.0)
            except Exception as error:  # their processes are gone already; what is left of a unit shows as residue
                log.warning("systemctl %s of ended tenants: %s", action, shown(error))

    def _remove(self, shut: Shut) -> None:
        if shut.survivors:
            return  # a live process on a removed account would be an orphan on a reusable UID
        shut.undone += self._revert(shut.live, Phase.REMOVE)

    def _look_back(self, shut: Shut) -> None:
        """What is left of it."""
        if shut.survivors:
            return
        try:
            for name, enforcer in self._enforcers.items():
                steps = [step for _, step in shut.live.steps if step.enforcer == name]
                shut.residue += enforcer.residue(steps, self._writer)
        except Exception as error:  # as above
            shut.undone.append((-1, f"residue: {shown(error)}"))
        try:
            shut.residue += residue.changes(shut.live, self._writer)
        except Exception as error:  # the host's own files keep no grant from being over
            shut.residue.append(Residue("unsearched", "this host's own files", shown(error), of_host=True))
        shut.residue = [_printable(found) for found in shut.residue]

    def _conclude(self, shuts: Sequence[Shut]) -> None:
        """Over is what has no error and, looked at once more, no process: atd may start one until the account is gone."""
        clean = [shut for shut in shuts if not shut.errors]
        tenants = {uid: login for shut in clean for uid, login in shut.live.tenants.items()}
        lent = self._lent_by(clean)
        found: list[Process] = []
        error = ""
        try:
            found = [process for process in self._table.of(tenants, lent) if process.mark != "sshd"] if tenants or lent else []
        except Exception as failure:
            error = shown(failure)
        for shut in clean:
            uids = _uids(shut.live)
            again = [f"{process.name}[{process.pid}]" for process in found if process.tenant_uid in uids]
            if again or (error and uids):
                shut.live.alive = True
                shut.undone.append((-1, f"alive after its removal: {', '.join(again[:8]) or error}"))
            else:
                shut.ended_ns = self._clock.wall_ns()


def _began(live: LiveGrant, cut: LiveGrant) -> None:
    """The end of a grant whose copy was cut began with that."""
    if live.began_ns is None:
        live.began_ns, live.overdue_ns, live.moved_ns = cut.began_ns, cut.overdue_ns, cut.moved_ns


def _uids(live: LiveGrant) -> set[int]:
    """Whose processes its end is about."""
    return {*live.tenants, *(lent.uid for lent in live.lent)}


def _printable(found: Residue) -> Residue:
    """A tenant names its files: one that is no UTF-8 could not be signed, and its grant would never be over."""
    return replace(found, where=one_line(found.where, _PATH_SHOWN), detail=one_line(found.detail))
