"""tidegate-backstop: ends what is past its deadline when tidegated does not. Started by a timer of systemd's, and at boot.

The same teardown by the same parts, in a process of its own that needs nothing of the daemon: not its memory, not its locks, and
not the files it was installed as (see :mod:`agent.host.standby`). Where no daemon lives, :mod:`agent.early` has killed before any
of this was imported. A daemon that answers and does its job is left alone. Both at
work on one grant do no harm: every undo is idempotent, and the journal takes one end.
"""

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import early, trust
from agent.assembly import assemble
from agent.config import Config, config_path
from agent.control import client
from agent.errors import HostError, TidegateError
from agent.expiry.ledger import SWEEPS_MS
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act
from agent.expiry.shut import Shut
from agent.host import command, lock, service, standby, start
from agent.host.config_store import ConfigStore
from agent.journal import EndCause, GrantState
from agent.keeping import open_kept, take_in_found
from agent.pipeline import Pipeline

log = logging.getLogger("tidegate")

_ANSWER_S = 1.0  # a daemon that says nothing for so long is hung, stopped, or gone
_PATIENCE_S = 3.0  # for one that answers and is not done
_ASK_AGAIN_S = 0.2
_AT_WORK_S = 30.0  # then systemd starts it anew
_AT_BOOT_S = 5.0  # sshd waits for it, and nothing of a tenant runs yet
_AT_REMOVAL_S = 10.0  # an admin waits for it, and may try again
_OTHERS_S = 60.0  # for another backstop that is clearing away
_BUSY_MS = 250  # for a journal that somebody holds: what closes does not wait for it, and the rest not long
_STARTS = frozenset({"enabled", "enabled-runtime", "static", "indirect", "generated", "linked", "linked-runtime", "alias"})


class Backstop:
    """One run: ``alone`` is whether no daemon is there that could be opening grants; ``sweep``, whether to look again afterwards.

    Looking again goes by logins too, so it is done only where none of them can be given to a newer grant meanwhile.
    """

    def __init__(self, pipeline: Pipeline, alone: bool, *, sweep: bool, at_work_s: float = _AT_WORK_S) -> None:
        self._pipeline = pipeline
        self._alone = alone
        self._sweep_s = SWEEPS_MS[-1] / 1000 + 0.1 if sweep and alone else 0.0
        self._at_work_s = at_work_s
        self._mine: dict[int, LiveGrant] = {}
        pipeline.teardown.still_ours = self._still_live  # clearing takes a while, and the daemon may be back in it

    def end_overdue(self, begun: early.Begun | None = None) -> bool:
        """Cut, clear and write down all that is over; True when nothing of it is left. ``begun``: who was killed before."""
        pipeline = self._pipeline
        pipeline.ledger.read(pipeline.journal)
        if begun is not None:
            for live in pipeline.ledger.all():
                _take_over(live, begun)
        shuts = self._cut(lambda live: self._alone and live.state is GrantState.OPENING, EndCause.FAILED, "nobody was opening it")

        def over(live: LiveGrant) -> bool:
            return live.deadline.passed(pipeline.clock) or (self._alone and live.state is GrantState.SHUTTING)

        return self._finish(shuts + self._cut(over, EndCause.EXPIRED))

    def end_all(self, why: str) -> bool:
        """Also what is not over yet: nobody would be there to end it."""
        return self._finish(self._cut(lambda live: live.state is GrantState.OPEN, EndCause.FAILED, why))

    def end_everything(self, why: str) -> list[LiveGrant]:
        """Whatever its state, for good; returns what of it would not end."""
        self._pipeline.ledger.read(self._pipeline.journal)
        self._finish(self._cut(lambda live: True, EndCause.REVOKED, why))
        return self._left()

    def arm_rest(self) -> None:
        """Have a timer behind what goes on, in case the daemon never comes."""
        for live in self._pipeline.ledger.all():
            if live.state is GrantState.OPEN and not live.shutting:
                self._pipeline.behind.arm_again(live)

    def _cut(self, test: Callable[[LiveGrant], bool], cause: EndCause, text: str = "") -> list[Shut]:
        chosen = [live for live in self._pipeline.ledger.all() if not live.shutting and test(live)]
        self._mine |= {live.id: live for live in chosen}
        return self._pipeline.cut(chosen, cause, text) if chosen else []

    def _finish(self, shuts: Sequence[Shut]) -> bool:
        """Clear away, come back to what would not end, and look again after it, as the daemon does; bounded in time."""
        if not shuts:
            return True
        with lock.held(self._pipeline.config.paths.run_dir / lock.BACKSTOP, _OTHERS_S):
            try:
                self._pipeline.clear([shut for shut in shuts if self._still_live(shut.live)])
                until, swept_by = time.monotonic() + self._at_work_s, time.monotonic() + self._sweep_s
                while time.monotonic() < (until if self._left() else min(until, swept_by)):
                    self._act()
                    time.sleep(0.05)
            finally:
                self._pipeline.logged.stop()  # a thread of it would keep this program from ending
        for live in self._left():
            log.error("grant %s is not over: %s", live.record.jti, live.error or "it is not written down")
        return not self._left()

    def _act(self) -> None:
        pipeline = self._pipeline
        for alarm in pipeline.ledger.take_due():
            live = self._mine.get(alarm.grant_id)
            if live is not None and alarm.act is Act.SHUT and self._still_live(live):
                pipeline.shut([live], live.cause or EndCause.EXPIRED)
            elif self._sweep_s and alarm.act is Act.SWEEP and (former := pipeline.ledger.to_sweep(alarm)):
                pipeline.sweep(former)

    def _still_live(self, live: LiveGrant) -> bool:
        """By the journal: what somebody else has ended is not undone again, since its login may be a newer grant's."""
        try:
            ended = self._pipeline.journal.grant(live.id).state is GrantState.ENDED
        except TidegateError:
            return True
        if ended:
            self._mine.pop(live.id, None)
        return not ended

    def _left(self) -> list[LiveGrant]:
        return [live for live in self._mine.values() if live.state is not GrantState.ENDED]


