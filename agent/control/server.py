"""The daemon's end of the control socket (unix(7)): 0660 root:tidegate, one bounded request a connection.

A slow or hostile local user costs a waiting task and nothing else: connections are few for each uid, requests are short and
have a deadline, and work runs in a thread while the loop that holds the deadlines goes on.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping
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
_HANG_UP_S = 5.0


class Peer:
    """Who is asking, as the kernel says (SO_PEERCRED)."""

    def __init__(self, connection: socket.socket) -> None:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
        self.pid, self.uid, self.gid = struct.unpack("iII", credentials)


class ControlServer:
    """Serves the handlers (op → callable) until closed."""

    def __init__(self, path: Path, group_gid: int | None, handlers: Mapping[str, Handler], workers: Executor) -> None:
        self._path = path
        self._gid = group_gid
        self._handlers = handlers
        self._workers = workers
        self._connections: Counter[int] = Counter()
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
            if self._connections[peer.uid] <= _CONNECTIONS_PER_UID:
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

    async def _answer(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await asyncio.wait_for(reader.readuntil(b"\n"), REQUEST_TIMEOUT_S)
        answer = await asyncio.get_running_loop().run_in_executor(self._workers, self._handle, peer, line)
        writer.write(answer)
        await asyncio.wait_for(writer.drain(), ANSWER_TIMEOUT_S)

    def _handle(self, peer: Peer, line: bytes) -> bytes:
        try:
            request = decode_request(line)
            handler = self._handlers.get(str(request["op"]))
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
