"""What goes out: the trail where it grows, the outbox as files, recordings while they grow. The other side is in this process."""

import json
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from agent.audit.event import AuditEvent, EventKind
from agent.audit.objects import HostIdentity
from agent.audit.trail import Trail
from agent.courier import ndjson
from agent.courier.events import Events
from agent.courier.recordings import Marks, Shipper
from agent.courier.records import Outgoing, Sender
from agent.courier.transport import BATCH_MAX, BATCH_RECORDS_MAX, PIECE_MAX, RECORD_MAX, Acked, Cursor, Received, Record, Renewed
from agent.courier.waiting import Bell
from agent.errors import CourierError
from agent.host.clock import RealClock
from tests.unit.courier_kit import RECORDING, Ground, ground, wait_for

__all__ = ["ground"]


class Memory:
    """A transport that keeps what it is given, or misbehaves by ``fails``."""

    def __init__(self) -> None:
        self.kept: dict[str, Record] = {}
        self.batches: list[list[str]] = []
        self.refuse: dict[str, str] = {}
        self.ignore: set[str] = set()
        self.poison: set[str] = set()
        self.fails: list[str] = []
        self.recordings: dict[str, bytes] = {}
        self.complete: set[str] = set()
        self.says: Callable[[int], int] = lambda size: size
        self.pieces: list[tuple[str, int, int]] = []

    def receive(self, cursor: Cursor, stop: threading.Event) -> Iterator[Received]:
        raise NotImplementedError

    def send(self, records: Sequence[Record]) -> Acked:
        if self.fails:
            raise CourierError(self.fails.pop(0), "a fault")
        assert len(ndjson.lines(records)) <= BATCH_MAX
        assert len(records) <= BATCH_RECORDS_MAX
        keys = [record.key for record in records]
        self.batches.append(keys)
        if self.poison & set(keys):
            raise CourierError("courier_refused", "status 400")
        refused = {key: self.refuse[key] for key in keys if key in self.refuse}
        taken = [record for record in records if record.key not in refused and record.key not in self.ignore]
        self.kept |= {record.key: record for record in taken}
        return Acked(frozenset(record.key for record in taken), refused)

    def recording_size(self, ident: str) -> int:
        return self.says(len(self.recordings.get(ident, b"")))

    def send_recording(self, ident: str, offset: int, data: bytes, *, complete: bool) -> int:
        if self.fails:
            raise CourierError(self.fails.pop(0), "a fault")
        assert len(data) <= PIECE_MAX
        kept = self.recordings.get(ident, b"")
        self.pieces.append((ident, offset, len(data)))
        if offset == len(kept):
            self.recordings[ident] = kept + data
            if complete:
                self.complete.add(ident)
        return self.says(len(self.recordings.get(ident, b"")))

    def renew(self, csr: str) -> Renewed:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to hang up."""


class Bench:
    """Outbox and trail with what carries them."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.other = Memory()
        self.stop, self.bell = threading.Event(), Bell()
        self.anew()

    def anew(self) -> None:
        """As a courier that was just started."""
        ground = self.ground
        self.status = ground.status()
        self.events = Events(ground.places.outbox, ground.places.folder / "events.json", self.status.lost)
        outgoing = Outgoing(ground.places.outbox, self.events, self.status)
        self.sender = Sender(self.other, outgoing, ground.places.outbox, self.status, self.stop, self.bell)

    def carry(self) -> None:
        """Until there is nothing to carry."""
        for _ in range(200):
            if not self.sender.carry():
                return
        raise AssertionError("it goes on and on")

    def losses(self) -> dict[str, int]:
        """What is told as lost."""
        self.status.write(force=True)
        found: dict[str, int] = self.ground.said()["losses"]
        return found

    def sequences(self) -> list[int]:
        """The numbers of the events that the other side keeps."""
        events = (json.loads(ndjson.line(record))["body"] for record in self.other.kept.values() if record.kind == "event")
        return sorted(event["metadata"]["sequence"] for event in events)


