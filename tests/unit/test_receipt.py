"""The receipt says what happened and can always be signed."""

import json
from pathlib import Path

import pytest

from agent.expiry import receipt, story
from agent.expiry.shut import Shut
from agent.host.clock import FakeClock, rfc3339
from agent.journal import EndCause
from agent.model import Phase, Residue
from agent.trust import HostKey
from tests.unit.expiry_kit import live
from tests.unit.journal_kit import step

MS = 1_000_000


def ended(clock: FakeClock, cause: EndCause = EndCause.EXPIRED, late_ms: int = 0) -> Shut:
    grant = live(clock)
    clock.advance(600 + late_ms / 1000 if cause is EndCause.EXPIRED else 100)
    now = clock.wall_ns()
    grant.cause, grant.began_ns, grant.doors_ns, grant.last_process_ns = cause, now, now + 2 * MS, now + 31 * MS
    grant.overdue_ns, grant.moved_ns = grant.deadline.overdue_ns(clock), grant.deadline.moved_ns(clock)
    grant.killed, grant.killed_count, grant.attempts = ["sh[10]"], 3, 1
    return Shut(grant, now, now + 40 * MS, [(1, ""), (0, "")])


def claims(shut: Shut) -> dict[str, object]:
    return receipt.claims(shut, host_id="host", receipt_id="receipt-1")


def test_an_expiry_is_late_against_its_deadline_and_a_revocation_against_the_order() -> None:
    late = claims(ended(FakeClock(), late_ms=5000))
    assert late["lateness_ms"] == {"doors": 5002, "last_process": 5031}
    revoked = claims(ended(FakeClock(), EndCause.REVOKED))
    assert revoked["lateness_ms"] == {"doors": 2, "last_process": 31}
    assert revoked["cause"] == "revoked"


@pytest.mark.parametrize("moved_s", [-3600, 0, 3600])
def test_a_clock_set_back_hides_no_lateness_and_how_far_it_was_moved_is_told(moved_s: int) -> None:
    clock = FakeClock()
    grant = live(clock)
    clock.step(moved_s)
    clock.advance(605)
    grant.cause, grant.began_ns, grant.doors_ns = EndCause.EXPIRED, clock.wall_ns(), clock.wall_ns() + 2 * MS
    grant.overdue_ns, grant.moved_ns = grant.deadline.overdue_ns(clock), grant.deadline.moved_ns(clock)
    found = claims(Shut(grant, clock.wall_ns()))
    assert found["lateness_ms"] == {"doors": 5002 + max(0, moved_s) * 1000, "last_process": None}
    assert found["clock_moved_ms"] == moved_s * 1000


def test_every_step_is_accounted_for_and_what_was_not_tried_is_not_undone() -> None:
    shut = ended(FakeClock())
    shut.live.steps = [*shut.live.steps, (2, step(2, Phase.REMOVE))]
    shut.undone = [(1, ""), (0, "busy"), (-1, "crontab: busy")]
    steps = claims(shut)["steps"]
    assert isinstance(steps, list)
    assert [found["undone"] for found in steps] == [False, True, False]


def test_a_grant_that_never_opened_has_no_doors_and_no_processes() -> None:
    shut = ended(FakeClock(), EndCause.REVOKED)
    shut.live.steps, shut.live.opened_ns = [], None
    found = claims(shut)
    assert found["doors_closed"] is found["last_process_dead"] is found["opened"] is None
    assert found["lateness_ms"] == {"doors": None, "last_process": None}


def test_no_number_is_a_float_and_times_are_rfc3339_to_the_microsecond() -> None:
    shut = ended(FakeClock())
    found = json.loads(json.dumps(claims(shut)), parse_float=lambda text: pytest.fail(f"a float: {text}"))
    assert found["doors_closed"] == rfc3339(shut.live.doors_ns or 0)
    assert found["deadline"].endswith(":00.000000Z") and len(found["deadline"]) == 27


def test_the_list_of_residue_is_bounded_and_its_count_is_not() -> None:
    shut = ended(FakeClock())
    shut.residue = [Residue("file", f"/tmp/{n}") for n in range(1000)]
    found = claims(shut)
    assert isinstance(found["residue"], list)
    assert (len(found["residue"]), found["residue_count"]) == (200, 1000)


def test_the_host_key_signs_it_though_a_reason_is_no_utf8(tmp_path: Path) -> None:
    shut = ended(FakeClock(), EndCause.REVOKED)
    shut.live.cause_text = "by uid 0: \udcff\x1b[2J\u202e"
    found = claims(shut)
    assert found["cause_text"] == "by uid 0: \\xff\\x1b[2J\\u202e"
    assert HostKey.load_or_create(tmp_path / "host.jwk").sign(receipt.RECEIPT_TYP, found).count(".") == 2


def test_the_story_of_an_end_tells_who_was_cut_off_and_what_was_left() -> None:
    shut = ended(FakeClock(), EndCause.REVOKED)
    shut.live.cause_text = "\udcff"
    shut.residue = [Residue("file", "/tmp/a", removed=True), Residue("cron", "/etc/cron.d/b")]
    events = story.ended(shut, 5)
    assert [found.kind.value for found in events][-3:] == ["session.severed", "residue.found", "grant.ended"]
    assert [found["where"] for found in events[-2].detail["residue"]] == ["/etc/cron.d/b"]  # type: ignore[attr-defined]
    assert all(found.reason.encode() for found in events)
