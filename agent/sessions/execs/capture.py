"""tidegated's end of exec capture: has rules and sockets there while anybody is followed, and the reader at work on them.

The sockets stay open here too: should the reader die, what has come in waits in them for the next one.
"""

import json
import logging
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from agent.errors import HostError
from agent.host import beside
from agent.host.kaudit import exits
from agent.host.threads import pool_of
from agent.sessions.execs import reader
from agent.sessions.execs.kernel import Kernel

log = logging.getLogger("tidegate")
_ANSWER_S = 15.0  # a reader with a full buffer needs some seconds to read it to the end
_MESSAGE_MAX = 1 << 18
_STARTS_MAX, _STARTS_S = 5, 60.0  # a reader that dies oftener is not started again

Json = dict[str, object]


class Capture:
    """Thread-safe. ``hear`` is given what the reader says, in a thread of its own: ``{"tell": "execs"|"gap"|"failed", ...}``.

    ``absent`` is why nothing is captured here, empty when it can be; what it says before :meth:`ready` is that nobody asked.
    """

    def __init__(self, kernel: Kernel, uids: tuple[int, int], hear: Callable[[Json], None]) -> None:
        self.absent = "this program does not read the kernel's audit"
        self._kernel, self._uids, self._hear = kernel, uids, hear
        self._lock, self._finishing = threading.RLock(), threading.Lock()
        self._followed: dict[str, Json] = {}
        self._sockets: tuple[socket.socket, socket.socket | None] | None = None
        self._running: _Running | None = None
        self._starts: list[float] = []
        self._mending: Executor | None = None

    def ready(self) -> None:
        """From now on grants can be followed, where this host has an audit to read. Never raises."""
        try:
            self._kernel.probe()
            self.absent = ""
            self._mending = pool_of(1, "audit")
        except HostError as error:
            self.absent = error.reason
            log.warning("commands that tenants run are not captured: %s", error.reason)

    def follow(self, key: str, path: Path, uids: Mapping[int, str], about: Mapping[str, object]) -> None:
        """Write down what these uids run from now on. Raises HostError; following twice is once."""
        with self._lock:
            if self.absent:
                raise HostError("audit_absent", self.absent)
            if key in self._followed:
                return
            order: Json = {
                "op": "follow",
                "key": key,
                "path": str(path),
                "uids": {str(uid): uids[uid] for uid in uids},
                "about": about,
            }
            new = self._running is None
            try:
                self._reader().send(order)
                if new:
                    self._reader().send({"op": "go"})
            except HostError:
                if self._running is None:  # else it has just died, and the next one is told all that is followed
                    self._let_go_if_idle()
                    raise
            self._followed[key] = order

    def finish(self, keys: Collection[str]) -> dict[str, Json]:
        """They are over: what their files hold; those that were not followed are left out. Raises HostError when nobody says."""
        with self._finishing:  # one after the other; nobody who opens, and no order, waits for the reader
            with self._lock:
                mine = [key for key in keys if self._followed.pop(key, None) is not None]
            if not mine:
                return {}
            try:
                with self._lock:
                    running = self._reader()
                return running.finish(mine)
            finally:
                with self._lock:
                    self._let_go_if_idle()

    def limits(self) -> list[str]:
        """Why some execs may not be seen."""
        try:
            return self._kernel.limits() if not self.absent else []
        except HostError as error:
            return [error.reason]

    def stop(self) -> None:
        """The daemon stops: the reader writes down what has come, and the rules go. Never raises."""
        with self._lock:
            self._followed.clear()
            self._let_go_if_idle()
        if self._mending is not None:
            self._mending.shutdown(cancel_futures=True)

    def _reader(self) -> "_Running":
        if self._running is None:
            self._running = self._start()
        return self._running

    def _start(self) -> "_Running":
        now = time.monotonic()
        self._starts = [at for at in self._starts if now - at < _STARTS_S]
        if len(self._starts) >= _STARTS_MAX:
            raise HostError("execs_unread", "the reader died too often")
        self._starts.append(now)
        if self._sockets is None:
            self._sockets = self._kernel.take()
        return _Running(self._sockets, self._uids, self._heard, self._died)

    def _heard(self, said: Json) -> None:
        if said.get("tell") == "rules":
            if self._mending is not None:  # not here: an answer may be next, and somebody waits for it
                self._mending.submit(self._mend)
        else:
            self._hear(said)

    def _mend(self) -> None:
        """Somebody changed audit's rules, perhaps ours."""
        with self._lock:
            if self._running is None or not self._followed:
                return
            try:
                if self._kernel.mend():
                    log.error("audit's rules or its switch were changed by somebody, and are as they must be again")
                    self._running.send({"op": "gap", "why": "somebody changed the audit's rules or turned it off"})
            except HostError as error:
                log.error("commands that tenants run are not seen: %s", error)
                self._running.send({"op": "gap", "why": f"audit's rules can't be put back: {error.reason}"})

    def _died(self, running: "_Running") -> None:
        """Start another one, which goes on from the same sockets."""
        with self._lock:
            if self._running is not running:
                return
            self._running = None
            log.error("the reader of execs died with %d grant(s) to follow", len(self._followed))
            if not self._followed:
                return
            try:
                for order in self._followed.values():
                    self._reader().send(order)
                self._reader().send({"op": "go"})
            except HostError as error:
                log.error("what tenants run is not read any more: %s", error)

    def _let_go_if_idle(self) -> None:
        if self._followed:
            return
        running, self._running = self._running, None
        if running is not None:
            running.stop()
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            try:
                self._kernel.give_back()
            except HostError as error:
                log.error("our rules of the kernel's audit could not be taken out: %s", error)
            sockets[0].close()
            if sockets[1] is not None:
                exits.stop(sockets[1])
            self._starts.clear()


