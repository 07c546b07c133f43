"""Looking again at UIDs that are kept back: what is left of a former tenant goes, and what has nothing left is free."""

import logging
import threading

from agent.audit import AuditEvent, EventKind, Trail
from agent.errors import TidegateError
from agent.expiry import residue
from agent.expiry.ledger import Ledger
from agent.host.clock import NS, Clock
from agent.host.contract import Writer
from agent.host.found import Found, Search
from agent.host.processes import ProcessTable
from agent.journal import Journal, Tombstone
from agent.model import Residue, Step
from agent.model.text import one_line

log = logging.getLogger("tidegate")
EVERY_S = 3600
PATIENCE_S = 1800.0  # nobody waits for it
ASKED_PATIENCE_S = 10.0  # somebody does
_ASKED_EVERY_NS = 60 * NS
_WHERE_MAX = 500


class Tombstones:
    """The UIDs of one host that are kept back. Thread-safe; nothing here raises."""

    def __init__(self, writer: Writer, table: ProcessTable, journal: Journal, ledger: Ledger, trail: Trail, clock: Clock) -> None:
        self._writer = writer
        self._table = table
        self._journal = journal
        self._ledger = ledger
        self._trail = trail
        self._clock = clock
        self._one = threading.Lock()
        self._looked_ns: int | None = None

    def all(self) -> list[Tombstone]:
        """As the last look left them. Raises JournalError."""
        return self._journal.tombstones.all()

    def asked(self) -> list[Tombstone]:
        """Look, at most once a minute whoever asks, and remove nothing; then as :meth:`all`. Raises JournalError."""
        now = self._clock.boot_ns()
        if self._looked_ns is None or now - self._looked_ns >= _ASKED_EVERY_NS:
            self.look_again(remove=False, patience_s=ASKED_PATIENCE_S)
        return self.all()

    def look_again(self, *, remove: bool = True, patience_s: float = PATIENCE_S) -> None:
        """One search for all of them; what has nothing left may be given out again. Comes back by the ledger's alarm."""
        if not self._one.acquire(blocking=False):
            return  # another look is under way
        try:
            kept = self._journal.tombstones.all()
            if kept:
                self._look(kept, remove, patience_s)
            if self._journal.tombstones.all():
                self._ledger.look_again(EVERY_S)
        except TidegateError as error:
            log.error("what is left of former tenants could not be looked at again: %s", error)
            self._ledger.look_again(EVERY_S)
        finally:
            self._looked_ns = self._clock.boot_ns()
            self._one.release()

    def _look(self, kept: list[Tombstone], remove: bool, patience_s: float) -> None:
        found: list[Found] = []
        steps = {grave.uid: [journaled.step for journaled in self._journal.steps(grave.grant_id)] for grave in kept}
        for removes in (True, False):
            # Of a grant that is forgotten nobody knows whether what is left of it was to be archived: that one is only looked at.
            uids = frozenset(uid for uid, known in steps.items() if (remove and bool(known)) is removes)
            if uids:
                found += self._writer.remains.search(self._order(uids, steps, removes, patience_s))
        alive = {process.tenant_uid for process in self._table.of({grave.uid: "" for grave in kept})}
        for grave in kept:
            mine = residue.told(found, {grave.uid})
            mine += self._account(grave)
            mine += [Residue("process", f"uid {grave.uid}", "alive")] if grave.uid in alive else []
            self._note(grave, [_printable(each) for each in mine])

    def _order(self, uids: frozenset[int], steps: dict[int, list[Step]], remove: bool, patience_s: float) -> Search:
        folder = self._writer.config.paths.archive
        packed = {uid: path for uid in uids for uid, path in residue.archives(steps[uid], folder).items()}
        return Search(uids=uids, archives=packed if remove else {}, remove=remove, acls=True, patience_s=patience_s)

    def _account(self, grave: Tombstone) -> list[Residue]:
        """A row that somebody gave the number to."""
        user, group = self._writer.user_by_uid(grave.uid), self._writer.group_by_gid(grave.uid)
        named = [("user", user.name)] if user else []
        named += [("group", group.name)] if group else []
        return [Residue("account", f"{what} {name}", f"has the number {grave.uid}") for what, name in named]

    def _note(self, grave: Tombstone, found: list[Residue]) -> None:
        left = residue.left_of(found, grave.uid)
        self._journal.tombstones.looked(grave.uid, left)
        gone = [each.to_json() for each in found if each.removed]
        if not left:
            log.info("uid %d (%s) may be given out again: nothing of it is left", grave.uid, grave.login)
        if gone:
            detail: dict[str, object] = {"removed": gone[:50], "left": left[:50]}
            event = AuditEvent(
                EventKind.RESIDUE_FOUND, self._clock.wall_ns(), login=grave.login, uid=grave.uid, ok=not left, detail=detail
            )
            self._trail.emit([event])


def _printable(found: Residue) -> Residue:
    return Residue(found.kind, one_line(found.where, _WHERE_MAX), one_line(found.detail), found.removed, found.uid, found.of_host)


def advice(kind: str) -> str:
    """What to do about something that is left, for people."""
    return _ADVICE.get(kind, "look at it: chown it to whoever needs it, or delete it")


_ADVICE = {
    "group-file": "chgrp it to another group, or delete it",
    "acl": "setfacl -x the number",
    "unsearched": "make that place readable, or smaller; the next look comes within the hour",
    "mount": "umount it",
    "account": "an account or group has the number of a former tenant: give it another",
    "process": "end it: ps -u with the number",
    "shm": "ipcrm", "sem": "ipcrm", "msg": "ipcrm",
    "archive": "make room in the archive folder; nothing is deleted before it is packed",
}  # fmt: skip
