"""What sshd and sudo say is taken at its word, and whoever is still let in keeps a grant from being over."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from agent.audit import AuditEvent, EventKind, Trail
from agent.config import Config
from agent.errors import HostError
from agent.expiry import proof, proving, receipt
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.proving import Prover
from agent.expiry.shut import Shut
from agent.host.asking import ACCEPTED, NOT_ASKED, REFUSED, Answer, HostAsker, Question, Right, parse_rights
from agent.host.clock import FakeClock
from agent.host.contract import CommandResult
from agent.host.fake import FakeHost
from agent.journal import GrantState, Journal
from agent.model import Json, Phase, Stage, Step
from enforcers.sudoers_rule import Rule
from tests.unit.expiry_kit import live

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "P" * 43
ALICE = "jit-alice"
RULE = Rule(ALICE, ("root",), (("/usr/bin/id",), ("/usr/bin/x", "a,b:c")), until=1893456000, timeout_s=60)
LISTING = """\
Matching Defaults entries for jit-alice on web:
    env_reset, mail_badpass,
    secure_path=/usr/local/sbin\\:/usr/local/bin, use_pty

User jit-alice may run the following commands on web:

Sudoers entry: /run/tidegate/sudoers.d/grant-1
    RunAsUsers: root
    Options: !authenticate
    Timeout: 60
    NotAfter: 20300101000000Z
    Commands:
\t/usr/bin/id ""
\t/usr/bin/x
        a\\,b\\:c

Sudoers entry:
    RunAsUsers: root, games
    Commands:
\t/usr/bin/whoami
"""
OURS = (
    Right(("root",), '/usr/bin/id ""', "20300101000000Z", 60),
    Right(("root",), "/usr/bin/x a,b:c", "20300101000000Z", 60),
)
SITES = Right(("root", "games"), "/usr/bin/whoami")


class FakeAsker:
    """Says what it is told to; counts."""

    def __init__(self) -> None:
        self.accepts = True
        self.rights: tuple[Right, ...] | Answer = OURS
        self.asked: list[Question] = []
        self.error: Exception | None = None
        self.while_asking: Callable[[], object] = lambda: None

    def sshd(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked += questions
        if self.error:
            raise self.error
        self.while_asking()
        return [Answer(ACCEPTED if self.accepts else REFUSED, "", 7) for _ in questions]

    def sudo(self, login: str) -> tuple[Right, ...] | Answer:
        del login
        return self.rights


class Kit:
    """A prover with a fake asker, a real journal and a trail that is a list."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.asker = FakeAsker()
        self.ledger = Ledger(self.clock)
        self.events: list[AuditEvent] = []
        self.journal = Journal(folder / "state.db")
        trail = cast(Trail, type("T", (), {"emit": lambda _, events: self.events.extend(events)})())
        self.prover = Prover(self.asker, Config(), self.clock, self.journal, self.ledger, trail)
        self.prover.ready()

    def grant(self, **more: Any) -> LiveGrant:
        found = live(self.clock, **more)
        found.steps = list(enumerate(steps()))
        self.ledger.add(found)
        return found

    def close(self, *shuts: Shut) -> None:
        self.prover.closed(self.prover.closing(shuts))

    def opened(self, grant: LiveGrant) -> dict[str, Any]:
        self.prover.opened(grant)
        self.prover.settle()
        return cast(dict[str, Any], grant.notes.get("proof", {}))


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path)
    yield made
    made.prover.stop()
    made.journal.close()


def steps(login: str = ALICE) -> list[Step]:
    ask: Json = {"kind": "key", "login": login, "credential": KEY}
    return [
        Step("ssh", "keys", Stage.GRANT, Phase.CLOSE, "/k", "1 key", {"asks": [ask]}),
        Step("sudo", "rule", Stage.GRANT, Phase.CLOSE, "/s", "a rule", {"asks": [RULE.asks()]}),
    ]


def test_a_long_listing_is_read_with_its_wraps_and_escapes() -> None:
    assert parse_rights(LISTING) == (*OURS, SITES)
    assert parse_rights("User jit-alice is not allowed to run sudo on web.\n") == ()


@pytest.mark.parametrize(
    "text",
    ["", "sudo: unknown user x", "User a may run the following commands on b:\n    (root) NOPASSWD: /usr/bin/id\n", "garbage\n"],
)
def test_what_is_no_long_listing_is_not_taken_for_one(text: str) -> None:
    assert parse_rights(text) is None


def test_the_rights_asked_for_are_those_that_sudo_lists() -> None:
    assert proof.wanted(steps()) == {ALICE: frozenset(OURS)}