class _Running:
    """One reader process, and a thread that hears what it says."""

    def __init__(
        self,
        sockets: tuple[socket.socket, socket.socket | None],
        uids: tuple[int, int],
        hear: Callable[[Json], None],
        died: Callable[["_Running"], None],
    ) -> None:
        self._hear, self._died, self._stopping = hear, died, False
        self._answers: queue.SimpleQueue[dict[str, Json] | None] = queue.SimpleQueue()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = [theirs.fileno(), *(found.fileno() if found else -1 for found in sockets)]
        try:
            self._process: subprocess.Popen[bytes] = beside.start(
                Path(reader.__file__), [*map(str, fds), *map(str, uids)], [fd for fd in fds if fd >= 0]
            )
        except HostError:
            self._ours.close()
            raise
        finally:
            theirs.close()
        self._thread = threading.Thread(target=self._listen, name="execs", daemon=True)
        self._thread.start()

    def finish(self, keys: Sequence[str]) -> dict[str, Json]:
        """What it says of them. Raises HostError ``execs_unread`` when it says nothing."""
        self.send({"op": "finish", "keys": [*keys]})
        try:
            answer = self._answers.get(timeout=_ANSWER_S)
        except queue.Empty:
            self._process.kill()  # one that hangs is as good as dead, and the next one goes on
            answer = None
        if answer is None:
            raise HostError("execs_unread", "the reader of execs does not answer")
        return answer

    def send(self, order: Json) -> None:
        """An order that is not answered. Raises HostError ``execs_unread``."""
        try:
            self._ours.send(json.dumps(order).encode("ascii"))
        except OSError as error:
            raise HostError("execs_unread", f"the reader of execs is gone: {error.strerror}") from error

    def stop(self) -> None:
        """Let it write down what it has, and end."""
        self._stopping = True
        self._ours.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if threading.current_thread() is not self._thread:
            self._thread.join(_ANSWER_S)

    def _listen(self) -> None:
        try:
            while data := self._ours.recv(_MESSAGE_MAX):
                said = json.loads(data)
                if "tell" in said:
                    self._hear(said)
                else:
                    self._answers.put(said["finished"])
        except Exception:
            log.exception("what the reader of execs says can't be heard")
        self._ours.close()
        self._answers.put(None)
        if not self._stopping:
            self._process.kill()
            self._process.wait()
            self._died(self)
