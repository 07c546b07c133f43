"""Metrics: what is told is what was so, in text that Prometheus's own parser reads; bounded, and never what stands still."""

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.audit import AuditEvent, EventKind, HostIdentity, Trail
from agent.audit.tally import Tally
from agent.cli import courier_metrics, metrics
from agent.cli.main import main
from agent.config import Config, Paths
from agent.control import metrics as daemon_metrics
from agent.control.handlers import Handlers
from agent.control.server import Peer
from agent.courier.status import Status
from agent.errors import HostError
from agent.expiry import recordings, story
from agent.expiry.shut import Shut
from agent.host import clock as clocks
from agent.host.clock import NS, FakeClock
from agent.journal import EndCause
from agent.journal.records import HeldBulletin
from agent.model.measures import CONTENT_TYPE, Family, Histogram, Sample, exposition
from tests.unit.expiry_kit import live
from tests.unit.lifecycle_kit import ISSUER, KEY, World

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
PEER = cast(Peer, SimpleNamespace(uid=0, pid=1, gid=0))


def read(text: str) -> Series:
    """As Prometheus has it: (sample's name, labels) → value. A series that comes twice fails."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    found.start()
    yield found
    found.close()


def asked(world: World, *, problems: int = 0) -> Series:
    """What the daemon answers over its socket."""
    handlers = Handlers(world.pipeline, lambda: ["a problem"] * problems)
    answer: Any = handlers.table()["metrics"](PEER, {"format": "text"})
    assert answer["content_type"] == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    assert isinstance(answer["text"], str)
    return read(answer["text"])


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def grant(world: World, jti: str, login: str, **more: Any) -> None:
    entries: list[dict[str, Any]] = [{"type": "account", "identifier": login}, {"type": "ssh", "identifier": login, "keys": [KEY]}]
    assert world.refusal(world.sign(jti, entries, **more)) is None


# The text


@given(
    st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True), st.text(max_size=20), max_size=3),
    st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)),
    st.text(max_size=20).filter(lambda said: "\r" not in said),
)
def test_whatever_a_label_holds_it_is_read_back_and_adds_no_line(labels: dict[str, str], number: float, said: str) -> None:
    text = exposition([Family("a_total", "counter", said, (Sample(number, tuple(labels.items())),))])
    assert len(text.split("\n")) == 4 and text.endswith("\n")
    (family,) = text_string_to_metric_families(text)
    assert [(found.name, found.labels, found.value) for found in family.samples] == [("a_total", labels, number)]


def test_a_histogram_counts_up_to_each_bound_and_its_sum_never_falls() -> None:
    subject = Histogram((0.1, 1))
    for seconds in (0.05, 0.1, 0.10001, 1, 5, -3):
        subject.observe(seconds)
    found = read(exposition([Family("a", "histogram", "", subject.samples())]))
    buckets = {dict(labels)["le"]: count for (name, labels), count in found.items() if name == "a_bucket"}
    assert buckets == {"0.1": 3, "1": 5, "+Inf": 6}, "a bound is part of its bucket"
    assert value(found, "a_count") == 6
    assert value(found, "a_sum") == pytest.approx(6.25001)


def test_a_family_without_a_sample_is_not_named_and_one_goes_over_the_socket_unchanged() -> None:
    assert exposition([Family("a", "gauge", "nothing known", ())]) == ""
    family = Family(
        "a", "histogram", "x", (Sample(1, (("le", "+Inf"),), "_bucket"), Sample(0.5, (), "_sum"), Sample(1, (), "_count"))
    )
    assert Family.from_json(json.loads(json.dumps(family.to_json()))) == family


@pytest.mark.parametrize(
    "junk", [{}, {"samples": 1}, {"samples": [1]}, {"samples": [{"labels": {}, "value": "1", "suffix": ""}]}, {"samples": []}]
)
def test_an_answer_of_another_shape_is_an_error(junk: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Family.from_json(junk)


# The daemon's


def test_the_life_of_grants_is_counted(world: World) -> None:
    before = asked(world)
    assert value(before, "tidegate_grants_opened_total") == 0
    assert value(before, "tidegate_grants_ended_total", cause="revoked") == 0, "there before the first, so that it is a change"
    grant(world, "g-1", "jit-a")
    grant(world, "g-2", "jit-b", starts_s=600)
    found = asked(world, problems=2)
    assert value(found, "tidegate_problems") == 2
    assert value(found, "tidegate_grants_accepted_total") == 2
    assert value(found, "tidegate_grants_opened_total") == 1
    assert value(found, "tidegate_opening_duration_seconds_count") == 1
    states = {dict(labels)["state"]: count for (name, labels), count in found.items() if name == "tidegate_grants"}
    assert states == {"pending": 1, "opening": 0, "open": 1, "draining": 0, "suspended": 0, "shutting": 0}
    assert value(found, "tidegate_grants_unbacked") == 1, "this host has no systemd"
    world.clock.advance(601.25)
    assert value(asked(world), "tidegate_grants_overdue") == 1, "nobody has looked yet"
    world.tick()
    found = asked(world)
    assert value(found, "tidegate_grants_overdue") == 0
    assert value(found, "tidegate_grants_ended_total", cause="expired") == 1
    assert value(found, "tidegate_teardown_lateness_seconds_count") == 1
    assert value(found, "tidegate_teardown_lateness_seconds_sum") == pytest.approx(1.25, abs=0.002)
    assert value(found, "tidegate_teardown_lateness_seconds_bucket", le="1") == 0
    assert value(found, "tidegate_teardown_lateness_seconds_bucket", le="2.5") == 1
    assert value(found, "tidegate_events_total", kind="teardown.late") == 1
    assert value(found, "tidegate_outbox_files", kind="receipt") == 1
    assert value(found, "tidegate_outbox_bytes", kind="receipt") > 100
    assert value(found, "tidegate_audit_written_total") == sum(
        count for (name, _), count in found.items() if name == "tidegate_events_total"
    )


def test_a_grant_that_will_not_end_is_seen_while_it_is_so(world: World) -> None:
    grant(world, "g-1", "jit-a")
    (live,) = world.pipeline.ledger.all()
    pid = world.process_of(live.uids["jit-a"], immortal=True)
    world.clock.advance(601)
    world.tick()
    found = asked(world, problems=1)
    assert value(found, "tidegate_grants_stuck") == 1
    assert value(found, "tidegate_grants_overdue") == 1
    assert value(found, "tidegate_problems") == 2
    assert value(found, "tidegate_events_total", kind="teardown.retry") >= 1
    world.table.immortal.discard(pid)
    world.clock.advance(61)
    world.tick()
    found = asked(world)
    assert value(found, "tidegate_grants_stuck") == value(found, "tidegate_grants_overdue") == 0
    assert value(found, "tidegate_teardown_lateness_seconds_bucket", le="+Inf") == 1, "once, by when it was over"
    assert value(found, "tidegate_teardown_lateness_seconds_sum") > 60


def test_no_grant_makes_a_series_of_its_own(world: World) -> None:
    """A month of grants costs Prometheus what one does."""
    grant(world, "g-0", "jit-a")
    world.clock.advance(700)
    world.tick()
    before = asked(world)
    for number in range(1, 8):
        grant(world, f"g-{number}", f"jit-{'abcdefgh'[number]}", sub=f"person-{number}@example.com", reason=f"why {number}")
    during = asked(world)
    world.clock.advance(700)
    world.tick()
    after = asked(world)
    assert before.keys() == during.keys() == after.keys()
    assert value(after, "tidegate_grants_ended_total", cause="expired") == 8
    said = " ".join(f"{name}{labels}" for name, labels in after)
    assert not any(word in said for word in ("g-0", "g-7", "jit-", "person", "alice"))


def test_a_clock_that_is_set_and_a_bulletin_of_a_trusted_issuer_are_seen(world: World) -> None:
    now_s = world.clock.wall_ns() // NS
    freshness = world.pipeline.ledger.freshness
    for iss in (ISSUER, "https://once-trusted.example"):
        freshness.take(
            HeldBulletin(iss, 1, now_s, now_s + 300, world.clock.wall_ns(), world.clock.boot_id(), world.clock.boot_ns())
        )
    world.clock.advance(100)
    assert value(asked(world), "tidegate_clock_shift_seconds") == 0
    world.clock.step(-3600)
    found = asked(world)
    assert value(found, "tidegate_clock_shift_seconds") == -3600
    assert value(found, "tidegate_bulletin_expiry_timestamp_seconds", issuer=ISSUER) == now_s + 300
    assert [labels for name, labels in found if name == "tidegate_bulletin_expiry_timestamp_seconds"] == [(("issuer", ISSUER),)]


def test_an_inbox_that_cant_be_read_leaves_the_rest_to_be_told(world: World) -> None:
    assert value(asked(world), "tidegate_inbox_files") == 0
    (world.path / "inbox/a.jwt").write_text("x")
    assert value(asked(world), "tidegate_inbox_files") == 1
    (world.path / "inbox").rename(world.path / "gone")
    found = asked(world)
    assert ("tidegate_inbox_files", ()) not in found
    assert value(found, "tidegate_grants", state="open") == 0


def test_every_metric_of_the_catalogue_follows_prometheus_conventions() -> None:
    every = {**daemon_metrics.CATALOGUE, **metrics.CATALOGUE, **courier_metrics.CATALOGUE}
    assert len(every) == len(daemon_metrics.CATALOGUE) + len(metrics.CATALOGUE) + len(courier_metrics.CATALOGUE)
    for name, (kind, said) in every.items():
        assert name.startswith("tidegate_") and said.endswith(".") and "\n" not in said
        assert (kind == "counter") == name.endswith("_total"), name
        assert not name.endswith(("_ms", "_milliseconds", "_kb", "_minutes"))


# Counting


def event(kind: EventKind, code: str = "", **detail: object) -> AuditEvent:
    return AuditEvent(kind, 0, code=code, detail=detail)


def test_refusals_are_counted_by_code_and_recordings_by_how_they_ended() -> None:
    tally = Tally(FakeClock())
    for code in ("too_long", "too_long", "jti_replayed"):
        tally.note(event(EventKind.GRANT_REFUSED, code))
    tally.note(event(EventKind.GRANT_ENDED, "revoked", recordings=3, recordings_cut=1, late_ms=None))
    tally.note(event(EventKind.AUDIT_DROPPED, count=7))
    found = tally.totals()
    assert found.refused == {"too_long": 2, "jti_replayed": 1}
    assert found.ended == {"revoked": 1}
    assert (found.numbers["recordings"], found.numbers["recordings_cut"], found.numbers["dropped"]) == (3, 1, 7)
    assert found.lateness[-1].value == 0, "one that never stood was not late"


def test_an_end_tells_how_many_recordings_it_leaves_and_how_many_of_them_are_cut() -> None:
    clock = FakeClock()
    found = live(clock)
    seal: dict[str, Any] = {"blocks": 1, "head": "00", "bytes": 10}
    found.notes[recordings.NOTE] = {"r-1": {**seal, "whole": True}, "r-2": {**seal, "whole": False}}
    found.cause, found.began_ns, found.last_process_ns = EndCause.REVOKED, clock.wall_ns(), clock.wall_ns() + 40_000_000
    ended = story.ended(Shut(found, clock.wall_ns(), clock.wall_ns()), clock.wall_ns())[-1]
    assert ended.kind is EventKind.GRANT_ENDED
    assert (ended.detail["recordings"], ended.detail["recordings_cut"], ended.detail["late_ms"]) == (2, 1, 40)


def test_what_the_disk_would_not_take_is_counted_as_lost_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail = Trail(tmp_path, HostIdentity.of_this_host("h", "0"), FakeClock(), tell=lambda *_: None)
    trail.emit([event(EventKind.POLICY_LOADED)])

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        trail.emit([event(EventKind.POLICY_LOADED), event(EventKind.POLICY_LOADED)])
        trail.emit([event(EventKind.POLICY_LOADED)])
    trail.emit([event(EventKind.POLICY_LOADED)])
    found = trail.tally.totals()
    assert found.kinds["policy.loaded"] == 5
    assert (found.numbers["written"], found.numbers["lost"]) == (3, 3), "two, and the news of the loss"


# The command


@pytest.fixture
def answering(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    """The command asks this world's daemon."""
    config = Config(paths=Paths(run_dir=tmp_path, courier_config=tmp_path / "courier.yaml"))
    handlers = Handlers(world.pipeline, lambda: []).table()
    monkeypatch.setattr(metrics, "ask", lambda _config, op: json.loads(json.dumps(handlers[op](PEER, {"op": op}))))
    monkeypatch.setattr(metrics, "quietly", lambda _: config)
    return config


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main(["metrics", *map(str, arguments)])
    return int(done.value.code or 0)


