"""The proof of a grant's two moments, opened and closed, from what sshd and sudo answered. Pure; the receipt carries it.

Steps say what to ask: a step's data ``asks`` lists ``{"kind":"key"|"principal","login","credential"}`` for sshd and
``{"kind":"sudo","login","run_as","commands","not_after","timeout_s"}`` for sudo.
"""

import base64
import binascii
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from agent.host.asking import ACCEPTED, NOT_ASKED, Answer, Question, Right
from agent.model import Json, Step

_LISTED = 64  # rights named in a proof


def questions(steps: Iterable[Step]) -> list[Question]:
    """What to ask sshd, in the steps' order."""
    return [
        Question(str(ask["kind"]), str(ask["login"]), str(ask["credential"]))
        for ask in _asks(steps)
        if ask.get("kind") in {"key", "principal"}
    ]


def wanted(steps: Iterable[Step]) -> dict[str, frozenset[Right]]:
    """Login → the very rights that this grant's sudo rules give."""
    found: dict[str, set[Right]] = {}
    for ask in _asks(steps):
        if ask.get("kind") == "sudo":
            found.setdefault(str(ask["login"]), set()).update(_rights(ask))
    return {login: frozenset(rights) for login, rights in found.items()}


def fingerprint(credential: str) -> str:
    """``SHA256:...`` of a public key line, as ssh-keygen -l prints it; a principal stands for itself."""
    kind, _, encoded = credential.partition(" ")
    if not encoded:
        return kind
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return "malformed"
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def of_sshd(asked: Sequence[Question], answers: Sequence[Answer]) -> list[Json]:
    """The ``ssh`` member: each credential and what sshd says of it."""
    return [
        {
            "login": question.login,
            "kind": question.kind,
            "credential": fingerprint(question.credential),
            "answer": answer.answer,
            "why": answer.why,
            "ms": answer.ms,
        }
        for question, answer in zip(asked, answers, strict=True)
    ]


def of_sudo(
    login: str,
    grants: Collection[Right],
    listed: Sequence[Right] | Answer,
    before: Collection[str] | None,
    *,
    ms: int,
    opened: bool,
) -> dict[str, Json]:
    """One row of the ``sudo`` member: ``equal`` when sudo allows what it allowed ``before`` and, while open, what was granted.

    ``missing`` is granted and not allowed; ``more`` is allowed and neither granted nor there ``before`` (None: not known);
    ``still``, after closing, is the grant's own rule, told by its NOTAFTER, and allowed all the same.
    """
    if isinstance(listed, Answer):
        return {"login": login, "answer": listed.answer, "why": listed.why, "ms": listed.ms}
    row: dict[str, Json] = {"login": login, "answer": "equal", "ms": ms}
    lists = {
        "missing": sorted(map(str, set(grants) - set(listed))) if opened else [],
        "still": [] if opened else sorted(map(str, set(grants) & set(listed))),
        "more": sorted({str(right) for right in set(listed) - set(grants)} - set(before or ())) if before is not None else [],
    }
    for name, found in lists.items():
        if found:
            row |= {"answer": "not equal", name: [*found[:_LISTED]], f"{name}_count": len(found)}
    return row


def troubles_opened(ssh: Iterable[Json], sudo: Iterable[Json], *, groups: Collection[str]) -> list[str]:
    """What is wrong with a grant that stands open: too little, or too much. ``groups``: granted ones, which may bring rights."""
    found = [
        f"sshd refuses the {row['kind']} {row['credential']} of {row['login']} ({row['why']})"
        for row in _rows(ssh)
        if row["answer"] not in {ACCEPTED, NOT_ASKED}
    ]
    for row in _rows(sudo):
        found += [f"sudo does not allow {row['login']} {right}" for right in _texts(row, "missing")]
        if not groups:
            found += [f"sudo allows {row['login']} more than was granted: {right}" for right in _texts(row, "more")]
    return found


def troubles_closed(ssh: Iterable[Json], sudo: Iterable[Json]) -> list[str]:
    """What is still let in, or still allowed, after closing."""
    found = [
        f"sshd still accepts the {row['kind']} {row['credential']} of {row['login']}"
        for row in _rows(ssh)
        if row["answer"] == ACCEPTED
    ]
    for row in _rows(sudo):
        found += [f"sudo still allows {row['login']} {right}" for right in _texts(row, "still")]
    return found


def granted_groups(steps: Iterable[Step], tenant_group: str) -> frozenset[str]:
    """Groups that the grant gives, beside the tenants' own."""
    groups = (step.data.get("group") for step in steps if step.action == "membership")
    return frozenset(group for group in groups if isinstance(group, str)) - {tenant_group}


def _asks(steps: Iterable[Step]) -> Iterator[Mapping[str, Json]]:
    for step in steps:
        asks = step.data.get("asks")
        yield from (ask for ask in asks if isinstance(ask, dict)) if isinstance(asks, list) else ()


def _rights(ask: Mapping[str, Json]) -> Iterator[Right]:
    run_as, commands, timeout = ask.get("run_as"), ask.get("commands"), ask.get("timeout_s")
    users = tuple(str(name) for name in run_as) if isinstance(run_as, list) else ()
    for command in commands if isinstance(commands, list) else ():
        yield Right(users, str(command), str(ask.get("not_after") or ""), timeout if isinstance(timeout, int) else None)


def _rows(rows: Iterable[Json]) -> Iterator[dict[str, Json]]:
    return (row for row in rows if isinstance(row, dict))


def _texts(row: Mapping[str, Json], name: str) -> list[str]:
    found = row.get(name)
    return [str(text) for text in found] if isinstance(found, list) else []