def test_a_key_is_named_by_its_fingerprint_and_a_principal_by_itself() -> None:
    assert proof.fingerprint(KEY).startswith("SHA256:") and len(proof.fingerprint(KEY)) == 50
    assert proof.fingerprint("alice@example.com") == "alice@example.com"
    assert proof.fingerprint("ssh-ed25519 ?") == "malformed"


def test_an_opened_grant_is_proved_and_its_receipt_has_it(kit: Kit) -> None:
    grant = kit.grant()
    opened = kit.opened(grant)["opened"]
    assert [row["answer"] for row in opened["ssh"]] == ["accepted"]
    assert [row["answer"] for row in opened["sudo"]] == ["equal"]
    assert opened["troubles"] == [] and kit.events == [] and kit.prover.troubles() == []
    claims = receipt.claims(Shut(grant, 0), host_id="h", receipt_id="r")
    assert cast(dict[str, Any], claims["proof"])["opened"] == opened


def test_a_refused_key_a_missing_and_a_foreign_right_are_loud(kit: Kit) -> None:
    kit.asker.accepts, kit.asker.rights = False, (OURS[0], SITES)
    grant = kit.grant()
    troubles = kit.opened(grant)["opened"]["troubles"]
    assert len(troubles) == 3
    assert [event.kind for event in kit.events] == [EventKind.PROOF_FAILED]
    assert all(grant.record.jti in text for text in kit.prover.troubles())
    assert len(kit.prover.troubles()) == 3


def test_a_trouble_that_was_mended_is_gone_when_asked_again_and_stays_among_the_alarms(kit: Kit) -> None:
    kit.asker.accepts = False
    grant = kit.grant()
    assert kit.opened(grant)["opened"]["troubles"]
    kit.prover.again()
    kit.prover.settle()
    assert len(kit.events) == 1  # the same trouble is told once
    kit.asker.accepts = True
    kit.prover.again()
    kit.prover.settle()
    noted = cast(dict[str, Any], grant.notes["proof"])
    assert noted["opened"]["troubles"] == [] == kit.prover.troubles() and len(noted["alarms"]) == 1


def test_rights_that_a_granted_group_brings_are_told_but_no_trouble(kit: Kit) -> None:
    kit.asker.rights = (*OURS, SITES)
    grant = kit.grant()
    grant.steps = [*grant.steps, (9, Step("account", "membership", Stage.GRANT, Phase.CLOSE, ALICE, "in sudo", {"group": "sudo"}))]
    opened = kit.opened(grant)["opened"]
    assert opened["troubles"] == [] and opened["sudo"][0]["more"] == [str(SITES)]


def test_what_an_existing_account_could_do_before_is_not_more(kit: Kit) -> None:
    grant = kit.grant(uids={})
    kit.asker.rights = (SITES,)
    kit.prover.before(grant, [step for _, step in grant.steps])
    kit.asker.rights = (*OURS, SITES)
    assert kit.opened(grant)["opened"]["sudo"][0]["answer"] == "equal"


def test_an_existing_account_whose_rights_were_not_known_has_no_more(kit: Kit) -> None:
    grant = kit.grant(uids={})
    kit.asker.rights = (*OURS, SITES)
    assert kit.opened(grant)["opened"]["sudo"][0]["answer"] == "equal"


def test_an_answer_that_came_when_the_grant_was_ending_is_dropped(kit: Kit) -> None:
    grant = kit.grant()
    kit.asker.accepts = False
    kit.asker.while_asking = lambda: setattr(grant, "shutting", True)
    assert kit.opened(grant) == {} and kit.events == []


def test_a_grant_that_ended_before_its_turn_is_not_asked_about(kit: Kit) -> None:
    grant = kit.grant(state=GrantState.SHUTTING)
    kit.opened(grant)
    assert kit.asker.asked == []


def test_what_is_still_let_in_after_closing_keeps_the_grant_from_being_over(kit: Kit) -> None:
    shut = Shut(kit.grant(), 0, ended_ns=5)
    kit.close(shut)
    assert shut.ended_ns is None
    assert len(shut.errors) == 3  # the key and two rights
    assert "still accepts" in shut.errors[0]
    assert [event.kind for event in kit.events] == [EventKind.PROOF_FAILED]
    again = Shut(shut.live, 0, ended_ns=6)
    kit.asker.accepts, kit.asker.rights = False, ()
    kit.close(again)
    assert again.errors == [] and again.ended_ns == 6
    noted = cast(dict[str, Any], shut.live.notes["proof"])
    assert noted["closed"]["ssh"][0]["answer"] == "refused" and len(noted["alarms"]) == 3