@pytest.mark.usefixtures("answering")
def test_the_command_prints_what_the_daemon_says_and_adds_its_own(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    found = read(capsys.readouterr().out)
    assert value(found, "tidegate_up") == 1
    assert value(found, "tidegate_collected_timestamp_seconds") > 1_700_000_000
    own = {name for name, _ in found} & metrics.CATALOGUE.keys()
    assert asked(world).keys() <= found.keys() and "tidegate_up" in own
    assert not {name for name, _ in found if "courier" in name}, "this host has none"
    assert run("--json") == 0
    told = json.loads(capsys.readouterr().out)["families"]
    assert {"name", "type", "help", "samples"} == told[0].keys()
    assert {each["name"] for each in told} >= {"tidegate_up", "tidegate_grants"}


@pytest.mark.usefixtures("answering")
def test_the_textfile_is_whole_for_everybody_to_read_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.prom"
    path.write_text("old\n")
    path.chmod(0o600)
    before = path.stat().st_ino
    assert run("--textfile", path) == 0
    assert value(read(path.read_text()), "tidegate_up") == 1
    assert path.stat().st_mode & 0o7777 == 0o644
    assert path.stat().st_ino != before, "renamed into place: a reader has the one or the other"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["tidegate.prom"]


@pytest.mark.usefixtures("answering")
def test_a_daemon_that_does_not_answer_makes_the_file_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tidegate.prom"
    assert run("--textfile", path) == 0

    def away(*_: object) -> object:
        raise HostError("agent_unreachable", "nobody there")

    monkeypatch.setattr(metrics, "ask", away)
    assert run("--textfile", path) == 1
    found = read(path.read_text())
    assert value(found, "tidegate_up") == 0
    assert not {name for name, _ in found} & daemon_metrics.CATALOGUE.keys(), "nothing old is told as new"
    capsys.readouterr()
    assert run() == 1
    assert value(read(capsys.readouterr().out), "tidegate_up") == 0
    assert run("--json") == 1
    assert json.loads(capsys.readouterr().out)["code"] == "agent_unreachable"


@pytest.mark.usefixtures("answering")
def test_who_may_not_ask_is_told_so_and_nothing_is_said_of_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tidegate.prom"

    def forbidden(*_: object) -> object:
        raise HostError("agent_forbidden", "not of the group")

    monkeypatch.setattr(metrics, "ask", forbidden)
    for arguments in ((), ("--textfile", path)):
        assert run(*arguments) == 1
        said = capsys.readouterr()
        assert not said.out and "[agent_forbidden]" in said.err
    assert not path.exists()


@pytest.mark.usefixtures("answering")
def test_what_cant_be_written_or_makes_no_sense_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--textfile", tmp_path / "missing/tidegate.prom") == 1
    assert "[write_failed]" in capsys.readouterr().err
    assert run("--textfile", tmp_path / "x.prom", "--json") == 2
    monkeypatch.setattr(metrics, "ask", lambda *_: {"families": [{"samples": "junk"}]})
    capsys.readouterr()
    assert run("--json") == 1
    assert json.loads(capsys.readouterr().out)["code"] == "metrics_unreadable"


@pytest.mark.usefixtures("answering")
def test_the_clock_is_told_as_the_kernel_has_it_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error_us, told in ((1000, 1.0), (16_000_000, 0.0), (None, None)):
        libc = SimpleNamespace(adjtimex=lambda found, error_us=error_us: _kernel(found, error_us))
        monkeypatch.setattr(clocks, "_libc", libc)
        assert run() == 0
        assert read(capsys.readouterr().out).get(("tidegate_clock_synchronised", ())) == told


def _kernel(found: Any, error_us: int | None) -> int:
    if error_us is None:
        return -1
    found._obj.maxerror = error_us
    return 0


# The courier's


def test_the_courier_tells_when_its_last_connection_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = Status(tmp_path / "status.json", tmp_path, "https", "https://a")

    def told() -> object:
        status.write(force=True)
        return json.loads((tmp_path / "status.json").read_text())["last_contact"]

    def at(second: int) -> None:
        monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0 + second)

    gone = HostError("courier_unreachable", "no route")
    status.down(gone)
    assert told() is None, "it never was"
    at(10)
    status.up("event stream")
    for second in (20, 30):
        at(second)
        status.down(gone)
    assert told() == "2027-01-15T08:00:20Z", "a try that failed is no contact"
    status.up("event stream")
    assert told() == "2027-01-15T08:00:20Z"


