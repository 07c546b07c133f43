"""The control socket: right owner, bounded cost, and an answer to whatever is asked."""

import asyncio
import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest

from agent.control import client, protocol, server
from agent.control.handlers import Handlers
from agent.control.server import ControlServer, Handler, Peer
from agent.errors import DeniedError, HostError, InvalidGrantError, RefusedError, TidegateError
from agent.expiry.ledger import Ledger
from agent.expiry.shut import Shut
from agent.host.clock import FakeClock
from agent.journal import EndCause
from agent.pipeline import Pipeline
from tests.unit.expiry_kit import live


def _refuse(_: Peer, __: Mapping[str, object]) -> object:
    raise DeniedError("too_long", "too long", field="exp")


def _fail(_: Peer, __: Mapping[str, object]) -> object:
    raise HostError("odd", "odd")


def _bug(_: Peer, __: Mapping[str, object]) -> object:
    raise ZeroDivisionError


def _circle(_: Peer, __: Mapping[str, object]) -> object:
    found: list[object] = []
    found.append(found)
    return found


def _slow(_: Peer, __: Mapping[str, object]) -> object:
    time.sleep(0.3)
    return "slow"


HANDLERS: dict[str, Handler] = {
    "echo": lambda _, request: dict(request),
    "who": lambda peer, _: [peer.pid, peer.uid, peer.gid],
    "refuse": _refuse,
    "fail": _fail,
    "bug": _bug,
    "slow": _slow,
    "big": lambda _, __: "x" * 2_000_000,
    "circle": _circle,
}


@contextlib.asynccontextmanager
async def serving(
    path: Path, gid: int | None = None, workers: int = 4, tenants: Container[int] = ()
) -> AsyncIterator[ControlServer]:
    with ThreadPoolExecutor(workers) as pool:
        found = ControlServer(path, gid, HANDLERS, pool, tenants)
        await found.start()
        problems: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        yield found
        found.close()
        await asyncio.sleep(0.01)
        assert problems == [], "nothing a client does is an error of the daemon's"


def run(
    path: Path,
    talk: Callable[[ControlServer], Awaitable[None]],
    *,
    gid: int | None = None,
    workers: int = 4,
    tenants: Container[int] = (),
) -> None:
    async def main() -> None:
        async with serving(path, gid, workers, tenants) as found:
            await talk(found)

    asyncio.run(asyncio.wait_for(main(), 60))


async def say(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 20)
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        await hang_up(writer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def ask(path: Path, op: str, **arguments: object) -> object:
    return await asyncio.to_thread(client.call, path, op, **arguments)


def test_a_question_is_answered_and_the_kernel_says_who_asks(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def talk(_: ControlServer) -> None:
        assert await ask(path, "echo", a=[1, "ü\ud800"]) == {"op": "echo", "a": [1, "ü\ud800"]}
        assert await ask(path, "who") == [os.getpid(), os.getuid(), os.getgid()]
        assert len(cast(str, await ask(path, "big"))) == 2_000_000

    run(path, talk)


@pytest.mark.parametrize("gid", [None, os.getgid()])
def test_nobody_but_root_and_the_admin_group_may_ask_from_the_first_moment(tmp_path: Path, gid: int | None) -> None:
    path = tmp_path / "control.sock"
    before = os.umask(0)

    async def talk(_: ControlServer) -> None:
        found = path.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == (0o600 if gid is None else 0o660)
        assert found.st_uid == os.geteuid() and (gid is None or found.st_gid == gid)

    try:
        run(path, talk, gid=gid)
    finally:
        assert os.umask(before) == 0, "the umask is the whole process's, and was not touched"
    assert not path.exists(), "and it goes with the daemon"


def test_no_connection_is_taken_before_the_mode_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, refused = tmp_path / "control.sock", []
    real = Path.chmod

    def chmod(self: Path, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(str(self))
        refused.append(mode)
        real(self, mode)

    monkeypatch.setattr(Path, "chmod", chmod)

    async def talk(_: ControlServer) -> None:
        assert refused == [0o600, 0o660]

    run(path, talk, gid=os.getgid())


def test_a_stale_socket_is_replaced_and_what_cant_be_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def talk(_: ControlServer) -> None:
        assert await ask(path, "who")

    run(path, talk)
    path.mkdir()
    (path / "x").touch()
    with pytest.raises(HostError) as caught:
        run(path, talk)
    assert caught.value.code == "socket_unavailable"


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"x", b"null", b"[]", b'"op"', b"{}", b'{"op":1}', b'{"op":null}', b"\xff\xfe", b"{" * 60_000, b"[" * 100_000),
        *(b'{"op":"echo"', b'{"op":' + b"9" * 5000 + b"}"),
    ],
)
def test_garbage_is_refused_by_its_code(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "control.sock"

    async def talk(_: ControlServer) -> None:
        answer = json.loads(await say(path, line + b"\n"))
        assert (answer["ok"], answer["code"], answer["refused"]) == (False, "request_malformed", True)

    run(path, talk)


@pytest.mark.parametrize("size", [protocol.REQUEST_MAX + 1, 3 * protocol.REQUEST_MAX, 4_000_000])
def test_a_line_over_the_bound_gets_no_answer_and_costs_no_more_than_the_bound(tmp_path: Path, size: int) -> None:
    path = tmp_path / "control.sock"

    async def talk(_: ControlServer) -> None:
        assert await say(path, b"x" * size + b"\n") == b""
        assert await ask(path, "who")

    run(path, talk)


def test_one_who_says_nothing_or_too_slowly_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(server, "REQUEST_TIMEOUT_S", 0.2)

    async def dribble() -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                writer.write(b'{"op":"who"')
                await writer.drain()
                await asyncio.sleep(0.05)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await hang_up(writer)

    async def talk(found: ControlServer) -> None:
        began = time.monotonic()
        assert await say(path, b"") == b""
        await dribble()
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.05)
        assert not found._connections

    run(path, talk)


