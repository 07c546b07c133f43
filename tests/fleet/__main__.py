"""`python -m tests.fleet`: push, memory, ingest and a reconnect storm on one nats-server; ends with one JSON line."""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from nats.aio.client import Client

from examples.control_plane.nats import Fleet, PushError
from tests.fleet.stage import Stage, Worker, cpu_s, pss_kib, stage
from tests.nats.server import binary, version

TOKEN_BYTES = 1500  # a grant's length
SETTLE_S = 3.0
PUSHES_S = 200  # a second


class Run:
    """One run: what was pushed, and what came of it."""

    def __init__(self, at: Stage, arguments: argparse.Namespace) -> None:
        self._at, self._arguments = at, arguments
        self._pushed: dict[str, dict[int, bytes]] = {}
        self._next: dict[str, int] = {}
        self._began = time.monotonic()
        self._random = random.Random(arguments.seed)
        self._records = 0
        self.figures: dict[str, Any] = {"hosts": arguments.hosts}

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", file=sys.stderr, flush=True)

    async def all(self) -> None:
        """Every phase, in order."""
        async with self._control() as fleet:
            await fleet.prepare()
            before = pss_kib(self._at.server.pid)
            self._crowds = self._at.crowd(2)
            self._couriers = self._at.couriers()
            self._intake = self._at.intake()
            await self._connect(before)
            await self._idle()
            await self._push(fleet)
            await self._ingest()
        await self._storm()
        await self._judge()

    # Phases

    async def _connect(self, before: int) -> None:
        began = time.monotonic()
        there = sum(await self._each("connect"))
        if there < len(self._at.simulated):
            raise SystemExit(
                f"fleet: only {there} of {len(self._at.simulated)} simulated hosts connected: {await self._each('seen')}"
            )
        await asyncio.sleep(SETTLE_S)
        after = pss_kib(self._at.server.pid)
        self.figures["broker_kib_per_host"] = round((after - before) / self._arguments.hosts, 1)
        self.say(
            f"{self._arguments.hosts} hosts connected, {len(self._at.real)} of them real couriers, in "
            f"{time.monotonic() - began - SETTLE_S:.1f} s; broker {before} -> {after} KiB PSS, "
            f"{self.figures['broker_kib_per_host']} KiB a host"
        )

    async def _idle(self) -> None:
        began, used = time.monotonic(), cpu_s(self._at.server.pid)
        await asyncio.sleep(5)
        share = (cpu_s(self._at.server.pid) - used) / (time.monotonic() - began)
        self.say(f"idle: {share:.1%} of one processor")

    async def _push(self, fleet: Fleet) -> None:
        """Tokens to hosts at random, at a steady rate, and a few to every real courier."""
        targets = [self._random.choice(self._at.simulated) for _ in range(self._arguments.pushes)]
        for token in self._at.real * 10:
            targets.insert(self._random.randrange(len(targets)), token)
        took: list[float] = []
        tasks: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        for number, token in enumerate(targets):
            await asyncio.sleep(max(0.0, began + number / PUSHES_S - time.monotonic()))
            task = asyncio.create_task(self._push_one(fleet, token, took))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        await asyncio.sleep(1)
        latencies = sorted(ms for part in await self._each("latencies") for ms in part)
        pairs = await asyncio.to_thread(self._couriers.ask, "latencies")
        received, durable = (sorted(pair[part] for pair in pairs) for part in (0, 1))
        self.figures["push_p50_ms"], self.figures["push_p99_ms"] = (round(_at(latencies, share), 2) for share in (0.5, 0.99))
        self.say(f"{len(latencies)} live pushes at {PUSHES_S}/s: {_spread(latencies)}")
        self.say(f"{len(durable)} to real couriers: received {_spread(received)}; fsynced into the inbox {_spread(durable)}")
        self.say(f"push() returned after {statistics.median(took):.2f} ms: token and index stored")

    async def _ingest(self) -> None:
        """Batches of 64 KiB from many hosts at once, each tenth sent twice."""
        hosts = min(32, len(self._at.simulated) // 2)
        made = sum(await self._each("records", (hosts, self._arguments.batches, 1)))
        self._records += made
        began = time.monotonic()
        await self._each("send")
        while sum(await self._each("unsent")):
            await asyncio.sleep(0.05)
            self._late(began, 120, "batches are not acknowledged")
        stored = time.monotonic() - began
        self.figures["ingest_records_s"] = round(made / stored)
        self._records += await asyncio.to_thread(self._couriers.ask, "records", 1)
        taken = await self._taken_in(120)
        self.say(
            f"ingest: {made} records in batches of 64 KiB from {hosts * len(self._crowds)} hosts, stored and acknowledged at "
            f"{self.figures['ingest_records_s']}/s; taken in by one Python process at {made / (taken['at'] - began):.0f}/s"
        )

    async def _storm(self) -> None:
        """The server is killed and started again; tokens are pushed while the hosts come back, and records wait."""
        self._records += sum(await self._each("records", (8, 5, 2)))
        await self._each("send")
        self._at.server.kill()
        began = time.monotonic()
        while any(await self._each("ready")):
            await asyncio.sleep(0.02)
            self._late(began, 60, "hosts do not see that the server is gone")
        await asyncio.sleep(self._arguments.down)
        self._at.server.start()
        back = time.monotonic()
        async with self._control() as fleet:
            await fleet.prepare()
            sending = asyncio.create_task(asyncio.to_thread(self._couriers.ask, "records", 2))
            pushing = asyncio.create_task(self._push_in_the_storm(fleet))
            most: dict[str, float] = {}
            while (there := sum(await self._each("ready"))) < len(self._at.simulated):
                self._late(back, 240, f"only {there} hosts came back")
                for share in (0.5, 0.9, 0.99):
                    if there >= share * len(self._at.simulated):
                        most.setdefault(f"{share:.0%}", round(time.monotonic() - back, 1))
                await asyncio.sleep(0.1)
            self.figures["storm_s"] = round(time.monotonic() - back, 1)
            await pushing
            self._records += await sending
            self.say(f"all hosts are connected again, {self.figures['storm_s']} s after the restart; {most} (s)")
            while (lacking := await self._lacking()) and time.monotonic() - back < 120:
                await asyncio.sleep(0.2)
            self.say(
                f"storm: killed, down for {self._arguments.down} s; all hosts back {self.figures['storm_s']} s after the restart, "
                f"all tokens there after {time.monotonic() - back:.1f} s ({lacking} lacking)"
            )
            await self._each("latencies")

    async def _judge(self) -> None:
        began = time.monotonic()
        while sum(await self._each("unsent")) and time.monotonic() - began < 60:
            await asyncio.sleep(0.1)
        taken = await self._taken_in(60)
        lacking, lost = await self._lacking(), self._records - taken["unique"]
        self.figures["missed"], self.figures["doubled"] = lacking + lost, taken["records"] - taken["unique"]
        seen = await self._each("seen")
        pushed = sum(map(len, self._pushed.values()))
        self.say(
            f"{pushed} tokens pushed, {lacking} lacking, {sum(each['doubled'] for each in seen)} handed on twice; "
            f"{self._records} records, {lost} lacking, {self.figures['doubled']} came twice, {taken['bad']} bad; errors "
            f"{[each['errors'] for each in seen]} {taken['broken']}"
        )

    # Help

    async def _each(self, word: str, value: object = None) -> list[Any]:
        for worker in self._crowds:
            worker.tell(word, value)
        return [await asyncio.to_thread(worker.answer) for worker in self._crowds]

    async def _push_one(self, fleet: Fleet, token: str, took: list[float]) -> None:
        self._next[token] = ident = self._next.get(token, 0) + 1
        began = time.monotonic_ns()
        data = b"%020d" % began + self._random.randbytes(TOKEN_BYTES // 2).hex().encode()
        for tries_left in (2, 1, 0):
            try:
                await fleet.push(token, ident, data)
                break
            except PushError:
                if not tries_left:
                    raise
                await asyncio.sleep(0.5)
        self._pushed.setdefault(token, {})[ident] = data
        took.append((time.monotonic_ns() - began) / 1e6)

    async def _push_in_the_storm(self, fleet: Fleet) -> None:
        count = min(len(self._at.simulated), self._arguments.pushes // 2)
        for token in [*self._random.sample(self._at.simulated, count), *self._at.real]:
            await self._push_one(fleet, token, [])

    async def _lacking(self) -> int:
        simulated = {token: list(pushed) for token, pushed in self._pushed.items()}
        real = {token: self._pushed[token] for token in self._at.real if token in self._pushed}
        return int(sum(await self._each("lacking", simulated))) + int(await asyncio.to_thread(self._couriers.ask, "lacking", real))

    async def _taken_in(self, timeout: float) -> dict[str, Any]:
        """Wait until every record was taken in, or until then."""
        until = time.monotonic() + timeout
        while True:
            taken: dict[str, Any] = await asyncio.to_thread(self._intake.ask, "count")
            if taken["unique"] >= self._records or time.monotonic() > until or taken["broken"]:
                return taken
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def _control(self) -> Any:
        client = Client()
        await client.connect(self._at.url, allow_reconnect=False, **self._at.client_options())
        try:
            yield Fleet(client)
        finally:
            with contextlib.suppress(Exception):
                await client.close()

    def _late(self, began: float, most: float, what: str) -> None:
        if time.monotonic() - began > most:
            raise SystemExit(f"fleet: {what} after {most:.0f} s")

    _crowds: Sequence[Worker]
    _couriers: Worker
    _intake: Worker


def _spread(values: Sequence[float]) -> str:
    return f"p50 {_at(values, 0.5):.2f} ms, p99 {_at(values, 0.99):.2f} ms, worst {_at(values, 1):.2f} ms"


def _at(values: Sequence[float], share: float) -> float:
    """The value below which that share of the sorted values lies; 0 for none."""
    if not values:
        return 0.0
    return values[min(len(values) - 1, int(len(values) * share))]


def main() -> int:
    """0 when nothing was missed, 1 when something was, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, default=5000, help="hosts in all (default 5000)")
    parser.add_argument("--real", type=int, default=20, help="real couriers among them (default 20)")
    parser.add_argument(
        "--pushes", type=int, default=4000, help="tokens pushed before the storm; half as many in it (default 4000)"
    )
    parser.add_argument("--batches", type=int, default=40, help="batches of 64 KiB from each of 64 hosts (default 40)")
    parser.add_argument("--down", type=float, default=5.0, help="seconds that the server is down in the storm (default 5)")
    parser.add_argument("--tls", action="store_true", help="mutual TLS, a certificate for each host")
    parser.add_argument("--sync", action="store_true", help="JetStream syncs before it acknowledges (nats-server 2.10 or later)")
    parser.add_argument("--quick", action="store_true", help="300 hosts and a tenth of the rest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="nothing but the last line on the standard output (it is so anyway)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.hosts, arguments.pushes, arguments.batches, arguments.down = 300, 400, 4, 1.0
    if not 0 <= arguments.real < arguments.hosts - 1:
        parser.error("--real must be fewer than --hosts")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is cleaned up
    with stage(arguments.hosts, arguments.real, tls=arguments.tls, sync=arguments.sync) as made:
        run = Run(made, arguments)
        run.say(f"nats-server {version(binary())}, {arguments.hosts} hosts, {'mutual TLS' if arguments.tls else 'no TLS'}")
        asyncio.run(asyncio.wait_for(run.all(), 1200))
    order = ("hosts", "push_p50_ms", "push_p99_ms", "broker_kib_per_host", "ingest_records_s", "missed", "doubled")
    print(json.dumps({name: run.figures[name] for name in order}), flush=True)
    return 1 if run.figures["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
