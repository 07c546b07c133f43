"""Ceilings on each entry of a grant. What a role gives need not stand in the rule; who gets it, from where, and what amounts to
root is judged for roles too. Each check is pure; None is no objection.
"""

import ipaddress
from collections.abc import Sequence

from agent.model import AccountWant, GroupWant, SshWant, SudoWant
from agent.policy.case import Case
from agent.policy.model import Denied, Entry, Network, SshCeiling
from agent.policy.privileged import privileged_group

_RESERVED = frozenset({"root", "tidegate"})


def all_entries(case: Case) -> Denied | None:
    """The first objection to any entry, in the grant's order."""
    for entry in case.entries:
        denied = _entry(case, entry)
        if denied is not None:
            return denied
    return None


def reserved(login: str) -> bool:
    """Whether no policy may hand out this login: root's and Tidegate's own."""
    return login in _RESERVED or login.startswith("tidegate-")


def _entry(case: Case, entry: Entry) -> Denied | None:
    want = entry.want
    if reserved(want.identifier):
        return Denied("login_reserved", f"{want.identifier!a} is never granted", f"{entry.field}.identifier")
    if isinstance(want, AccountWant):
        return _account(case, entry, want)
    if isinstance(want, SshWant):
        return _ssh(case, entry, want)
    if isinstance(want, SudoWant):
        return _holder(case, entry) or _sudo(case, entry, want)
    if isinstance(want, GroupWant):
        return _holder(case, entry) or _groups(case, entry, want.groups, case.rule.groups)
    return Denied("entry_not_allowed", f"an entry of type {want.type!a} can't be judged", entry.field)


def _account(case: Case, entry: Entry, want: AccountWant) -> Denied | None:
    ceiling = case.rule.accounts
    if ceiling is None or not ceiling.create:
        return Denied("account_not_allowed", "the rule lets no account be made", entry.field)
    if not want.identifier.startswith(ceiling.prefix) or want.identifier == ceiling.prefix:
        reason = f"{want.identifier!a} must be {ceiling.prefix!a} and a name"
        return Denied("prefix_required", reason, f"{entry.field}.identifier")
    if entry.role is None and want.shell not in ceiling.shells:
        return Denied("shell_not_allowed", f"shell {want.shell[:64]!a} is not in the rule", f"{entry.field}.shell")
    if entry.role is None and want.home not in ceiling.home:
        return Denied("home_not_allowed", f"home {want.home[:40]!a} is not in the rule", f"{entry.field}.home")
    return _groups(case, entry, want.groups, ceiling.groups)


def _groups(case: Case, entry: Entry, asked: Sequence[str], listed: Sequence[str]) -> Denied | None:
    for index, group in enumerate(asked):
        field = f"{entry.field}.groups[{index}]" if entry.role is None else entry.field
        if entry.role is None and group not in listed:
            return Denied("group_not_allowed", f"group {group!a} is not in the rule", field)
        why = privileged_group(group, case.policy.extra_privileged_groups)
        if why is not None and group not in case.rule.privileged_groups:
            return Denied("group_privileged", f"group {group!a} {why}; the rule's privileged_groups does not name it", field)
    return None


def _ssh(case: Case, entry: Entry, want: SshWant) -> Denied | None:
    if not case.makes(want.identifier):
        reason = f"{want.identifier!a} is no account of this grant; ssh is opened for new accounts only"
        return Denied("ssh_needs_account", reason, f"{entry.field}.identifier")
    ceiling = case.rule.ssh
    if ceiling is None:
        return None if entry.role is not None else Denied("ssh_not_allowed", "the rule allows no ssh entry", entry.field)
    if entry.role is None:
        denied = _ssh_means(ceiling, entry, want)
        if denied is not None:
            return denied
    return _sources(ceiling, entry, want)


def _ssh_means(ceiling: SshCeiling, entry: Entry, want: SshWant) -> Denied | None:
    if want.keys and not ceiling.keys:
        return Denied("keys_not_allowed", "the rule allows certificates only, no bare keys", f"{entry.field}.keys")
    for index, principal in enumerate(want.principals):
        if not any(pattern.matches(principal) for pattern in ceiling.principals):
            field = f"{entry.field}.principals[{index}]"
            return Denied("principal_not_allowed", f"principal {principal!a} is not in the rule", field)
    for index, action in enumerate(want.actions):
        if action not in ceiling.actions:
            return Denied("action_not_allowed", f"action {action[:40]!a} is not in the rule", f"{entry.field}.actions[{index}]")
    return None


def _sources(ceiling: SshCeiling, entry: Entry, want: SshWant) -> Denied | None:
    field = f"{entry.field}.source_address"
    if not want.source_address:
        if ceiling.require_source_address or ceiling.source_networks:
            return Denied("source_required", "must say from which addresses", field)
        return None
    if not ceiling.source_networks:
        return None
    for index, text in enumerate(want.source_address):
        if not _within(text, ceiling.source_networks):
            return Denied("source_not_allowed", f"{text[:64]!a} is not inside the rule's networks", f"{field}[{index}]")
    return None


def _within(text: str, networks: Sequence[Network]) -> bool:
    try:
        asked = ipaddress.ip_network(text, strict=True)
    except ValueError:
        return False
    if isinstance(asked, ipaddress.IPv4Network):
        return any(isinstance(network, ipaddress.IPv4Network) and asked.subnet_of(network) for network in networks)
    return any(isinstance(network, ipaddress.IPv6Network) and asked.subnet_of(network) for network in networks)


def _holder(case: Case, entry: Entry) -> Denied | None:
    """sudo and group entries are for an account of this grant, or one the rule lists that was there before Tidegate."""
    login = entry.want.identifier
    if case.makes(login):
        return None
    listed = case.rule.accounts is not None and login in case.rule.accounts.existing
    if not listed or case.is_ours(login):
        reason = f"{login!a} is neither an account of this grant nor an existing one in the rule"
        return Denied("existing_not_allowed", reason, f"{entry.field}.identifier")
    return None


def _sudo(case: Case, entry: Entry, want: SudoWant) -> Denied | None:
    ceiling, given = case.rule.sudo, entry.role is not None
    if ceiling is None and not given:
        return Denied("sudo_not_allowed", "the rule allows no sudo entry", entry.field)
    for index, user in enumerate(want.run_as):
        if not given and (ceiling is None or user not in ceiling.run_as):
            return Denied("run_as_not_allowed", f"run_as {user!a} is not in the rule", f"{entry.field}.run_as[{index}]")
    for index, words in enumerate(want.commands):
        field = entry.field if given else f"{entry.field}.commands[{index}]"
        shown = " ".join(words)[:100]
        if not given and (ceiling is None or words not in ceiling.commands):
            return Denied("command_not_allowed", f"{shown!a} is not in the rule, word for word", field)
        why = case.why_root(want, words)
        if why is not None and words not in case.rule.root_equivalent:
            return Denied("command_root_equivalent", f"{shown!a} {why}; the rule's root_equivalent does not name it", field)
    return None