def test_one_uid_has_few_connections_at_a_time_and_gets_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(server, "REQUEST_TIMEOUT_S", 1.0)

    async def talk(found: ControlServer) -> None:
        held = [await asyncio.open_unix_connection(str(path)) for _ in range(16)]
        await asyncio.sleep(0.05)
        for _ in range(50):
            assert await say(path, b'{"op":"who"}\n') == b""
        assert sum(found._connections.values()) == 16
        for _, writer in held:
            await hang_up(writer)
        await asyncio.sleep(0.1)
        assert await ask(path, "who")
        await asyncio.sleep(0.1)
        assert not found._connections

    run(path, talk)


class PeerOfUid(Peer):
    """The kernel's word replaced: each connection is the next uid's."""

    uids: ClassVar[list[int]] = []

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.uid = self.uids.pop(0) if self.uids else 0


def test_a_tenant_is_never_answered_whatever_group_it_got_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(server, "Peer", PeerOfUid)
    PeerOfUid.uids = [70000, 99999, 69999]

    async def talk(_: ControlServer) -> None:
        assert [bool(await say(path, b'{"op":"who"}\n')) for _ in range(4)] == [False, False, True, True]

    run(path, talk, tenants=range(70000, 100000))


def test_many_uids_of_one_person_hold_no_more_than_all_others_may_and_nothing_of_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(server, "Peer", PeerOfUid)
    monkeypatch.setattr(server, "REQUEST_TIMEOUT_S", 20.0)
    PeerOfUid.uids = list(range(200_000, 200_150))

    async def talk(found: ControlServer) -> None:
        held = [await asyncio.open_unix_connection(str(path)) for _ in range(150)]
        await asyncio.sleep(0.2)
        assert found._connections.total() == 64
        assert await ask(path, "who"), "root is answered all the same"
        for _, writer in held:
            await hang_up(writer)

    run(path, talk)


def test_slow_questions_of_others_leave_threads_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, release = tmp_path / "control.sock", threading.Event()
    monkeypatch.setattr(server, "Peer", PeerOfUid)
    PeerOfUid.uids = [1000] * 8
    monkeypatch.setitem(HANDLERS, "wait", lambda _, __: release.wait(30))

    async def talk(_: ControlServer) -> None:
        waiting = [asyncio.create_task(say(path, b'{"op":"wait"}\n')) for _ in range(8)]
        await asyncio.sleep(0.2)
        assert await asyncio.wait_for(ask(path, "who"), 20)
        release.set()
        assert all([json.loads(await task)["ok"] for task in waiting]), "and they are all answered, in turn"

    run(path, talk)


def test_a_descriptor_that_is_passed_along_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def talk(_: ControlServer) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        ours, theirs = os.pipe()
        socket.send_fds(connection, [b'{"op":"who"}\n'], [theirs] * 50)
        connection.settimeout(10)
        assert await asyncio.to_thread(connection.recv, 1000)
        for descriptor in (ours, theirs):
            os.close(descriptor)
        connection.close()
        await asyncio.sleep(0.05)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    run(path, talk)


def test_one_who_never_reads_the_answer_keeps_no_descriptor_and_no_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(server, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(server, "_HANG_UP_S", 0.2)

    async def talk(found: ControlServer) -> None:
        held = []
        for op in ["big"] * 8:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(path))
            connection.sendall(json.dumps({"op": op}).encode() + b"\n")
            held.append(connection)
        await asyncio.sleep(0.1)
        assert sum(found._connections.values()) == 8, "it counts as long as it costs"
        before = len(list(Path("/proc/self/fd").iterdir()))
        await asyncio.sleep(1.2)
        assert not found._connections
        assert len(list(Path("/proc/self/fd").iterdir())) == before - 8
        for connection in held:
            connection.close()

    run(path, talk)