@pytest.fixture
def bench(ground: Ground) -> Bench:
    return Bench(ground)


# The trail


def test_the_growing_file_is_tailed_and_left_alone_and_half_a_line_waits(bench: Bench, ground: Ground) -> None:
    current = ground.places.outbox / "events.ndjson"
    ground.events(1, 3)
    bench.carry()
    with current.open("a") as file:
        file.write('{"metadata": {"uid": "u4", ')
    bench.carry()
    assert bench.sequences() == [1, 2, 3]
    with current.open("a") as file:
        file.write('"sequence": 4}}\n')
    bench.carry()
    assert bench.sequences() == [1, 2, 3, 4]
    assert len(current.read_text().splitlines()) == 4
    assert sum(map(len, bench.other.batches)) == 4
    assert bench.losses() == {}


def test_a_rotation_loses_and_repeats_nothing_and_what_is_carried_goes(bench: Bench, ground: Ground) -> None:
    current = ground.places.outbox / "events.ndjson"
    ground.events(1, 3)
    bench.carry()
    ground.events(4, 5)
    current.rename(ground.places.outbox / "events.000000000005.ndjson")
    bench.carry()
    assert (ground.places.outbox / "events.000000000005.ndjson").exists()  # the newest number stays until there is a newer event
    ground.events(6, 7)
    bench.carry()
    bench.carry()
    assert bench.sequences() == [1, 2, 3, 4, 5, 6, 7]
    assert [path.name for path in ground.places.outbox.iterdir()] == ["events.ndjson"]
    assert len([key for batch in bench.other.batches for key in batch]) == 7
    assert bench.losses() == {}


def test_the_place_is_known_again_after_a_restart(bench: Bench, ground: Ground) -> None:
    ground.events(1, 500)
    bench.carry()
    bench.anew()
    ground.events(501, 502)
    bench.carry()
    assert bench.other.batches[-1] == ["uid-501", "uid-502"]


def test_files_that_were_dropped_before_they_were_carried_are_told(bench: Bench, ground: Ground) -> None:
    ground.events(1, 3)
    bench.carry()
    ground.events(9, 10)
    bench.carry()
    assert bench.losses() == {"events": 5}
    bench.anew()
    bench.carry()
    assert bench.losses() == {"events": 5}  # once, and over a restart


def test_another_file_with_the_same_inode_is_read_from_its_beginning(bench: Bench, ground: Ground) -> None:
    current = ground.places.outbox / "events.ndjson"
    ground.events(1, 30)
    bench.carry()
    current.write_text("")  # the same inode, other bytes: as a number that was given away again
    ground.events(31, 90)
    bench.carry()
    assert bench.sequences() == list(range(1, 91))
    assert bench.losses() == {}


def test_lines_that_cannot_be_read_are_told_and_hold_up_nobody(bench: Bench, ground: Ground) -> None:
    old = ground.places.outbox / "events.000000000003.ndjson"
    long = json.dumps({"metadata": {"uid": "long", "sequence": 3}, "x": "y" * RECORD_MAX})
    old.write_text("junk\n[1]\n" + "[" * 70_000 + "\n" + "z" * 2_000_000 + "\n" + long + '\n{"metadata"')
    ground.events(4, 5)
    bench.carry()
    assert bench.sequences() == [4, 5]
    losses = bench.losses()
    assert losses.pop("events_unreadable") + losses.pop("events_too_long", 0) == 5
    assert losses == {"events_torn": 1}


def test_the_agents_own_trail_is_carried_whole_over_its_rotations(bench: Bench, ground: Ground) -> None:
    trail = Trail(
        ground.places.outbox, HostIdentity.of_this_host("urn:test", "1"), RealClock(), file_bytes=20_000, tell=lambda *_: None
    )
    draw = random.Random(3)
    for number in range(300):
        trail.emit([AuditEvent(EventKind.GRANT_ACCEPTED, 10**18 + number, jti=f"g-{number}") for _ in range(draw.randint(1, 3))])
        if draw.random() < 0.2:
            bench.carry()
        if draw.random() < 0.05:
            bench.anew()
    bench.carry()
    found = bench.sequences()
    assert found == list(range(1, len(found) + 1)) and len(found) > 300
    assert bench.losses() == {}


