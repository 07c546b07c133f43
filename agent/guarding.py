"""The daemon's part in what guards it: the backstop's program kept ready, the lock that says who opens, and closing only.

Closing only is the state after damage to the journal or the key: everything is ended, nothing opened, and it is said everywhere.
"""

import logging
import sys

from agent import VERSION, keeping
from agent.control.port import Port
from agent.errors import TidegateError
from agent.host import command, lock, recorder, service, standby
from agent.host.config_store import ConfigStore
from agent.host.timers import SystemdTimers
from agent.keeping import Kept
from agent.model.text import one_line
from agent.pipeline import Pipeline

log = logging.getLogger("tidegate")
_WAIT_FOR_BACKSTOP_S = 30
_WAIT_FOR_ASKERS_S = 1  # who asks whether a daemon lives holds its lock for a moment


class Guarding:
    """``problems`` is the daemon's list for ``status``."""

    def __init__(self, configured: ConfigStore, kept: Kept, pipeline: Pipeline, problems: dict[str, str]) -> None:
        self._configured = configured
        self._kept = kept
        self._pipeline = pipeline
        self._problems = problems
        self._port = Port(pipeline)
        self._opening = lock.Lock(configured.config.paths.run_dir / lock.OPENING)
        self._alive = lock.Lock(configured.config.paths.run_dir / lock.ALIVE)

    @property
    def stuck(self) -> bool:
        """Whether only a disk that takes writes again changes anything."""
        return self._kept.stuck

    def begin(self) -> None:
        """Before anything else: where the journal or the key was damaged, what stands on the host is what is to be ended."""
        self._pipeline.closing = self._kept.closing
        if self._kept.lost and not keeping.take_in_found(self._pipeline):
            self._kept.stuck = True  # some of it may stand, and nobody would know: look again, and open nothing
        self._say_closing()

    def open_again(self) -> bool:
        """Whether nothing of before the damage is left as of now, so that grants are taken again.

        What had happened stays in ``status`` until the next start.
        """
        if not self._pipeline.closing or self.stuck or self._pipeline.ledger.all():
            return False
        try:
            self._pipeline.journal.anew.closing_over()
        except TidegateError as error:
            log.error("nothing is opened before this can be written down: %s", error)
            return False
        log.warning("all that stood is ended, grants are taken again")
        self._pipeline.closing = ""
        self._say_closing()
        return True

    def keep_backstop(self) -> None:
        """Wait for a backstop that may still be at work before opening."""
        try:
            with lock.held(self._opening.path.with_name(lock.BACKSTOP), 0):
                pass  # it is there from the start on: nothing that a backstop does later leaves a file
            if not self._alive.take(_WAIT_FOR_ASKERS_S):
                log.error("backstops take this daemon for dead; they end what is over beside it")
            if not self._opening.take(_WAIT_FOR_BACKSTOP_S):
                log.error("a backstop has been at work for %d s; going on beside it", _WAIT_FOR_BACKSTOP_S)
        except TidegateError as error:
            log.error("a backstop could not know that this daemon runs: %s", error)

    def check_backstop(self) -> None:
        """Have the program itself say that it could work: what it needs may be gone from this host."""
        program = standby.CURRENT / standby.PROGRAM
        if SystemdTimers().absent or not program.exists():
            return
        try:
            result = command.run([sys.executable, "-I", str(program), "--check"], timeout_s=60)
            said = "" if result.ok else (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        except TidegateError as error:
            said = str(error)
        self._note("backstop program", f"it would not work: {said}" if said else "")

    def serve_recorder(self) -> None:
        """Let the recorder ask what only root can do, and have tidegate-shell run where its tenant can't look into it.

        A host without the recorder's account records nothing, which its policy may not mind: that is no problem to tell.
        """
        config = self._configured.config
        if recorder.look(config).uid:
            self._note("recorder", recorder.guard(config) or self._port.start())

    def renew_interpreter(self) -> None:
        """The host's python was exchanged."""
        if recorder.look(self._configured.config).uid:
            self._note("recorder", recorder.guard(self._configured.config))

    def greeting(self) -> str:
        """What a start is told by."""
        closing = self._pipeline.closing
        return f"tidegated {VERSION}" + (f", closing only: {closing}" if closing else "")

    def stop(self) -> None:
        """Nothing is opened from here on."""
        self._port.close()
        self._opening.release()
        self._alive.release()

    def _say_closing(self) -> None:
        closing = self._pipeline.closing
        self._note("closing only", f"nothing is opened before all is ended: {closing}" if closing else "")
        service.tell_systemd(f"STATUS=CLOSING ONLY: {one_line(closing)}" if closing else "STATUS=open for grants")

    def _note(self, what: str, trouble: str) -> None:
        if trouble:
            self._problems[what] = trouble
            log.error("%s: %s", what, trouble)
        else:
            self._problems.pop(what, None)


def keep_program(configured: ConfigStore, problems: dict[str, str]) -> None:
    """The program that timers start, as it is in this version. Before the journal is brought up: an older can't read a newer."""
    trouble = "" if SystemdTimers().absent else standby.keep(configured.main, configured.config)
    if trouble:
        problems["backstop"] = trouble
        log.error("backstop: %s", trouble)
