"""The daemon's end of the control socket (unix(7)): 0660 root:tidegate, one bounded request a connection.

A slow or hostile local user costs a waiting task and nothing else: connections are few for each uid and for all but root
together (one member of the group may have many uids, in a user namespace of its own), requests are short and have a deadline,
and work runs in a thread while the loop that holds the deadlines goes on; some threads are root's alone.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Container, Mapping
from concurrent.futures import Executor
from pathlib import Path

from agent.control.protocol import (
    ANSWER_MAX,
    ANSWER_TIMEOUT_S,
    REQUEST_MAX,
    REQUEST_TIMEOUT_S,
    decode_request,
    encode,
    failure,
)
from agent.errors import HostError, TidegateError

log = logging.getLogger("tidegate")
Handler = Callable[["Peer", Mapping[str, object]], object]
_CONNECTIONS_PER_UID = 16
_CONNECTIONS_OF_OTHERS = 64  # of all uids but root's together
_ANSWERED_AT_ONCE = 2  # of theirs; the other threads are for root, whoever asks whatever
_HANG_UP_S = 5.0


class Peer:
    """Who is asking, as the kernel says (SO_PEERCRED)."""

    def __init__(self, connection: socket.socket) -> None:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
        self.pid, self.uid, self.gid = struct.unpack("iII", credentials)


class ControlServer:
    """Serves the handlers (op → callable) until closed. ``tenants``: uids that get no answer, whatever group they got into."""

    def __init__(
        self, path: Path, group_gid: int | None, handlers: Mapping[str, Handler], workers: Executor, tenants: Container[int] = ()
    ) -> None:
        self._path = path
        self._gid = group_gid
        self._handlers = handlers
        self._workers = workers
        self._tenants = tenants
        self._connections: Counter[int] = Counter()
        self._others = asyncio.Semaphore(_ANSWERED_AT_ONCE)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Bind, with its owner and mode set before anyone can connect: that takes until listen(2).

        No umask for it: that is the whole process's, and other threads write files of the host meanwhile.

        Raises:
            HostError: ``socket_unavailable``.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            if self._gid is not None:
                os.chown(self._path, 0, self._gid)
                self._path.chmod(0o660)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=REQUEST_MAX)
        except OSError as error:
            listener.close()
            raise HostError("socket_unavailable", f"{self._path}: {error}") from error

    def close(self) -> None:
        """Stop listening and take the socket away."""
        if self._server:
            self._server.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer.get_extra_info("socket"))
        self._connections[peer.uid] += 1
        try:
            if self._welcome(peer):
                await self._answer(peer, reader, writer)
        except (OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            pass  # the peer went away, was too slow, or sent more than a request: it gets no answer
        finally:
            try:
                await _hang_up(writer)
            finally:
                self._connections[peer.uid] -= 1
                if not self._connections[peer.uid]:
                    del self._connections[peer.uid]

    def _welcome(self, peer: Peer) -> bool:
        """Whether one more of this uid is served; it counts already."""
        few = self._connections[peer.uid] <= _CONNECTIONS_PER_UID
        others = self._connections.total() - self._connections[0]
        return few and (peer.uid == 0 or (others <= _CONNECTIONS_OF_OTHERS and peer.uid not in self._tenants))

    async def _answer(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await asyncio.wait_for(reader.readuntil(b"\n"), REQUEST_TIMEOUT_S)
        turn = contextlib.nullcontext() if peer.uid == 0 else self._others
        async with turn:
            answer = await asyncio.get_running_loop().run_in_executor(self._workers, answer_to, peer, line, self._handlers)
        writer.write(answer)
        await asyncio.wait_for(writer.drain(), ANSWER_TIMEOUT_S)


def answer_to(peer: Peer, line: bytes, handlers: Mapping[str, Handler]) -> bytes:
    """One request, one answer; whatever a handler raises is an answer too."""
    try:
        request = decode_request(line)
        handler = handlers.get(str(request["op"]))
        if handler is None:
            raise HostError("request_unknown", f"unknown op {str(request['op'])[:40]!r}")
        answer = encode({"ok": True, "result": handler(peer, request)})
    except TidegateError as error:
        return encode(failure(error))
    except Exception as error:
        log.exception("control request failed")
        return encode(failure(HostError("internal", f"{type(error).__name__}: see the journal of tidegated")))
    if len(answer) > ANSWER_MAX:
        return encode(failure(HostError("answer_too_large", "more than one answer may hold; ask for less")))
    return answer


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close, and give the descriptor back for certain: one who never reads would keep it, and what is buffered, for ever."""
    writer.close()
    try:
        await asyncio.wait_for(writer.wait_closed(), _HANG_UP_S)
    except (OSError, TimeoutError):
        writer.transport.abort()
