"""One line of what a grant gives, for people."""

from agent.model.grant import AccountWant, Grant, GroupWant, RoleWant, SshWant, SudoWant, Want


def summarise(grant: Grant) -> str:
    """Such as ``jit-alice (ssh login+exec from 10.1.0.0/16; sudo /usr/bin/id as root; groups adm)``."""
    by_login: dict[str, list[str]] = {}
    for want in grant.wants:
        by_login.setdefault(want.identifier, []).extend(_what(want))
    return ", ".join(f"{login} ({'; '.join(parts)})" if parts else login for login, parts in by_login.items())


def _what(want: Want) -> list[str]:
    match want:
        case SshWant():
            where = f" from {' '.join(want.source_address)}" if want.source_address else ""
            return [f"ssh {'+'.join(want.actions)}{where}"]
        case SudoWant():
            return [f"sudo {' | '.join(' '.join(words) for words in want.commands)} as {','.join(want.run_as)}"]
        case AccountWant() | GroupWant():
            return [f"groups {','.join(want.groups)}"] if want.groups else []
        case RoleWant():
            return [f"role {want.name}"]
