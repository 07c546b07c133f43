"""tidegated: puts the parts together and runs them in one event loop. Nothing here decides anything.

Threads: one sorts what comes in and carries out orders; one opens grants, one after the other, and has two that ask others for
it; some cut off, which is bounded in time; four clear away what was cut off, which is not; four come back to what would not end,
sweep and warn; four answer the control socket. The loop itself only waits: on the deadline timer, the watched folders and the
socket.
"""

import asyncio
import contextlib
import grp
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from agent import VERSION, keeping, trust
from agent.acting import Acting
from agent.arguments import parser
from agent.assembly import assemble
from agent.audit import EventKind
from agent.config import config_path
from agent.control.handlers import Handlers
from agent.control.server import ControlServer
from agent.errors import TidegateError
from agent.guarding import Guarding, keep_program
from agent.heartbeat import Heartbeat
from agent.host import service, start
from agent.host.clock import DeadlineTimer
from agent.host.config_store import ConfigStore
from agent.host.memory import keep_for_good
from agent.host.threads import pool_of, submit, take_short_turns
from agent.intake import Intake
from agent.recovery import look_behind, stand_again, take_down
from agent.reloading import Reloading
from agent.taking import Taking
from agent.watching import INTERPRETERS, Watching

log = logging.getLogger("tidegate")

# Several editors write a file in more than one step; one reload a short while after the last of them is enough.
_RELOAD_DELAY_S = 0.1
_RETRY_PREPARE_S = _RETRY_WATCH_S = 15.0


