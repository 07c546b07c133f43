"""What a case is, and when two outcomes of it are the same."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tests.sessions.bed import PLAIN, RECORDED, Person

# What was seen, by name: exit status, bytes, counts. All of it must be the same with and without a recorder.
Outcome: TypeAlias = dict[str, object]
Normal: TypeAlias = Callable[[bytes], bytes]
GO = b"<GO>"  # what comes before it on a terminal is the host's word to the tenant, not the command's


@dataclass(frozen=True)
class Case:
    """``play`` is done by each of the two; ``normal`` takes out of all bytes what differs between any two logins."""

    name: str
    play: Callable[[Person], Outcome]
    normal: Normal = lambda data: data
    slow: bool = False


_SAME: tuple[tuple[bytes, bytes], ...] = (
    (rb"jit-(rec|off)-a", b"LOGIN"),
    (rb"\b7\d{4}\b", b"UID"),
    (rb"pts/\d+", b"pts/N"),
    (rb"(SSH_CLIENT|SSH_CONNECTION)=[^\r\n]*", rb"\1=ADDRESSES"),
    (rb"XDG_SESSION_ID=\S+", b"XDG_SESSION_ID=ID"),
    (rb"session-c?\d+\.scope", b"session-ID.scope"),
    (rb"/tmp/sessions-[^/\s]+", b"FOLDER"),
)
assert len(RECORDED) == len(PLAIN)


def usual(data: bytes) -> bytes:
    """Without names, numbers and addresses of one login."""
    for pattern, word in _SAME:
        data = re.sub(pattern, word, data)
    return data


def after_go(data: bytes) -> bytes:
    """Without what the host itself says before a command on a terminal starts."""
    _, found, rest = data.partition(GO)
    return rest if found else data


def ordinals(data: bytes) -> bytes:
    """Every number over 99 becomes the place at which it was first seen: process ids by their shape."""
    seen: dict[bytes, bytes] = {}
    return re.sub(rb"\b\d{3,}\b", lambda found: seen.setdefault(found[0], b"#%d" % (len(seen) + 1)), data)


def squeezed(data: bytes) -> bytes:
    """Runs of blanks as one, none at the ends of lines."""
    return re.sub(rb" *(\r?\n)", rb"\1", re.sub(rb"[ \t]+", b" ", data))


def escapes_only(data: bytes) -> bytes:
    """The kinds of control sequences used, each once: for screens whose contents never stay the same."""
    return b"\n".join(sorted({re.sub(rb"\d+", b"N", found) for found in re.findall(rb"\x1b[\[(][0-9;?]*.", data)}))


def without_erasing(kinds: bytes) -> bytes:
    """Of :func:`escapes_only`: tmux erases by one sequence or another as it happens to draw one pane before the next."""
    return b"\n".join(kind for kind in kinds.split(b"\n") if kind not in {b"\x1b[K", b"\x1b[NK", b"\x1b[X", b"\x1b[NX"})


def chain(*steps: Normal) -> Normal:
    """One after the other."""

    def all_of(data: bytes) -> bytes:
        for step in steps:
            data = step(data)
        return data

    return all_of


def differences(case: Case, one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """What differs between two outcomes, one line each."""
    found = []
    for name in sorted({*one, *other}):
        values = [_told(case, seen.get(name)) for seen in (one, other)]
        if values[0] != values[1]:
            found.append(f"{name}: {_first_difference(*values)}")
    return found


def _told(case: Case, value: object) -> object:
    return usual(case.normal(value)) if isinstance(value, bytes) else value


def _first_difference(one: object, other: object) -> str:
    if not (isinstance(one, bytes) and isinstance(other, bytes)):
        return f"{one!r} recorded, {other!r} not"
    at = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other)))
    begin = max(0, at - 20)
    return f"at byte {at}: {one[begin : at + 60]!r} recorded, {other[begin : at + 60]!r} not ({len(one)}, {len(other)} bytes)"
