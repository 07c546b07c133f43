"""Asking sshd and sudo about grants that have opened and closed, and being loud where the answer is not what it must be.

An opened grant is asked about in a thread of its own, so that no opening waits. A closed one is asked about before what it
stood on is removed, since sshd refuses whom it does not know; but no removal waits longer than two seconds for the answer. What
can't be asked keeps nothing open and nobody in; the proof says so.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass

from agent.audit import EventKind, Trail
from agent.config import Config
from agent.expiry import proof, story
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.shut import Shut
from agent.host.asking import NOT_ASKED, Answer, Asker, Right
from agent.host.clock import Clock, rfc3339
from agent.host.threads import pool_of
from agent.journal import GrantState, Journal
from agent.model import Json, Step
from agent.model.text import one_line

log = logging.getLogger("tidegate")
NOTE, BEFORE = "proof", "sudo_before"
_ALARMS = 16
_PATIENCE_S = 2.0  # how long a removal waits to be proved first
_AT_ONCE = 16  # grants asked about together, where nobody waits for all of them
_SUDO_MOST_S = 3.0  # for all logins of one batch


@dataclass(frozen=True, slots=True)
class Closing:
    """A question that is under way about ``shuts``. ``late``: their accounts are being removed while it is answered."""

    shuts: Sequence[Shut]
    asked: Future[list[dict[str, Json]]] | None
    late: bool = False


class Prover:
    """Thread-safe; nothing here raises, and no opening or closing fails because it could not be proved."""

    def __init__(self, asker: Asker, config: Config, clock: Clock, journal: Journal, ledger: Ledger, trail: Trail) -> None:
        self._asker = asker
        self._config = config
        self._clock = clock
        self._journal = journal
        self._ledger = ledger
        self._trail = trail
        self._lock = threading.Lock()
        self._waiting: list[LiveGrant] = []
        self._pools: tuple[Executor, Executor, Executor] | None = None

    def ready(self, pools: Callable[[int, str], Executor] = pool_of) -> None:
        """From now on all is proved; before, nothing is asked (who only looks at what a grant would change needs no threads)."""
        # The last: one for each of the others, so none waits.
        self._pools = pools(1, "prove"), pools(4, "prove-end"), pools(5, "prove-sshd")

    def before(self, live: LiveGrant, steps: Sequence[Step]) -> None:
        """What sudo lets the accounts that were there run already: what is more afterwards has come with the grant."""
        logins = [login for login in proof.wanted(steps) if login not in live.uids]
        if logins and BEFORE not in live.notes:
            listed = {login: self._asker.sudo(login) for login in logins}
            self._note(live, BEFORE, {login: [*map(str, found)] for login, found in listed.items() if isinstance(found, tuple)})

    def opened(self, live: LiveGrant) -> None:
        """Ask about a grant that has just opened; returns at once."""
        if self._pools is None:
            return
        with self._lock:
            if live not in self._waiting:
                self._waiting.append(live)
        try:
            self._pools[0].submit(self._prove_opened)
        except RuntimeError:  # told to stop: the next start does not ask again, and the receipt has no answer then
            log.warning("grant %s is not proved: the agent stops", live.record.jti)

    def again(self) -> None:
        """Ask once more about every grant that stands: somebody has changed what sshd or sudo goes by."""
        for live in self._ledger.all():
            if _stands(live):
                self.opened(live)

    def closing(self, shuts: Sequence[Shut]) -> Closing:
        """Ask about grants whose doors are shut; waits two seconds at most, so that mostly all is said while the accounts stand.

        For a crowd that ends together it does not wait: their accounts go first.
        """
        stood = [shut for shut in shuts if shut.live.steps]
        if not stood or self._pools is None:
            return Closing([], None)
        try:
            asked = self._pools[1].submit(self._ask, [shut.live for shut in stood], opened=False)
        except RuntimeError as error:  # told to stop
            log.error("the closing of %d grants is not proved: %s", len(stood), error)
            return Closing([], None)
        if len(stood) <= _AT_ONCE:
            wait([asked], _PATIENCE_S)
        return Closing(stood, asked, late=not asked.done())

    def closed(self, closing: Closing) -> None:
        """What was said: whoever is still let in keeps its grant from being over (``Shut.undone``, ``Shut.ended_ns``)."""
        if closing.asked is None:
            return
        try:
            found = closing.asked.result()
        except Exception:
            log.exception("the closing of %d grants is not proved", len(closing.shuts))
            return
        for shut, said in zip(closing.shuts, found, strict=True):
            troubles = proof.troubles_closed(_list(said, "ssh"), _list(said, "sudo"))
            if troubles:
                shut.undone += [(-1, trouble) for trouble in troubles]
                shut.ended_ns = None
            self._keep(shut.live, "closed", {**said, "while_removing": closing.late}, troubles)

    def troubles(self) -> list[str]:
        """What is wrong with live grants, for ``status``."""
        return [
            f"grant {live.record.jti}: {trouble}"
            for live in self._ledger.all()
            for moment in ("opened", "closed")
            for trouble in _list(_dict(_dict(live.notes.get(NOTE)).get(moment)), "troubles")
        ]

    def settle(self) -> None:
        """Wait until all that has opened so far is asked about."""
        if self._pools is not None:
            self._pools[0].submit(lambda: None).result()

    def stop(self) -> None:
        """Wait for what is under way, at most some seconds."""
        for pool in self._pools or ():
            pool.shutdown(cancel_futures=True)

    def _prove_opened(self) -> None:
        with self._lock:
            grants, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
        # What is left has a job of its own: there is one for each grant that was put there.
        grants = [live for live in grants if _stands(live)]
        if not grants:
            return
        try:
            found = self._ask(grants, opened=True)
        except Exception:
            log.exception("the opening of %d grants is not proved", len(grants))
            return
        for live, said in zip(grants, found, strict=True):
            if not _stands(live):
                continue  # what was said may be of the time after its end, which is asked about by itself
            groups = proof.granted_groups([step for _, step in live.steps], self._config.tenant_group)
            self._keep(live, "opened", said, proof.troubles_opened(_list(said, "ssh"), _list(said, "sudo"), groups=groups))

    def _ask(self, grants: Sequence[LiveGrant], *, opened: bool) -> list[dict[str, Json]]:
        """One proof for each grant, sshd asked about all of them together."""
        at = rfc3339(self._clock.wall_ns())
        steps = [[step for _, step in live.steps] for live in grants]
        asked = [proof.questions(each) for each in steps]
        sshd = _running(self._pools)[2].submit(self._asker.sshd, [question for each in asked for question in each])
        sudo = self._ask_sudo(grants, steps, opened=opened)
        answers = iter(sshd.result())
        ssh = [proof.of_sshd(each, [next(answers) for _ in each]) for each in asked]
        return [{"at": at, "ssh": of_ssh, "sudo": of_sudo} for of_ssh, of_sudo in zip(ssh, sudo, strict=True)]

    def _ask_sudo(self, grants: Sequence[LiveGrant], steps: Sequence[Sequence[Step]], *, opened: bool) -> list[list[Json]]:
        """One row for each login with a rule, grant by grant."""
        ends = time.monotonic() + _SUDO_MOST_S
        others = self._others(grants)
        found: list[list[Json]] = []
        for live, its_steps in zip(grants, steps, strict=True):
            before = _dict(live.notes.get(BEFORE))
            rows: list[Json] = []
            for login, rights in proof.wanted(its_steps).items():
                begun = time.monotonic()
                listed = self._asker.sudo(login) if begun < ends else Answer(NOT_ASKED, "there was no time left")
                ms = round((time.monotonic() - begun) * 1000)
                mine = rights if opened else rights - others.get(login, frozenset())
                known = (opened if login in live.uids else login in before) and isinstance(listed, tuple)
                there = {*(str(text) for text in _list(before, login)), *map(str, others.get(login, ()))} if known else None
                rows.append(proof.of_sudo(login, mine, listed, there, ms=ms, opened=opened))
            found.append(rows)
        return found

    def _others(self, grants: Sequence[LiveGrant]) -> dict[str, frozenset[Right]]:
        """What other live grants give the same logins: no less right while they stand."""
        found: dict[str, frozenset[Right]] = {}
        for live in self._ledger.all():
            if live not in grants and live.state is GrantState.OPEN:
                for login, rights in proof.wanted([step for _, step in live.steps]).items():
                    found[login] = found.get(login, frozenset()) | rights
        return found

    def _keep(self, live: LiveGrant, moment: str, said: dict[str, Json], troubles: Sequence[str]) -> None:
        """Into the grant's notes; alarms of earlier tries stay in them."""
        noted = dict(_dict(live.notes.get(NOTE)))
        earlier = _list(noted, "alarms")
        shown = [one_line(trouble) for trouble in troubles]
        told = _list(_dict(noted.get(moment)), "troubles")
        new = [text for text in shown if text not in told]
        noted[moment] = {**said, "troubles": [*shown]}
        noted["alarms"] = [*earlier, *(f"{said['at']} {moment}: {text}" for text in new)][:_ALARMS]
        self._note(live, NOTE, noted)
        if new:
            log.error("grant %s, %s: %s", live.record.jti, moment, "; ".join(new))
            event = story.event(live, EventKind.PROOF_FAILED, self._clock.wall_ns(), ok=False, moment=moment, troubles=new)
            self._tell(lambda: self._trail.emit([event]))

    def _note(self, live: LiveGrant, name: str, value: Json) -> None:
        live.notes[name] = value
        self._tell(lambda: self._journal.note(live.id, name, value))

    def _tell(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # a full disk keeps no grant from ending
            log.error("a proof could not be written down: %s", error)


def _running(pools: tuple[Executor, Executor, Executor] | None) -> tuple[Executor, Executor, Executor]:
    if pools is None:
        raise RuntimeError("the prover is not ready")
    return pools


def _stands(live: LiveGrant) -> bool:
    return live.state is GrantState.OPEN and not (live.shutting or live.cancel or live.drain)


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: dict[str, Json], name: str) -> list[Json]:
    found = value.get(name)
    return found if isinstance(found, list) else []
