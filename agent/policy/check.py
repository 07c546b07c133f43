"""``tidegate policy check``: every bad file, and what a good policy makes easy to regret. Reads files, changes nothing."""

import re
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from agent.errors import ConfigError
from agent.model import AccountWant, GroupWant, SudoWant
from agent.policy.load import Decoders, load_policy, load_policy_file
from agent.policy.model import DEFAULT_RUN_AS, Origin, Policy, Role, Rule
from agent.policy.privileged import privileged_group, root_equivalent
from agent.settings import yaml_files

LONG_S = 7 * 86400
_BACKUP = re.compile(r".+\.yaml\.~\d+(\.\d+)?~")  # what `tidegate config migrate` leaves beside a file


@dataclass(frozen=True, slots=True)
class Finding:
    """``level`` is ``error`` (the policy won't load) or ``warning``; ``line`` from 1, None for a file as a whole."""

    level: str
    code: str
    message: str
    path: Path
    line: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        """``file:line: key: message [code]``, as compilers write it."""
        where = f"{self.path}:{self.line}" if self.line is not None else str(self.path)
        key = f" {self.key}:" if self.key else ""
        return f"{where}:{key} {self.message} [{self.code}]"

    def to_json(self) -> dict[str, str | int | None]:
        """For ``--json``."""
        return {
            "level": self.level,
            "code": self.code,
            "message": self.message,
            "path": str(self.path),
            "line": self.line,
            "key": self.key,
        }


Changeable: TypeAlias = Callable[[tuple[str, ...], tuple[str, ...]], str | None]


def check(
    where: Path,
    decoders: Decoders,
    *,
    known_issuers: Collection[str] | None = None,
    changeable: Changeable = lambda _run_as, _words: None,
) -> list[Finding]:
    """Errors first, one for each bad file; warnings when there are none.

    Args:
        where: a policy.d folder or one file.
        decoders: as in :func:`agent.policy.load.load_policy`.
        known_issuers: whom this host's trusted keys may speak for, where the caller knows; rules of others can never match.
        changeable: ``(run_as, words)`` → why others than root can change what that command runs on this host, or None.
    """
    policy, errors = _load(where, decoders)
    ignored = list(_ignored(where))
    if policy is None:
        return [*errors, *ignored]
    found = [finding for rule in policy.rules for finding in _rule(rule, policy, known_issuers, changeable)]
    return [*ignored, *_whole(where, policy), *found]


def _load(where: Path, decoders: Decoders) -> tuple[Policy | None, list[Finding]]:
    """The policy, or an error for each file that is bad by itself, or else the one of all together."""
    try:
        return (load_policy(where, decoders) if _is_folder(where) else load_policy_file(where, decoders)), []
    except ConfigError as error:
        whole = [_error(error)]
    alone: list[Finding] = []
    for path in _files(where):
        try:
            load_policy_file(path, decoders)
        except ConfigError as error:
            if error.code != "role_undefined":  # may be defined in another file
                alone.append(_error(error))
    return None, alone or whole


def _files(where: Path) -> list[Path]:
    try:
        return list(yaml_files(where)) if _is_folder(where) else [where]
    except ConfigError:
        return []


def _is_folder(where: Path) -> bool:
    try:
        return stat.S_ISDIR(where.stat().st_mode)
    except OSError:
        return False


def _error(error: ConfigError) -> Finding:
    return Finding("error", error.code, error.reason, error.path, error.line, error.key)


def _ignored(where: Path) -> Iterator[Finding]:
    if not _is_folder(where):
        return
    taken = set(_files(where))
    try:
        there = sorted(where.iterdir())
    except OSError:
        return  # told as file_unreadable
    for path in there:
        if path not in taken and not _BACKUP.fullmatch(path.name):
            yield Finding("warning", "file_ignored", "is not read: policy files end in .yaml and don't begin with '.'", path)