class Daemon:
    """One running tidegated."""

    def __init__(self, configured: ConfigStore, loop: asyncio.AbstractEventLoop) -> None:
        self._configured = configured
        self._config = config = configured.config
        self._loop = loop
        self._taking = pool_of(1, "take")
        self._answering = pool_of(4, "answer")
        self._timer = DeadlineTimer()
        self._heartbeat = Heartbeat(loop)
        self._problems: dict[str, str] = {}
        self._reloads: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        keys = trust.KeyStore(config.paths.trust_dir)
        self._prepared = b""  # digest of sshd's and sudo's files when the enforcers were last prepared
        start.make_folders(config)
        keep_program(configured, self._problems)
        kept = keeping.open_kept(config, end_newer=True)
        self._problems |= kept.troubles
        self.pipeline = assemble(config, keys, kept.journal, kept.host_key)
        self._guarding = Guarding(configured, kept, self.pipeline, self._problems)
        self._acting = Acting(self.pipeline, self._taking)
        self._intake = Intake(self.pipeline, self._acting.clear, self._acting.freshen)
        self._inbox = Taking(self._intake, self._taking, partial(self._soon, self._later), self._problems)
        self._reloading = Reloading(configured, keys, self.pipeline, self._problems, self._start_anew)
        self._anew = False  # start again, with another configuration
        self._watching = Watching(
            config, configured.folders, self._changed, lambda: self._soon(self._later, "folders", self._watch_anew)
        )

    async def run(self) -> bool:
        """Shut what ended while nobody looked, then serve until told to stop; True: to start anew."""
        loop = self._loop
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_all)
        await loop.run_in_executor(self._taking, self._guarding.begin)
        left = await loop.run_in_executor(self._taking, take_down, self.pipeline)
        self._reloading.all()  # before the timer: a pending grant's time may have come, and it is judged again
        for descriptor in self._timer.descriptors:
            loop.add_reader(descriptor, self._on_timer)
        self.pipeline.ledger.rearm = lambda: self._soon(self._arm)
        self._arm()
        self._acting.clear(left)
        await loop.run_in_executor(self._taking, self.pipeline.executions.ready)
        await loop.run_in_executor(self._taking, self.pipeline.logged.ready)
        await loop.run_in_executor(self._taking, self._guarding.keep_backstop)
        await loop.run_in_executor(self._taking, self._prepare)
        await loop.run_in_executor(self._taking, stand_again, self.pipeline)
        await loop.run_in_executor(self._taking, self._inbox.begin)
        await loop.run_in_executor(self._taking, self._watch)
        control = self._control()
        await self._start_control(control)
        await loop.run_in_executor(self._answering, self._guarding.serve_recorder)
        keep_for_good()
        service.tell_systemd("READY=1")
        self._heartbeat.begin()
        if self._guarding.stuck:
            self._later("disk", self._start_anew_if_writable, _RETRY_PREPARE_S)
        self._reloading.tell(EventKind.AGENT_STARTED, ok=not self.pipeline.closing, reason=self._guarding.greeting())
        self._job(self._answering, look_behind, self.pipeline, self._stopping.is_set)
        self._job(self._answering, self._guarding.check_backstop)
        log.info("tidegated %s is ready: host id %s", VERSION, self.pipeline.host_id)
        await self._stopping.wait()
        service.tell_systemd("RELOADING=1" if self._anew else "STOPPING=1")
        self._reloading.tell(EventKind.AGENT_STOPPED, reason="to start anew" if self._anew else "told to stop")
        control.close()
        self._watching.stop()
        for descriptor in self._timer.descriptors:
            loop.remove_reader(descriptor)
        parts = self._inbox, self._acting, self.pipeline.prover, self.pipeline.executions, self.pipeline.logged
        for stop in (self._taking.shutdown, *(part.stop for part in parts), self._answering.shutdown):
            await loop.run_in_executor(None, stop)
        self._timer.close()
        with contextlib.suppress(TidegateError):
            self.pipeline.ledger.mark(self.pipeline.journal)
        self.pipeline.journal.close()
        self._guarding.stop()
        return self._anew

    # Putting together

    def _prepare(self) -> None:
        """Let each enforcer put its own drop-ins in place; one that can't says so and refuses what needs it."""
        for name, enforcer in self.pipeline.enforcers.items():
            try:
                enforcer.prepare(self.pipeline.writer)
                self._problems.pop(f"enforcer {name}", None)
                self.pipeline.unready.pop(name, None)
            except TidegateError as error:
                self._problems[f"enforcer {name}"] = f"{error}; {name} grants are refused until it is mended, open ones stay"
                self.pipeline.unready[name] = error
                log.error("%s grants are refused until this is mended: %s", name, error)
        self._prepared = start.digest_of_tools(self._config)
        if self.pipeline.unready:
            self._soon(self._later, "mending", lambda: self._job(self._taking, self._prepare), _RETRY_PREPARE_S)

    def _prepare_if_changed(self) -> None:
        """Not for what preparing itself wrote, and put back when the proof failed: that would go on for ever."""
        if start.digest_of_tools(self._config) != self._prepared:
            self._prepare()
            self.pipeline.prover.again()

    def _watch(self) -> None:
        """Then look at everything once: what changed while nothing was watched, nobody tells."""
        trouble = self._watching.renew()
        if trouble:
            self._problems["watch"] = trouble
            log.error("watch: %s", trouble)
            self._soon(self._later, "folders", self._watch_anew, _RETRY_WATCH_S)
        else:
            self._problems.pop("watch", None)
        for again in (self._reloading.all, self._inbox.retry):  # in this order: what a new key signed came with it
            self._soon(again)

    def _watch_anew(self) -> None:
        self._job(self._taking, self._watch)

    def _changed(self, folder: Path, name: str) -> None:
        if folder == self._config.paths.inbox:
            self._intake.sorting.hint(name)
        self._soon(self._on_change, folder)

    async def _start_control(self, control: ControlServer) -> None:
        """Without its socket the daemon can't be asked, but it goes on ending grants."""
        try:
            await control.start()
            self._problems.pop("control socket", None)
        except (TidegateError, OSError) as error:
            self._problems["control socket"] = str(error)
            log.error("nobody can ask this daemon for now: %s", error)
            self._later("control", lambda: self._background(self._start_control(control)), _RETRY_PREPARE_S)

    def _background(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _control(self) -> ControlServer:
        handlers = Handlers(self.pipeline, self.problems)
        try:
            gid: int | None = grp.getgrnam(self._config.admin_group).gr_gid
        except KeyError:
            gid = None
        tenants = range(self._config.uid_first, self._config.uid_last + 1)
        return ControlServer(self._config.paths.control_socket, gid, handlers.table(), self._answering, tenants)

    # What happens

    def _on_timer(self) -> None:
        if self._timer.acknowledge():
            log.warning("the clock of this host was set; deadlines are held on the boot clock too")
        try:
            self._acting.act(self.pipeline.ledger.take_due())
        finally:
            self._arm()  # whatever happens: a timer that is not armed again ends nothing any more
        self._heartbeat.awake()

    def _arm(self) -> None:
        self._timer.arm(*self.pipeline.ledger.next_wake())
        if self._guarding.open_again():
            self._inbox.retry()

    def _on_change(self, folder: Path) -> None:
        if folder == self._config.paths.inbox:
            self._inbox.look()
        elif folder == self._config.paths.policy_dir:
            self._later("policy", self._reloading.policy)
        elif folder == self._config.paths.trust_dir:
            self._later("keys", self._reloading.keys)
        elif folder in self._configured.folders:
            self._later("configuration", self._reloading.configuration)
        elif folder == INTERPRETERS:
            self._later("interpreter", lambda: self._job(self._taking, self._guarding.renew_interpreter))
        elif folder in start.tool_folders(self._config):
            self._later("sshd and sudo", lambda: self._job(self._taking, self._prepare_if_changed))

    def _reload_all(self) -> None:
        self._reloading.all()
        self._job(self._taking, self._prepare)

    def _start_anew(self, why: str = "the configuration changed") -> None:
        """A changed configuration takes a whole new start, in this process: everything stands on where things are."""
        if self._stopping.is_set():
            return
        log.info("%s, starting anew", why)
        self._anew = True
        self._stopping.set()

    def _stop(self) -> None:
        self._anew = False  # a signal counts in the middle of starting anew as well
        self._stopping.set()

    def problems(self) -> list[str]:
        """What is wrong with this host now, for ``status``."""
        return [*(f"{what}: {text}" for what, text in sorted(dict(self._problems).items())), *self.pipeline.prover.troubles()]

    def _start_anew_if_writable(self) -> None:
        if keeping.writable(self._config):
            self._start_anew("the disk takes writes again")
        else:
            self._later("disk", self._start_anew_if_writable, _RETRY_PREPARE_S)

    # Helpers

    def _later(self, what: str, act: Callable[[], None], delay_s: float = _RELOAD_DELAY_S) -> None:
        """Once, a moment after the last change."""
        if what in self._reloads:
            self._reloads[what].cancel()
        self._reloads[what] = self._loop.call_later(delay_s, act)

    def _job(self, pool: ThreadPoolExecutor, work: Callable[..., object], *arguments: object) -> None:
        submit(pool, work, *arguments)

    def _soon(self, call: Callable[..., object], *arguments: object) -> None:
        """From any thread, in the loop; a loop that is closing already needs it no more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """The Tidegate daemon. Run by tidegated.service; talk to it with the command tidegate."""
    asked = parser(main.__doc__).parse_args(argv)
    service.log_to_stderr(asked.verbose)
    take_short_turns()
    if os.geteuid() != 0:
        sys.exit("tidegated: must be run by root")
    try:
        anew = asyncio.run(_serve(asked.config))
    except TidegateError as error:
        sys.exit(f"tidegated: {error}")
    if anew:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # itself, as it was called


async def _serve(config_file: Path | None) -> bool:
    return await Daemon(ConfigStore(config_path(config_file)), asyncio.get_running_loop()).run()
