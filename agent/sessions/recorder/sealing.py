"""Seals by the host's key while a recording runs, and what is left when its session is over: the last seal, a sync, a close."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from agent.model.plan import Json
from agent.sessions.recorder.loop import Loop
from agent.sessions.recorder.port import Answer, Port
from agent.sessions.recorder.store import Store
from agent.sessions.recorder.syncing import Syncing
from agent.sessions.recorder.tape import Tape

log = logging.getLogger("tidegate")
SEAL_S = 10.0
_RETRY_S = 1.0
_GIVE_UP_S = 600.0
_WAITING_MAX = 512  # each holds a descriptor


@dataclass(slots=True)
class Job:
    """A recording and whose it is. ``since``: when its session was over, 0 while it runs (monotonic)."""

    ident: str
    jti: str
    uid: int
    pid: int
    tape: Tape
    since: float = 0.0
    asked: bool = False


class Sealing:
    """Asks tidegated; a recording that can't be sealed now is tried again, and after that by the next start."""

    def __init__(self, loop: Loop, port: Port, store: Store, syncing: Syncing) -> None:
        self._loop, self._port, self._store, self._syncing = loop, port, store, syncing
        self.finishing: dict[str, Job] = {}

    def seal(self, jobs: Iterable[Job]) -> None:
        """Seal those that have something new."""
        for job in jobs:
            if job.tape.writer.seq > job.tape.writer.sealed and not job.tape.failing and not job.asked:
                self._ask(job, final=False)

    def finish(self, job: Job) -> None:
        """Its END frame is given: write, seal, sync, close."""
        job.since = time.monotonic()
        self.finishing[job.ident] = job
        self._go_on(job)

    def settle(self) -> None:
        """Try once more what is left, at once; for the end of the process. What can't be is left to the next start."""
        for job in list(self.finishing.values()):
            job.tape.flush()
            self._syncing.sync([job.tape])

    def _go_on(self, job: Job) -> None:
        if job.ident not in self.finishing:
            return
        tape = job.tape
        if (tape.failing and not tape.retry()) or not tape.flush():
            self._later(job, tape.failing)
        elif not job.asked:
            self._ask(job, final=True)

    def _ask(self, job: Job, *, final: bool) -> None:
        job.asked = True
        job.tape.flush()
        request: dict[str, Json] = {
            "op": "seal",
            "recording": job.ident,
            "jti": job.jti,
            "uid": job.uid,
            "pid": job.pid,
            "final": final,
            **_claims(job),
        }
        self._port.ask(request, (), lambda answer, _fds: self._answered(job, answer, final=final))

    def _answered(self, job: Job, answer: Answer, *, final: bool) -> None:
        job.asked = False
        jws, why = answer.get("jws"), str(answer.get("reason", "no seal in tidegated's answer"))[:200]
        sealed = False
        if answer.get("ok") is True and isinstance(jws, str) and job.tape.fd >= 0:
            try:
                sealed = job.tape.seal(jws)
            except (ValueError, UnicodeError):
                why = "tidegated's seal is none"
        if not final:
            if job.since:
                self._go_on(job)
        elif sealed:
            self._over(job)
        else:
            self._later(job, why)

    def _later(self, job: Job, why: str) -> None:
        if time.monotonic() - job.since < _GIVE_UP_S and len(self.finishing) <= _WAITING_MAX:
            self._loop.after(_RETRY_S, lambda: self._go_on(job))
            return
        log.error("recording %s is closed without its last seal until the next start: %s", job.ident, why)
        self._close(job)

    def _over(self, job: Job) -> None:
        self._close(job)
        self._store.ended(job.ident)

    def _close(self, job: Job) -> None:
        del self.finishing[job.ident]
        self._syncing.sync([job.tape])
        job.tape.close()


def _claims(job: Job) -> dict[str, Json]:
    writer = job.tape.writer
    return {"seq": writer.seq, "head": writer.head.hex(), "bytes": writer.size}