def test_one_who_goes_away_while_it_is_answered_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def talk(found: ControlServer) -> None:
        for op in ("slow", "big", "who"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(json.dumps({"op": op}).encode() + b"\n")
        await asyncio.sleep(0.5)
        assert await ask(path, "who")
        await asyncio.sleep(0.05)
        assert not found._connections

    run(path, talk)


@pytest.mark.parametrize(
    ("op", "kind", "code"),
    [
        ("refuse", RefusedError, "too_long"),
        ("fail", HostError, "odd"),
        ("bug", HostError, "internal"),
        ("circle", HostError, "internal"),
        ("nonesuch", HostError, "request_unknown"),
    ],
)
def test_whatever_a_handler_raises_is_an_answer(tmp_path: Path, op: str, kind: type[TidegateError], code: str) -> None:
    path = tmp_path / "control.sock"

    async def talk(_: ControlServer) -> None:
        with pytest.raises(kind) as caught:
            await ask(path, op)
        assert caught.value.code == code
        assert op != "refuse" or caught.value.field == "exp"

    run(path, talk)


def test_an_answer_over_the_bound_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(server, "ANSWER_MAX", 1_000_000)

    async def talk(_: ControlServer) -> None:
        with pytest.raises(HostError) as caught:
            await ask(path, "big")
        assert caught.value.code == "answer_too_large"

    run(path, talk)


def test_slow_questions_do_not_keep_the_loop_from_its_deadlines(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def talk(_: ControlServer) -> None:
        asking = [asyncio.create_task(ask(path, "slow")) for _ in range(8)]
        began, worst = time.monotonic(), 0.0
        while not all(task.done() for task in asking):
            before = time.monotonic()
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - before)
        assert time.monotonic() - began < 30 and worst < 2

    run(path, talk, workers=2)


def test_a_daemon_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        client.call(tmp_path / "none.sock", "status")
    assert caught.value.code == "agent_unreachable"


# The one order


class FakePipeline:
    """Live grants, and what was asked of them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.grants = [live(self.clock, n) for n in (1, 2)]
        self.ledger = Ledger(self.clock)
        for found in self.grants:
            self.ledger.add(found)
        self.shut_with: list[tuple[list[int], EndCause, str]] = []

    def shut(self, grants: list[object], cause: EndCause, text: str, *, claimed: list[object]) -> list[Shut]:
        del claimed
        chosen = [found for found in self.grants if found in grants]
        self.shut_with.append(([found.id for found in chosen], cause, text))
        return [Shut(found, 0, 1) for found in chosen[:1]]


def revoke(pipeline: FakePipeline, **request: object) -> dict[str, list[dict[str, object]]]:
    handlers = Handlers(cast(Pipeline, pipeline), lambda: [])
    peer = cast(Peer, SimpleNamespace(uid=1000, pid=1, gid=1))
    return cast(dict[str, list[dict[str, object]]], handlers.table()["revoke"](peer, request))


@pytest.mark.parametrize(
    "request_",
    [
        *({}, {"all": False}, {"all": 1}, {"all": "true"}, {"jti": ""}, {"subject": ""}, {"jti": ["g-1"]}, {"jti": None}),
        *({"jti": "g-1", "all": True}, {"subject": "a", "all": True}, {"jti": "g-1", "subject": "a"}),
    ],
)
def test_nothing_named_and_two_things_named_are_never_everything(request_: dict[str, object]) -> None:
    pipeline = FakePipeline()
    with pytest.raises(InvalidGrantError):
        revoke(pipeline, **request_)
    assert pipeline.shut_with == []


def test_one_is_revoked_by_its_token_id_and_all_only_when_asked_for() -> None:
    pipeline = FakePipeline()
    revoke(pipeline, jti="g-2")
    with pytest.raises(HostError) as caught:
        revoke(pipeline, jti="none")
    assert caught.value.code == "grant_unknown"
    found = revoke(pipeline, all=True)["revoked"]
    assert [grants for grants, _, _ in pipeline.shut_with] == [[2], [1, 2]], "nothing is shut for an id that no live grant has"
    assert [each["jti"] for each in found] == ["g-1", "g-2"]
    assert found[1]["error"] == "its end is under way"


def test_an_end_that_could_not_be_written_down_is_not_over() -> None:
    pipeline = FakePipeline()
    pipeline.grants[0].error = "database or disk is full"
    found = revoke(pipeline, jti="g-1")["revoked"]
    assert [(each["ended"], each["error"]) for each in found] == [(False, "database or disk is full")]


@pytest.mark.parametrize("reason", [5, {"a": 1}, ["x"], True])
def test_a_reason_that_is_no_text_is_refused_before_anything_is_shut(reason: object) -> None:
    pipeline = FakePipeline()
    with pytest.raises(InvalidGrantError):
        revoke(pipeline, jti="g-1", reason=reason)
    assert pipeline.shut_with == []


def test_a_reason_is_one_line_of_bounded_text() -> None:
    pipeline = FakePipeline()
    revoke(pipeline, jti="g-1", reason="\ud800\x1b\n" + "x" * 100_000)
    ((_, cause, text),) = pipeline.shut_with
    assert cause is EndCause.REVOKED and text.isprintable() and len(text) < 600
    assert text.startswith("by uid 1000 on this host: \\ud800\\x1b\\x0axxx")
