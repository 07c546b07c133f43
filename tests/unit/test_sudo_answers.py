"""When sudo's own programs are asked anew, and when what they said before holds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.enforcement import ahead
from agent.errors import HostError
from agent.host.contract import CommandResult
from agent.host.fake import FakeHost
from agent.model import PlanContext, Step, SudoWant
from agent.model.plan import Phase, Stage
from enforcers.sudo import SudoEnforcer
from enforcers.sudo_answers import Answers
from enforcers.sudoers_rule import Rule, render
from tests.unit.enforcer_fixtures import fake_host, grant_of, needs_cvtsudoers

pytestmark = needs_cvtsudoers
CVTSUDOERS, SUDO_PATH, CONF = Path("/usr/bin/cvtsudoers"), Path("/usr/bin/sudo"), Path("/etc/sudo.conf")
RULE = Rule("jit-alice", ("root",), (("/usr/bin/id",),), 1893456000, 60, own=True)


class Counting:
    """A host whose sudo programs count how often they are run."""

    def __init__(self) -> None:
        self.host = fake_host()
        self.asked: list[tuple[str, ...]] = []
        self.host.commands = {name: self._counted(answer) for name, answer in self.host.commands.items()}
        self.host.identities = {CVTSUDOERS: (1, 7, 100, 5, 5), SUDO_PATH: (1, 8, 100, 5, 5)}

    def _counted(self, answer: Callable[..., CommandResult]) -> Callable[[Sequence[str], bytes | None], CommandResult]:
        def count(argv: Sequence[str], stdin: bytes | None) -> CommandResult:
            self.asked.append(tuple(argv))
            return answer(argv, stdin)

        return count

    def times(self, tool: str) -> int:
        return sum(argv[0] == tool for argv in self.asked)


def plan(host: FakeHost, enforcer: SudoEnforcer, login: str, *commands: str) -> str:
    """What one grant's rule is to say."""
    body = {"type": "sudo", "identifier": login, "commands": [*(commands or ("/usr/bin/id",))]}
    grant = grant_of([{"type": "account", "identifier": login}, body])
    want = grant.wants[1]
    assert isinstance(want, SudoWant)
    steps = enforcer.plan(want, enforcer.observe(want, host), PlanContext(grant, {login: 70001}))
    enforcer.apply(steps[0], host)
    return str(steps[0].data["text"])


def test_a_second_grant_of_the_same_commands_has_its_very_text_proved_and_nothing_else_asked() -> None:
    bed, enforcer = Counting(), SudoEnforcer()
    plan(bed.host, enforcer, "jit-a")
    assert (bed.times("sudo"), bed.times("cvtsudoers")) == (1, 2)
    bed.asked.clear()
    plan(bed.host, enforcer, "jit-b")
    assert (bed.times("sudo"), bed.times("cvtsudoers")) == (0, 1)


def test_a_proof_that_was_asked_for_ahead_is_the_proof_of_the_step_and_of_no_other_text() -> None:
    bed, enforcer = Counting(), SudoEnforcer()
    step = Step("sudo", "rule", Stage.GRANT, Phase.CLOSE, "/r", "", {"path": "/r", "text": render(RULE), "rule": RULE.to_json()})
    ahead([step], {"sudo": enforcer}, bed.host)
    enforcer.apply(step, bed.host)
    assert bed.times("cvtsudoers") == 1
    wider = replace(step, data={**step.data, "text": render(RULE) + "jit-alice ALL=(root) NOPASSWD: ALL\n"})
    ahead([wider], {"sudo": enforcer}, bed.host)
    with pytest.raises(HostError, match="another rule"):
        enforcer.apply(wider, bed.host)
    assert bed.times("cvtsudoers") == 3


def test_other_commands_are_asked_about() -> None:
    bed, enforcer = Counting(), SudoEnforcer()
    plan(bed.host, enforcer, "jit-a")
    bed.asked.clear()
    plan(bed.host, enforcer, "jit-b", "/usr/bin/ls /etc")
    assert bed.times("cvtsudoers") == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda host: host.identities.update({CVTSUDOERS: (1, 7, 100, 5, 6), SUDO_PATH: (1, 8, 100, 5, 6)}),
        lambda host: host.files.update({CONF: (b"Plugin other other.so\n", 0o644)}),
        lambda host: host.identities.clear(),
    ],
    ids=["another program", "another sudo.conf", "it can't be looked at"],
)
def test_what_was_said_by_other_files_does_not_hold(change: Callable[[FakeHost], None]) -> None:
    bed, answers = Counting(), Answers()
    for _ in range(2):
        answers.prove(RULE, render(RULE), bed.host)
        assert answers.other(bed.host) == ""
    assert len(bed.asked) == 2
    change(bed.host)
    answers.prove(RULE, render(RULE), bed.host)
    answers.other(bed.host)
    assert len(bed.asked) == 4


def test_a_refusal_is_never_kept_and_neither_is_another_sudo() -> None:
    bed, answers = Counting(), Answers()
    bed.host.commands = {**bed.host.commands, "sudo": lambda argv, _: CommandResult(tuple(argv), 0, "sudo-rs 0.2.5\n", "")}
    for _ in range(2):
        with pytest.raises(HostError, match="another rule"):
            answers.prove(RULE, render(RULE) + "jit-alice ALL=(root) NOPASSWD: ALL\n", bed.host)
        assert answers.other(bed.host) == "sudo-rs 0.2.5"
    assert bed.times("cvtsudoers") == 2


def test_a_proof_is_of_one_text_and_one_rule() -> None:
    """What was proved of the text of another rule must not stand for this one."""
    bed, answers = Counting(), Answers()
    answers.prove(RULE, render(RULE), bed.host)
    wider = Rule(RULE.login, RULE.run_as, (("/usr/bin/ls",),), RULE.until, RULE.timeout_s, RULE.own)
    with pytest.raises(HostError, match="another rule"):
        answers.prove(wider, render(RULE), bed.host)


def test_another_host_is_asked_for_itself() -> None:
    answers, first, second = Answers(), Counting(), Counting()
    answers.prove(RULE, render(RULE), first.host)
    answers.prove(RULE, render(RULE), second.host)
    assert second.times("cvtsudoers") == 1


def test_a_program_that_is_exchanged_while_it_answers_is_asked_again() -> None:
    bed, answers = Counting(), Answers()
    said = bed.host.commands["cvtsudoers"]

    def exchanged(argv: Sequence[str], stdin: bytes | None) -> CommandResult:
        bed.host.identities[CVTSUDOERS] = (1, 9, 100, 9, 9)
        return said(argv, stdin)

    bed.host.commands = {**bed.host.commands, "cvtsudoers": exchanged}
    answers.prove(RULE, render(RULE), bed.host)
    bed.host.commands = {**bed.host.commands, "cvtsudoers": said}
    answers.prove(RULE, render(RULE), bed.host)
    assert bed.times("cvtsudoers") == 2