def test_a_right_that_another_live_grant_gives_too_is_no_alarm(kit: Kit) -> None:
    other, mine = kit.grant(grant_id=1, uids={}), kit.grant(grant_id=2, uids={})
    assert other.state is GrantState.OPEN
    mine.state = GrantState.SHUTTING
    kit.asker.accepts = False
    shut = Shut(mine, 0)
    kit.close(shut)
    assert shut.errors == []


@pytest.mark.parametrize("answer", [Answer(NOT_ASKED, "no sudo"), Answer(NOT_ASKED, "late", 2000)])
def test_what_cannot_be_asked_is_said_and_holds_nothing_up(kit: Kit, answer: Answer) -> None:
    kit.asker.rights, kit.asker.accepts = answer, False
    shut = Shut(kit.grant(), 0)
    kit.close(shut)
    assert shut.errors == []
    noted = cast(dict[str, Any], shut.live.notes["proof"])
    assert noted["closed"]["sudo"] == [{"login": ALICE, "answer": "not asked", "why": answer.why, "ms": answer.ms}]


def test_an_asker_that_breaks_keeps_no_grant_from_ending(kit: Kit) -> None:
    kit.asker.error = RuntimeError("no")
    shut = Shut(kit.grant(), 0)
    kit.close(shut)
    assert shut.errors == []
    assert kit.opened(kit.grant(grant_id=3)) == {}


def test_a_full_disk_keeps_no_grant_from_ending(kit: Kit) -> None:
    kit.journal.close()
    shut = Shut(kit.grant(), 0)
    kit.asker.accepts, kit.asker.rights = False, ()
    kit.close(shut)
    assert shut.errors == []


def test_a_grant_that_never_stood_is_not_asked_about(kit: Kit) -> None:
    grant = kit.grant()
    grant.steps = []
    kit.close(Shut(grant, 0))
    assert kit.asker.asked == [] and grant.notes == {}


QUESTION = Question("key", ALICE, KEY)


def host(stdout: str = "", code: int = 0, *names: str) -> FakeHost:
    def answer(argv: Sequence[str], stdin: bytes | None) -> CommandResult:
        del stdin
        return CommandResult(tuple(argv), code, stdout, "said\n")

    return FakeHost(commands=dict.fromkeys(names or ("sshd", "sudo", "python3", "python", "python3.11", "python3.12"), answer))


def test_without_tools_nothing_is_asked() -> None:
    asker = HostAsker(FakeHost())
    assert asker.sshd([QUESTION]) == [Answer(NOT_ASKED, "no sshd")]
    assert asker.sudo(ALICE) == Answer(NOT_ASKED, "no sudo")
    assert asker.sshd([]) == []


@pytest.mark.parametrize(
    "said", ["", "[]", "{}", "nonsense", '[{"answer":"yes","why":"","ms":1}]', '[{"answer":"accepted"}]', "[1]"]
)
def test_an_answer_that_is_none_is_not_believed(said: str) -> None:
    found = HostAsker(host(said)).sshd([QUESTION])
    assert [answer.answer for answer in found] == [NOT_ASKED]


def test_an_asker_that_fails_is_said() -> None:
    assert HostAsker(host("", 1)).sshd([QUESTION]) == [Answer(NOT_ASKED, "the asker failed: said")]
    found = HostAsker(host("", 0, "sshd")).sshd([QUESTION])  # no interpreter to be found
    assert found[0].answer == NOT_ASKED and "could not be asked" in found[0].why


def test_a_late_sudo_is_said() -> None:
    def late(_argv: Sequence[str], _stdin: bytes | None) -> CommandResult:
        raise HostError("tool_late", "sudo took too long")

    found = HostAsker(FakeHost(commands={"sudo": late})).sudo(ALICE)
    assert isinstance(found, Answer) and found.why == "sudo took too long"
    assert HostAsker(host(LISTING)).sudo(ALICE) == (*OURS, SITES)
    assert HostAsker(host("", 1)).sudo(ALICE) == Answer(NOT_ASKED, "said", 0)


def test_no_removal_waits_for_an_answer_longer_than_a_moment(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "_PATIENCE_S", 0.01)
    answer = threading.Event()
    kit.asker.while_asking = lambda: answer.wait(10)
    kit.asker.rights = ()
    shut = Shut(kit.grant(), 0, ended_ns=5)
    closing = kit.prover.closing([shut])
    assert closing.late and "proof" not in shut.live.notes  # and the removal goes on
    answer.set()
    kit.prover.closed(closing)
    assert "still accepts" in shut.errors[0] and shut.ended_ns is None
    assert cast(dict[str, Any], shut.live.notes["proof"])["closed"]["while_removing"] is True