def _take_over(live: LiveGrant, begun: early.Begun) -> None:
    """Receipts name them too. When the last one died is for the teardown to find: its walk proves it, a signal does not."""
    for uid in live.tenants:
        count, named = begun.killed(uid)
        live.killed_count += count
        live.killed += named


def at_deadline(config: Config, begun: early.Begun) -> bool:
    """What a timer starts: True when nothing is left to do, or the daemon does it."""
    if begun.gone:
        log.warning("tidegated is not there or says nothing, so the backstop does its job")
    if begun.trouble:
        log.warning("%s", begun.trouble)
    opening = lock.Lock(config.paths.run_dir / lock.OPENING)
    try:
        alone = _take(opening)
        if not alone and not begun.gone and daemon_does_it(config):
            return True
        pipeline = _pipeline(config, alone)
        done = Backstop(pipeline, alone, sweep=True).end_overdue(begun)
        pipeline.journal.close()
        return done
    finally:
        opening.release()


def at_boot(config: Config) -> bool:
    """Before anybody may log in: end what is over, or all, where tidegated is not to start."""
    opening = lock.Lock(config.paths.run_dir / lock.OPENING)
    try:
        start.make_folders(config)
        with contextlib.suppress(TidegateError):
            standby.write_unit()
        pipeline = _pipeline(config, _take(opening))
        backstop = Backstop(pipeline, alone=True, sweep=False, at_work_s=_AT_BOOT_S)
        done = backstop.end_overdue()
        state = _daemon_starts()
        if state in _STARTS:
            backstop.arm_rest()
        else:
            done = backstop.end_all(f"the host was started, and tidegated is {state}: nobody would end this grant") and done
        pipeline.journal.close()
        return done
    finally:
        opening.release()


def at_removal(config: Config, why: str) -> list[LiveGrant]:
    """Before Tidegate leaves the host, with tidegated stopped: end all that is live; returns what would not end.

    Raises:
        HostError: ``agent_running``: somebody may still open grants.
    """
    opening = lock.Lock(config.paths.run_dir / lock.OPENING)
    start.make_folders(config)
    if not opening.take(_PATIENCE_S):
        raise HostError("agent_running", "tidegated is still running: stop it first")
    try:
        pipeline = _pipeline(config, alone=True)
        left = Backstop(pipeline, alone=True, sweep=True, at_work_s=_AT_REMOVAL_S).end_everything(why)
        pipeline.journal.close()
        return left
    finally:
        opening.release()


def check(config: Config) -> bool:
    """Whether this program could do its work now: everything is imported, and the journal can be read."""
    pipeline = _pipeline(config, alone=False)
    pipeline.ledger.read(pipeline.journal)
    return bool(pipeline.enforcers)


def daemon_does_it(config: Config) -> bool:
    """Whether the daemon answers, and in a while has cut off whatever is past its deadline."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            answer = client.call_within(_ANSWER_S, config.paths.control_socket, "overdue")
        except (TidegateError, ValueError) as error:
            log.warning("tidegated does not do its job, so the backstop does: %s", error)
            return False
        if isinstance(answer, dict) and not answer.get("grants"):
            return True
        if time.monotonic() > until:
            log.warning("tidegated answers and does not end what is over, so the backstop does")
            return False
        time.sleep(_ASK_AGAIN_S)


def _take(opening: lock.Lock) -> bool:
    try:
        return opening.take()
    except TidegateError as error:
        log.error("the backstop goes on without a lock: %s", error)
        return False


def _pipeline(config: Config, alone: bool) -> Pipeline:
    kept = open_kept(config, mend=alone, busy_ms=_BUSY_MS)
    pipeline = assemble(config, trust.KeyStore(config.paths.trust_dir), kept.journal, kept.host_key, by=standby.PROGRAM)
    pipeline.prover.ready()
    if kept.lost:
        take_in_found(pipeline)
    return pipeline


def _daemon_starts() -> str:
    """What systemd says of tidegated.service: enabled, masked, ...; "not there" where it says nothing."""
    try:
        said = command.run(["systemctl", "is-enabled", "tidegated.service"], timeout_s=10).stdout.split()
    except TidegateError:
        return "enabled"  # nobody to ask: nothing is ended early for that
    return said[0] if said else "not there"


def main(argv: Sequence[str] | None = None, begun: early.Begun | None = None) -> None:
    """Run by systemd, as root; ``begun``: what :mod:`agent.early` has done.

    Exit status 0: nothing is left to do; 1: some of it is, and systemd starts this again.
    """
    parser = argparse.ArgumentParser(prog=standby.PROGRAM, description=__doc__)
    parser.add_argument("--config", type=Path)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--boot", action="store_true", help="the host is starting")
    mode.add_argument("--check", action="store_true", help="only see whether it could work")
    chosen = parser.parse_args(argv)
    service.log_to_stderr(False)
    if os.geteuid() != 0:
        sys.exit(f"{standby.PROGRAM}: must be run by root")
    try:
        config = ConfigStore(config_path(chosen.config)).config
        if chosen.boot or chosen.check:
            done = (at_boot if chosen.boot else check)(config)
        else:
            done = at_deadline(config, begun or early.Begun())
    except TidegateError as error:
        sys.exit(f"{standby.PROGRAM}: {error}")
    sys.exit(0 if done else 1)
