"""The control socket's requests: raw bytes to the running daemon's own handlers, on a host that has a grant of each state."""

import functools
import json
from types import SimpleNamespace
from typing import cast

from agent.control.handlers import Handlers
from agent.control.server import Peer, answer_to
from tests.unit.lifecycle_kit import KEY, World

MAX_LEN = 2048
WORDS = (
    "op",
    "status",
    "grants",
    "grant",
    "revoke",
    "receipts",
    "receipt",
    "host_key",
    "metrics",
    "format",
    "plan",
    "jti",
    "subject",
    "all",
    "true",
    "ended",
    "reason",
    "token",
    "g-open",
    "g-later",
    "g-over",
    "alice@example.com",
    "\\ud800",
    "null",
)


def check(data: bytes) -> None:
    """One line of JSON comes back, whatever is asked: never a bug's. Nothing but ``revoke`` changes anything."""
    world, handlers = _world()
    before = world.host.snapshot(), [(live.id, live.state) for live in world.pipeline.ledger.all()]
    line = answer_to(cast(Peer, SimpleNamespace(uid=1000, pid=1, gid=1)), data, handlers.table())
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and line.isascii()
    answer = json.loads(line)
    assert isinstance(answer["ok"], bool) and (answer["ok"] or answer["code"] != "internal"), answer
    if before != (world.host.snapshot(), [(live.id, live.state) for live in world.pipeline.ledger.all()]):
        assert json.loads(data)["op"] == "revoke" and answer["ok"], answer
        _world.cache_clear()
        world.close()


@functools.cache
def _world() -> tuple[World, Handlers]:
    world = World()
    world.start()
    for jti, login, more in (("g-over", "jit-o", {}), ("g-open", "jit-a", {}), ("g-later", "jit-b", {"starts_s": 600})):
        entries = [{"type": "account", "identifier": login}, {"type": "ssh", "identifier": login, "keys": [KEY]}]
        assert world.refusal(world.sign(jti, entries, **more)) is None  # type: ignore[arg-type]  # seconds
        if jti == "g-over":
            world.clock.advance(700)
            world.tick()
    assert world.refusal(b"junk") is not None
    return world, Handlers(world.pipeline, lambda: ["a problem"])
