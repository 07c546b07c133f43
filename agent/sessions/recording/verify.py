"""Is a recording as it was written? Every hash, every seal, begin and end; each thing that is wrong is told with its byte."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import RefusedError
from agent.sessions.recording.format import Block, Damage, Frame, Json, Kind, Seal, described
from agent.sessions.recording.reader import frames, opened, records

# Verifies a compact JWS under the host's keys and returns its claims; raises RefusedError. See agent.sessions.recording.sealing.
SealKey = Callable[[bytes], Mapping[str, object]]

PROBLEMS_MAX = 100
_LATE_MAX = 1 << 16  # blocks that may come between one and its seal


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``offset``: first byte of the record, or where something is missing. ``code``: a Damage's, or
    ``identity``, ``meta``, ``seal``, ``unsealed``, ``after_end``, ``no_end``."""

    offset: int
    code: str
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying found.

    ``ok``: whole, from its META to its END, and under a final seal. ``unfinished``: nothing is wrong but that it has no END: it is
    still being written, or its end was cut off between two records; the file alone can't tell which. ``sealed_through``: the newest
    block under a valid seal, None when there is none: then nothing shows who wrote it. ``sealed_bytes``: up to where that is.
    """

    ok: bool
    unfinished: bool
    problems: tuple[Problem, ...]
    unlisted: int
    meta: Mapping[str, Json]
    size: int
    blocks: int
    seals: int
    sealed_through: int | None
    sealed_bytes: int
    ended: bool
    gaps: int
    lasted_us: int


def verify(path: Path, key: SealKey, *, ident: str | None = None) -> Verdict:
    """Check a whole recording. ``ident``: the id that it must have, where the caller knows it.

    What can't be seen: blocks after the last seal prove only that they follow from each other; whoever may write the file can
    replace or drop them until the next seal. That is why a recording without END is never ``ok``.

    Raises:
        OSError: it can't be read.
    """
    check = _Check(key, ident)
    with opened(path) as file:
        for item in records(file):
            check.take(item)
        return check.verdict(file.tell())


@dataclass(slots=True)
class _Check:
    key: SealKey
    ident: str | None
    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0
    meta: Mapping[str, Json] = field(default_factory=dict)
    heads: dict[int, tuple[str, int]] = field(default_factory=dict)  # seq → chain value, end: of blocks under no seal yet
    first: bool = True
    blocks: int = 0
    seals: int = 0
    last: Block | None = None
    sealed: int | None = None
    sealed_bytes: int = 0
    final: bool = False
    ended: bool = False
    gaps: int = 0
    lasted_us: int = 0

    def problem(self, offset: int, code: str, what: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(offset, code, what))
        else:
            self.unlisted += 1

    def take(self, item: Block | Seal | Damage) -> None:
        if isinstance(item, Damage):
            self.problem(item.offset, item.code, item.what)
            return
        if isinstance(item, Seal):
            self.seal(item)
        else:
            self.block(item)

    def block(self, block: Block) -> None:
        if self.ended:
            self.problem(block.offset, "after_end", f"block {block.seq} follows the END")
        self.blocks, self.last = self.blocks + 1, block
        self.heads[block.seq] = (block.head.hex(), block.end)
        if len(self.heads) > _LATE_MAX:
            del self.heads[next(iter(self.heads))]
        for item in frames(block):
            if isinstance(item, Damage):
                self.problem(item.offset, item.code, item.what)
            else:
                self.frame(item, block)

    def frame(self, frame: Frame, block: Block) -> None:
        if self.ended and self.last is block and frame.kind is not Kind.END:
            self.problem(block.offset, "after_end", f"block {block.seq} goes on after the END")
        if frame.at_us < self.lasted_us:
            self.problem(block.offset, "frame", f"block {block.seq}: time goes back")
        self.lasted_us = max(self.lasted_us, frame.at_us)
        if self.first != (frame.kind is Kind.META):
            self.problem(block.offset, "meta", "it does not begin with META" if self.first else "a second META")
        elif self.first:
            self.meta = self.described(frame, block.offset)
        self.first = False
        self.ended = self.ended or frame.kind is Kind.END
        if frame.kind is Kind.EVENT and described(frame).get("type") == "gap":
            self.gaps += 1

    def described(self, frame: Frame, offset: int) -> Mapping[str, Json]:
        found = described(frame)
        if not isinstance(found.get("id"), str):
            self.problem(offset, "meta", "META names no recording")
        elif self.ident is not None and found["id"] != self.ident:
            self.problem(offset, "identity", f"this is the recording {found['id']}, not {self.ident}")
        return found

    def seal(self, seal: Seal) -> None:
        self.seals += 1
        try:
            claims = self.key(seal.jws.encode("ascii"))
        except RefusedError as error:
            self.problem(seal.offset, "seal", f"the seal of block {seal.seq} does not hold: {error.reason}")
            return
        wrong = self.mismatch(seal, claims)
        if wrong:
            self.problem(seal.offset, "seal", f"the seal of block {seal.seq} {wrong}")
            return
        self.sealed, self.sealed_bytes = seal.seq, self.heads[seal.seq][1]
        self.final = claims.get("final") is True
        for seq in [seq for seq in self.heads if seq < seal.seq]:
            del self.heads[seq]

    def newer(self, seal: Seal, claims: Mapping[str, object]) -> bool:
        """Whether it says more than the seal before. A final one may come once more: where the disk took the first too late, the
        recorder asks again, and what it is given is made for the file with the first in it."""
        if seal.seq != self.sealed:
            return self.sealed is not None and seal.seq > self.sealed
        return claims.get("final") is True and (not self.final or claims.get("bytes") == seal.offset)

    def mismatch(self, seal: Seal, claims: Mapping[str, object]) -> str:
        """What the host signed that is not so here; "" when all of it is."""
        if claims.get("recording") != self.meta.get("id"):
            return f"is of another recording: {claims.get('recording')}"
        if "jti" in self.meta and claims.get("jti") != self.meta["jti"]:
            return "is of another grant"
        if claims.get("seq") != seal.seq:
            return f"was made for block {claims.get('seq')}"
        if self.sealed is not None and not self.newer(seal, claims):
            return f"comes after that of block {self.sealed}"
        if seal.seq not in self.heads:
            return "stands where that block has not come yet, or long after it"
        head, end = self.heads[seal.seq]
        if claims.get("head") != head:
            return "is over other bytes than those that stand before it"
        size = claims.get("bytes")
        if not isinstance(size, int) or not end <= size <= seal.offset:
            return f"was made for a file of {size} bytes, and the block ends at {end}"
        return "" if claims.get("final") is not True or self.ended else "says that it is the final one, and there is no END"

    def verdict(self, size: int) -> Verdict:
        whole = not self.problems
        if self.blocks == 0 and whole:
            self.problem(size, "meta", "it holds nothing")
        elif not self.ended:
            self.problem(size, "no_end", f"no END: it is still being written, or was cut off at byte {size}")
        elif not self.final:
            after = (
                "nothing of it is under a seal"
                if self.sealed is None
                else f"what follows block {self.sealed} is under no final seal"
            )
            self.problem(self.sealed_bytes, "unsealed", f"it has ended, and {after}")
        return Verdict(
            ok=not self.problems,
            unfinished=whole and self.blocks > 0 and not self.ended,
            problems=tuple(self.problems),
            unlisted=self.unlisted,
            meta=self.meta,
            size=size,
            blocks=self.blocks,
            seals=self.seals,
            sealed_through=self.sealed,
            sealed_bytes=self.sealed_bytes,
            ended=self.ended,
            gaps=self.gaps,
            lasted_us=self.lasted_us,
        )