def _whole(where: Path, policy: Policy) -> Iterator[Finding]:
    if not policy.rules:
        yield Finding("warning", "no_rule", "has no rule, so it allows nothing", where)
    listed = {name for rule in policy.rules for name in rule.roles}
    for role in policy.roles.values():
        if role.name not in listed:
            yield _warning(role.origin, f"roles.{role.name}", "role_unused", "no rule lists this role")


def _warning(origin: Origin, key: str, code: str, message: str) -> Finding:
    return Finding("warning", code, message, origin.path, origin.line, key)


def _rule(rule: Rule, policy: Policy, known_issuers: Collection[str] | None, changeable: Changeable) -> Iterator[Finding]:
    key = f"rule {rule.name}"
    for code, message in (*_reach(rule, known_issuers), *_root(rule, policy, changeable)):
        yield _warning(rule.origin, key, code, message)


def _reach(rule: Rule, known_issuers: Collection[str] | None) -> Iterator[tuple[str, str]]:
    for issuer in rule.issuers:
        if "*" in issuer:
            yield "issuer_unmatchable", f"issuers are compared exactly: {issuer[:64]!a} is no wildcard"
    if known_issuers is not None and not set(rule.issuers) & set(known_issuers):
        yield "issuer_unmatchable", "no key this host trusts may speak for any of its issuers"
    if rule.max_duration_s > LONG_S:
        yield "duration_long", f"allows grants of up to {rule.max_duration_s // 86400} days"
    if not (rule.accounts or rule.ssh or rule.sudo or rule.groups or rule.roles):
        yield "rule_empty", "allows nothing: it has no accounts, ssh, sudo, groups or roles"
    if rule.ssh is not None and not rule.ssh.keys and not rule.ssh.principals:
        yield "ssh_unusable", "has an ssh section but allows neither keys nor principals"


def _root(rule: Rule, policy: Policy, changeable: Changeable) -> Iterator[tuple[str, str]]:
    """Lines that give root, and those that look as if they did but are always denied."""
    given = [policy.roles[name] for name in rule.roles]
    for group in rule.privileged_groups:
        held = privileged_group(group, policy.extra_privileged_groups) or "is listed as privileged"
        yield "gives_privileged_group", f"group {group!a} {held}"
    for words in rule.root_equivalent:
        why = (
            root_equivalent(words, policy.extra_root_equivalent)
            or changeable(_run_as(rule), words)
            or "is listed as root-equivalent"
        )
        yield "gives_root", f"{' '.join(words)!a} {why}: what its user leaves behind as root can't be contained"
    for group in dict.fromkeys((*_listed_groups(rule), *_role_groups(given))):
        why_group = privileged_group(group, policy.extra_privileged_groups)
        if why_group is not None and group not in rule.privileged_groups:
            yield "always_denied", f"group {group!a} {why_group}; without a line in privileged_groups it is denied"
    for words in dict.fromkeys((*(rule.sudo.commands if rule.sudo else ()), *_role_commands(given))):
        why = root_equivalent(words, policy.extra_root_equivalent) or changeable(_run_as(rule), words) or ""
        if why and words not in rule.root_equivalent:
            yield "always_denied", f"{' '.join(words)!a} {why}; without a line in root_equivalent it is denied"


def _run_as(rule: Rule) -> tuple[str, ...]:
    return rule.sudo.run_as if rule.sudo else DEFAULT_RUN_AS


def _listed_groups(rule: Rule) -> tuple[str, ...]:
    return (*rule.groups, *(rule.accounts.groups if rule.accounts else ()))


def _role_groups(roles: Collection[Role]) -> Iterator[str]:
    for role in roles:
        for want in role.entries:
            if isinstance(want, AccountWant | GroupWant):
                yield from want.groups


def _role_commands(roles: Collection[Role]) -> Iterator[tuple[str, ...]]:
    for role in roles:
        for want in role.entries:
            if isinstance(want, SudoWant):
                yield from want.commands
