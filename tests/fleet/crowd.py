"""One process full of simulated hosts, told what to do over a pipe: ``(word, value)`` in, one answer out for each."""

import asyncio
import gc
import json
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tests.fleet.host import Login, Seen, SimulatedHost

IN_FLIGHT = 64  # connections being made at once
BATCH = 64 * 1024


class Crowd:
    """The hosts of one process."""

    def __init__(self, logins: list[Login], port: int) -> None:
        self._seen = Seen()
        self._hosts = {login.token: SimulatedHost(login, port, self._seen) for login in logins}

    async def connect(self, _value: object) -> int:
        """All, at most ``IN_FLIGHT`` at once. Returns how many are there."""
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def one(host: SimulatedHost) -> None:
            async with gate:
                await host.connect()
                for _ in range(500):
                    if host.ready:
                        return
                    await asyncio.sleep(0.02)

        await asyncio.gather(*(one(host) for host in self._hosts.values()))
        gc.collect()
        return self.ready()

    def ready(self, _value: object = None) -> int:
        return sum(host.ready for host in self._hosts.values())

    def lacking(self, pushed: dict[str, list[int]]) -> int:
        """How many of these tokens did not come."""
        return sum(ident not in host.got for token, host in self._hosts.items() for ident in pushed.get(token, ()))

    def latencies(self, _value: object) -> list[float]:
        found, self._seen.latencies_ms = self._seen.latencies_ms, []
        return found

    def records(self, value: tuple[int, int, int]) -> int:
        """So many batches for each of the first so many hosts, each tenth sent twice, as after a lost ack. Returns the records."""
        hosts, batches, round_number = value
        made = 0
        for token, host in list(self._hosts.items())[:hosts]:
            for number in range(batches):
                lines: list[bytes] = []
                size = 0
                while size < BATCH - 400:
                    key = f"{token[:10]}:{round_number}:{number}:{len(lines)}"
                    line = json.dumps({"key": key, "kind": "event", "body": {"message": "x" * 260}}).encode() + b"\n"
                    lines.append(line)
                    size += len(line)
                made += len(lines)
                host.outbox.append((f"{token}:{round_number}:{number}", b"".join(lines), 2 if number % 10 == 9 else 1))
        return made

    def send(self, _value: object) -> None:
        for host in self._hosts.values():
            host.send()

    def unsent(self, _value: object) -> int:
        return sum(len(host.outbox) + bool(host._sending) for host in self._hosts.values())

    def seen(self, _value: object) -> dict[str, Any]:
        seen = self._seen
        doubled = sum(count - 1 for host in self._hosts.values() for count in host.got.values())
        return {"losses": seen.losses, "errors": seen.errors, "refused": seen.refused, "acked": seen.acked, "doubled": doubled}

    def stop(self, _value: object) -> None:
        for host in self._hosts.values():
            host.stop()


def main(pipe: Connection, logins: list[Any], port: int, context: Callable[[Any], Login]) -> None:
    """The process. ``context`` makes a login of what was sent (an SSL context can't be)."""
    asyncio.run(_serve(pipe, Crowd([context(each) for each in logins], port)))


async def _serve(pipe: Connection, crowd: Crowd) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            word, value = await loop.run_in_executor(None, pipe.recv)
        except EOFError:  # whoever started us is gone
            return
        answer = getattr(crowd, word)(value)
        pipe.send(await answer if asyncio.iscoroutine(answer) else answer)
        if word == "stop":
            await asyncio.sleep(0.2)
            return