def test_links_and_fifos_in_the_outbox_are_not_followed(bench: Bench, ground: Ground, tmp_path: Path) -> None:
    outbox = ground.places.outbox
    (tmp_path / "secret").write_text('{"metadata": {"sequence": 1}}\n')
    (outbox / "events.ndjson").symlink_to(tmp_path / "secret")
    (outbox / "20261122T000000.000000001Z-receipt-link.jws").symlink_to(tmp_path / "secret")
    os.mkfifo(outbox / "20261122T000000.000000002Z-receipt-fifo.jws")
    bench.carry()
    assert not bench.other.kept
    assert bench.losses() == {"files_left": 2}


# Answers and receipts


def test_what_is_acked_goes_what_is_refused_is_told_and_the_rest_comes_again(bench: Bench, ground: Ground) -> None:
    names = [ground.receipt(number) for number in range(1, 5)]
    answer = ground.places.outbox / "20261122T000000.000000009Z-answer-a.json"
    answer.write_text('{"verdict": "accepted"}')
    bench.other.refuse = {names[1]: "bad_signature"}
    bench.other.ignore = {names[2]}
    assert bench.sender.carry()
    assert [path.name for path in sorted(ground.places.outbox.iterdir())] == [names[2]]
    assert bench.losses() == {"records_refused": 1}
    assert bench.other.kept[answer.name].body == {"verdict": "accepted"}
    assert bench.other.kept[names[0]].body == "eyJ"
    with pytest.raises(CourierError, match="courier_unacknowledged"):
        bench.sender.carry()
    bench.other.ignore.clear()
    bench.carry()
    assert not list(ground.places.outbox.iterdir())


def test_batches_stay_within_their_bounds(bench: Bench, ground: Ground) -> None:
    for number in range(1, 31):
        ground.receipt(number, "x" * 100_000)
    ground.events(1, 2500)
    bench.carry()
    assert len(bench.other.kept) == 2530
    assert max(map(len, bench.other.batches)) == BATCH_RECORDS_MAX


def test_a_record_that_is_too_long_stays_and_holds_up_no_other(bench: Bench, ground: Ground) -> None:
    long = ground.receipt(1, "x" * RECORD_MAX)
    ground.receipt(2)
    bench.carry()
    assert [path.name for path in ground.places.outbox.iterdir()] == [long]
    assert bench.losses() == {"files_left": 1}


def test_one_record_that_makes_the_other_side_refuse_a_batch_is_found_and_told(bench: Bench, ground: Ground) -> None:
    names = [ground.receipt(number) for number in range(1, 21)]
    bench.other.poison = {names[13]}
    for _ in range(100):
        try:
            if not bench.sender.carry():
                break
        except CourierError:
            continue
    assert set(bench.other.kept) == set(names) - {names[13]}
    assert bench.losses() == {"records_refused": 1}


def test_events_are_acknowledged_as_far_as_they_were_kept(bench: Bench, ground: Ground) -> None:
    ground.events(1, 10)
    bench.other.ignore = {"uid-4"}
    bench.sender.carry()
    bench.anew()
    bench.other.ignore = set()
    bench.carry()
    assert bench.other.batches[-1][0] == "uid-4"
    assert bench.sequences() == list(range(1, 11))


# Recordings


class Ship:
    """The shipper in a thread of its own."""

    def __init__(self, ground: Ground, other: Memory) -> None:
        self.stop, self.bell, self.status = threading.Event(), Bell(), ground.status()
        marks = Marks(ground.places.shipped)
        self.shipper = Shipper(other, ground.places.sessions, marks, self.status, self.stop, self.bell)
        self.thread = threading.Thread(target=self.shipper.run, daemon=True)

    def __enter__(self) -> "Ship":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.bell.ring()
        self.thread.join(5)
        assert not self.thread.is_alive()


