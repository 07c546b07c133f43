"""Sudo rights: one sudoers file for each entry, whose text provably says the asked rule and nothing else (sudoers_rule)."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agent.errors import HostError, UnenforceableError
from agent.host.contract import Config, Reader, User, Writer
from agent.host.lent import Lent
from agent.model import JsonObject, PlanContext, Residue, Step, SudoWant
from agent.model.fields import FieldReader, choice, login
from agent.model.lent import to_json
from agent.model.plan import Phase, Stage
from enforcers import sudoers_rule
from enforcers.data import text
from enforcers.group import refuse_account
from enforcers.sudo_answers import Answers
from enforcers.sudoers_rule import Rule, command

BACKSTOPS = ("sudo refuses from the deadline on (NOTAFTER)", "sudo ends what runs after the grant's own length (TIMEOUT)")
# What a rule is proved with while it is planned, the same for every grant, so that cvtsudoers is asked once of the same commands;
# the very text, with its own login and times, is proved before it is put in place. 2030-01-01.
SAMPLE_LOGIN, SAMPLE_EXP = "jit-sample", 1893456000


@dataclass(frozen=True, slots=True)
class SudoSeen:
    """``other``: what this sudo calls itself if it is none that keeps a rule as written ("" for one that does).

    ``unproved``: why cvtsudoers did not read back the asked rule.
    ``alone``: the account, if it is there, has no sudo rights yet. ``run_as``: the uids of those that are there.
    """

    config: Config
    sudo: bool
    other: str
    user: User | None
    alone: bool
    run_as: dict[str, int]
    missing_run_as: tuple[str, ...]
    missing_commands: tuple[str, ...]
    unproved: str | None


class SudoEnforcer:
    """``{"type":"sudo","identifier":...,"run_as":[...],"commands":[...]}``, without a password, until exp."""

    type: ClassVar[str] = "sudo"

    def __init__(self) -> None:
        self._answers = Answers()

    def decode(self, body: object, field: str) -> SudoWant:
        """See Enforcer. Code ``command_invalid`` beside those of the field rules."""
        reader = FieldReader(body, field, required=("type", "identifier", "commands"), optional=("run_as",))
        reader.one("type", choice(self.type))
        return SudoWant(
            identifier=reader.one("identifier", login),
            run_as=reader.many("run_as", login, most=8) if reader.has("run_as") else ("root",),
            commands=reader.many("commands", command),
        )

    def observe(self, want: SudoWant, reader: Reader) -> SudoSeen:
        """See Enforcer."""
        sudo = reader.tool("sudo") is not None
        sample = Rule(SAMPLE_LOGIN, want.run_as, want.commands, SAMPLE_EXP - 1, 60, own=True)
        unproved = None
        try:
            self._answers.prove(sample, sudoers_rule.render(sample), reader)
        except HostError as error:
            unproved = error.reason
        user = reader.user(want.identifier)
        run_as = {name: reader.user(name) for name in want.run_as}
        return SudoSeen(
            config=reader.config,
            sudo=sudo,
            other=self._answers.other(reader) if sudo else "",
            user=user,
            alone=user is None or (sudo and _has_no_rights(user.name, reader)),
            run_as={name: found.uid for name, found in run_as.items() if found is not None},
            missing_run_as=tuple(name for name, found in run_as.items() if found is None),
            missing_commands=tuple(words[0] for words in want.commands if reader.tool(words[0]) is None),
            unproved=unproved,
        )

    def plan(self, want: SudoWant, seen: SudoSeen, context: PlanContext) -> Sequence[Step]:
        """See Enforcer. Codes: ``sudo_missing``, ``sudo_unsupported``, ``run_as_missing``, ``command_missing``,
        ``sudo_rule_unprovable``, and those of :func:`enforcers.group.refuse_account`.
        """
        refuse_account(want.identifier, seen.user, context)
        unknown = [name for name in seen.missing_run_as if not context.creates(name)]
        checks = (
            (not seen.sudo, "sudo_missing", "no sudo on this host"),
            (bool(seen.other), "sudo_unsupported", f"this host's sudo ({seen.other}) does not keep to the rules of a grant"),
            (bool(unknown), "run_as_missing", f"no account {', '.join(unknown)} on this host"),
            (bool(seen.missing_commands), "command_missing", f"no executable {', '.join(seen.missing_commands)} on this host"),
            (seen.unproved is not None, "sudo_rule_unprovable", seen.unproved or ""),
        )
        for wrong, code, reason in checks:
            if wrong:
                raise UnenforceableError(code, reason)
        grant = context.grant
        own = context.creates(want.identifier)
        rule = Rule(want.identifier, want.run_as, want.commands, grant.exp - 1, grant.exp - grant.nbf, own)
        path = seen.config.paths.sudoers / file_name(grant.jti, grant.wants.index(want))
        data: JsonObject = {
            "path": str(path),
            "text": sudoers_rule.render(rule),
            "rule": rule.to_json(),
            "asks": [rule.asks()],
            "lent": to_json(_lent(want, seen, context)),
            "backstops": list(BACKSTOPS),
        }
        commands = "; ".join(" ".join(words) for words in want.commands)
        summary = f"{want.identifier} may run as {', '.join(want.run_as)}: {commands}"
        return (Step(self.type, "rule", Stage.GRANT, Phase.CLOSE, str(path), summary, data),)

    def ahead(self, step: Step, reader: Reader) -> None:
        """See enforcement.ahead: the process that proves the text runs beside what is done before the rule's turn comes."""
        with contextlib.suppress(HostError):
            self._proved(step, reader)

    def apply(self, step: Step, writer: Writer) -> None:
        """See Enforcer. The very text is proved before it is put in place. Code ``sudo_rule_unprovable``."""
        rendered = self._proved(step, writer)
        writer.write(Path(text(step.data, "path")), rendered.encode(), 0o440)

    def revert(self, step: Step, writer: Writer) -> None:
        """See Enforcer."""
        writer.remove(Path(text(step.data, "path")))

    def found(self, reader: Reader) -> Sequence[Step]:
        """See Enforcer. The folder holds nothing but what grants put there."""
        folder = reader.config.paths.sudoers
        return [
            Step(self.type, "rule", Stage.GRANT, Phase.CLOSE, str(folder / name), f"sudo rule {name}", {"path": str(folder / name)})
            for name in reader.names(folder)
        ]

    def residue(self, steps: Sequence[Step], reader: Reader) -> Sequence[Residue]:
        """See Enforcer."""
        paths = (Path(text(step.data, "path")) for step in steps)
        return [Residue("sudo", str(path)) for path in paths if reader.exists(path)]

    def _proved(self, step: Step, reader: Reader) -> str:
        """The text of a step that says its rule and nothing else. Raises HostError."""
        rule, rendered = step.data.get("rule"), text(step.data, "text")
        if step.action != "rule" or not isinstance(rule, dict):
            raise HostError("bad_step", "a sudo step without its rule")
        self._answers.prove(Rule.from_json(rule), rendered, reader)
        return rendered

    def prepare(self, writer: Writer) -> None:
        """Put the one ``@includedir`` in place, proved (see sudoers_rule.prepare). Nothing to do without sudo."""
        if writer.tool("sudo") is not None:
            sudoers_rule.prepare(writer)

    def retire(self, writer: Writer) -> None:
        """Take the ``@includedir`` away."""
        sudoers_rule.retire(writer)


def _lent(want: SudoWant, seen: SudoSeen, context: PlanContext) -> Lent:
    """What its end needs to know: whatever runs under this rule dies with it, the person's own sudo goes on."""
    uids = {**seen.run_as, **context.uids}
    rules = frozenset((uids[name], " ".join(words)) for name in want.run_as for words in want.commands)
    uid = context.uids[want.identifier] if context.creates(want.identifier) else seen.user.uid if seen.user else -1
    return Lent(want.identifier, uid, rules=rules, alone=seen.alone)


def _has_no_rights(name: str, reader: Reader) -> bool:
    """Whether sudo says that the account may run nothing (yet). In doubt it may."""
    try:
        answer = reader.check(["sudo", "-n", "-l", "-U", name])
    except HostError:
        return False
    return "is not allowed to run sudo" in answer.stdout + answer.stderr


def file_name(jti: str, index: int) -> str:
    """A name sudo reads (no ``.``, no ``~``), the same for the same entry of the same grant."""
    return "grant-" + hashlib.sha256(f"{jti}\0{index}".encode()).hexdigest()[:32]