def test_of_the_courier_only_known_names_are_labels_and_no_shape_of_its_file_is_an_error(
    answering: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answering.paths.courier_config.write_text("url: https://a\n")
    assert run() == 0
    found = read(capsys.readouterr().out)
    assert value(found, "tidegate_courier_up") == value(found, "tidegate_courier_connected") == 0
    said: dict[str, object] = {
        "connected": False,
        "last_contact": "2026-11-22T15:27:40Z",
        "certificate_ends": "2026-11-29T15:27:40Z",
        "backlog": {"files": 4, "made_up": 1, 'x"\n': 1},
        "losses": {"events": 2},
    }
    status = tmp_path / "courier/status.json"
    status.parent.mkdir()
    status.write_text(json.dumps(said))
    assert run() == 0
    found = read(capsys.readouterr().out)
    assert value(found, "tidegate_courier_up") == 1
    assert value(found, "tidegate_courier_last_contact_timestamp_seconds") == 1795361260
    assert value(found, "tidegate_courier_certificate_expiry_timestamp_seconds") == 1795966060
    backlog = {dict(labels)["of"]: count for (name, labels), count in found.items() if name == "tidegate_courier_backlog"}
    assert backlog == {"files": 4, "event_bytes": 0, "recordings": 0}
    assert value(found, "tidegate_courier_lost_total", of="events") == 2
    status.write_text(json.dumps(said | {"connected": True}))
    assert run() == 0
    found = read(capsys.readouterr().out)
    now = value(found, "tidegate_collected_timestamp_seconds")
    assert value(found, "tidegate_courier_last_contact_timestamp_seconds") == now, "connected is in contact"
    for junk in (
        b"",
        b"[]",
        b"[" * 60_000,
        json.dumps({"certificate_ends": "9" * 99, "backlog": 5, "losses": {"events": "x"}}).encode(),
    ):
        status.write_bytes(junk)
        assert run() == 0
        read(capsys.readouterr().out)
