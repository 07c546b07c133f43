"""Real couriers: the transport, and the courier's own receiver, inbox and cursor, in temporary folders, each in its own thread."""

import contextlib
import logging
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from agent.courier.nats import NatsSettings, NatsTransport
from agent.courier.receiving import Drop, Receiver
from agent.courier.settings import Limits
from agent.courier.state import CursorFile
from agent.courier.status import Status
from agent.courier.transport import Record
from agent.courier.waiting import Bell
from agent.errors import CourierError

LIMITS = Limits(tokens_per_minute=100_000, inbox_files=100_000, inbox_bytes=1 << 30)


class TimedDrop(Drop):
    """The courier's inbox, with a watch beside it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, LIMITS)
        self.latencies_ms: list[tuple[float, float]] = []  # from the push to its being received, and to its being durable

    def put(self, ident: int, token: bytes) -> str:
        pushed, received = int(token[:20]), time.monotonic_ns()
        name = super().put(ident, token)
        self.latencies_ms.append(((received - pushed) / 1e6, (time.monotonic_ns() - pushed) / 1e6))
        return name


class RealCourier:
    """One host's courier, without the daemon that would empty its inbox."""

    def __init__(self, settings: NatsSettings, folder: Path) -> None:
        self.token, self.inbox = settings.token, folder / "inbox"
        self.inbox.mkdir(parents=True)
        self.transport = NatsTransport(settings)
        self._stop, bell = threading.Event(), Bell()
        status = Status(folder / "status.json", folder, "nats", "fleet")
        self.drop, cursor = TimedDrop(self.inbox), CursorFile(folder / "cursor.json")
        self.receiver = Receiver(self.transport, self.drop, cursor, status, LIMITS, self._stop, bell)
        self._thread = threading.Thread(target=self.receiver.run, daemon=True)
        self._thread.start()

    def inbox_tokens(self) -> dict[int, bytes]:
        """Id → bytes of what is there, whole."""
        return {int(path.name[:20]): path.read_bytes() for path in self.inbox.glob("[0-9]*.jws")}

    def send(self, records: list[Record]) -> int:
        """Until all are acked, over as many connections as it takes. Returns how often it had to try."""
        left, tries = records, 0
        until = time.monotonic() + 60
        while left and time.monotonic() < until:
            tries += 1
            with contextlib.suppress(CourierError):
                acked = self.transport.send(left).acked
                left = [record for record in left if record.key not in acked]
            if left:
                time.sleep(0.2)
        if left:
            raise TimeoutError(f"{len(left)} records of {self.token} were not taken")
        return tries

    def close(self) -> None:
        self._stop.set()
        self.transport.close()
        self._thread.join(10)


def main(pipe: Connection, settings: list[NatsSettings], folder: Path) -> None:
    """The process: words as in tests.fleet.crowd."""
    logging.getLogger().setLevel(logging.ERROR)  # that the server is killed is known
    couriers = {each.token: RealCourier(each, folder / each.token) for each in settings}
    while True:
        try:
            word, value = pipe.recv()
        except EOFError:
            word = "stop"
        if word == "lacking":  # {token: {id: bytes}}; byte for byte
            found = {token: courier.inbox_tokens() for token, courier in couriers.items()}
            pipe.send(sum(found[token].get(ident) != data for token, pushed in value.items() for ident, data in pushed.items()))
        elif word == "latencies":
            pipe.send([pair for courier in couriers.values() for pair in courier.drop.latencies_ms])
        elif word == "records":
            made = 0
            for token, courier in couriers.items():
                made += len(records := [Record(f"{token[:10]}:real:{value}:{number}", "event", "x" * 300) for number in range(200)])
                courier.send(records)
            pipe.send(made)
        else:
            for courier in couriers.values():
                courier.close()
            with contextlib.suppress(OSError):
                pipe.send(None)
            return