def path_of(ground: Ground, ident: str = RECORDING, suffix: str = ".tgr") -> Path:
    return ground.places.sessions / f"{ident}{suffix}"


def test_a_recording_resumes_from_what_the_other_side_has(ground: Ground) -> None:
    other, data = Memory(), os.urandom(2_500_000)
    other.recordings[RECORDING] = data[:1_234_567]
    path_of(ground).write_bytes(data)
    with Ship(ground, other):
        wait_for((ground.places.shipped / RECORDING).exists)
    assert other.recordings[RECORDING] == data
    assert other.pieces[0][1] == 1_234_567
    assert other.complete == {RECORDING}
    with Ship(ground, other):  # marked: it is not asked for again
        before = len(other.pieces)
        path_of(ground, "r-20261122T000001-00000001").write_bytes(b"x")
        wait_for(lambda: "r-20261122T000001-00000001" in other.complete)
    assert {ident for ident, _, _ in other.pieces[before:]} == {"r-20261122T000001-00000001"}


def test_one_that_runs_is_carried_within_a_second_and_not_marked_before_its_end(ground: Ground) -> None:
    other = Memory()
    path_of(ground, suffix=".open").touch()
    path_of(ground).write_bytes(b"")
    with Ship(ground, other):
        for number in range(4):
            with path_of(ground).open("ab") as file:
                file.write(b"x" * 1000)
            wait_for(lambda size=1000 * (number + 1): len(other.recordings.get(RECORDING, b"")) == size, 1.0)  # type: ignore[misc]  # each round its own
        assert not other.complete
        path_of(ground, suffix=".open").unlink()
        wait_for((ground.places.shipped / RECORDING).exists, 1.0)


@pytest.mark.parametrize("lie", [10**12, -1])
def test_a_size_that_is_a_lie_marks_nothing_and_goes_round_no_loop(ground: Ground, lie: int) -> None:
    other = Memory()
    other.says = lambda size: lie if lie > 0 else 0
    path_of(ground).write_bytes(b"x" * 1000)
    with Ship(ground, other) as ship:
        wait_for(lambda: "courier_protocol" in str(ground.said()) or ship.status.write(force=True))
        assert len(other.pieces) < 5
    assert not list(ground.places.shipped.iterdir())


def test_one_that_is_refused_holds_up_no_other(ground: Ground) -> None:
    other = Memory()
    other.fails = ["courier_refused"]
    for number in range(3):
        path_of(ground, f"r-20261122T00000{number}-00000000").write_bytes(b"x")
    with Ship(ground, other):
        wait_for(lambda: len(other.complete) == 2)


def test_one_that_was_removed_before_it_was_carried_is_told_and_its_mark_goes_with_it(ground: Ground) -> None:
    other = Memory()
    path_of(ground, suffix=".open").touch()
    path_of(ground).write_bytes(b"x" * 10)
    done = "r-20261122T000001-00000001"
    path_of(ground, done).write_bytes(b"x")
    with Ship(ground, other) as ship:
        wait_for(lambda: done in other.complete and other.recordings.get(RECORDING))
        wait_for((ground.places.shipped / done).exists)
        path_of(ground).unlink()
        path_of(ground, done).unlink()
        wait_for(lambda: not (ground.places.shipped / done).exists())
        wait_for(lambda: ship.status.write(force=True) == 0 and ground.said()["losses"] == {"recordings": 1})


def test_names_that_are_no_recordings_are_left_alone(ground: Ground, tmp_path: Path) -> None:
    other = Memory()
    (tmp_path / "secret").write_text("x")
    path_of(ground).symlink_to(tmp_path / "secret")
    path_of(ground, "evil").write_bytes(b"x")
    path_of(ground, "r-20261122T000001-00000001").write_bytes(b"x")
    with Ship(ground, other):
        wait_for(lambda: other.complete)
    assert set(other.recordings) == {"r-20261122T000001-00000001"}
