"""Going on with a recording after whoever wrote it has died."""

from pathlib import Path

from agent.sessions.recording.format import Block, Damage, Frame, Kind, Seal
from agent.sessions.recording.reader import CHUNK, Records, frames
from agent.sessions.recording.writer import Writer, covered


def recover(path: Path, at_ns: int, *, away_us: int = 0) -> tuple[Writer, int]:
    """A writer that goes on after the last whole, valid record, and the size to cut the file to before anything is appended.

    Every hash is checked (about a second for a gigabyte): after a power loss the end may have its length and not its bytes.

    Args:
        path: the file, also by /proc/self/fd where only its descriptor was handed over.
        at_ns: now, of the clock that the writer is going to be given.
        away_us: how long nobody recorded, at most; the time goes on from the last frame, and this much later.

    Raises:
        ValueError: nothing can be gone on with: not even the first block is whole. Begin a new recording.
        OSError: it can't be read.
    """
    parser = Records()
    seq, sealed, size, chain = -1, -1, 0, parser.chain
    last: Block | None = None
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            for item in parser.feed(data):
                if isinstance(item, Damage):
                    return _going_on(last, chain, size, sealed, at_ns, away_us)
                if isinstance(item, Block):
                    seq, last, size, chain = item.seq, item, item.end, item.head
                elif _whole(item, seq):
                    sealed, size, chain = max(sealed, item.seq), parser.offset, parser.chain  # it yields each before the next
                else:
                    return _going_on(last, chain, size, sealed, at_ns, away_us)
    return _going_on(last, chain, size, sealed, at_ns, away_us)


def _going_on(last: Block | None, chain: bytes, size: int, sealed: int, at_ns: int, away_us: int) -> tuple[Writer, int]:
    if last is None:
        raise ValueError("not even the first block is whole")
    found = [item for item in frames(last) if isinstance(item, Frame)]
    at_us = found[-1].at_us if found else 0
    ended = bool(found) and found[-1].kind is Kind.END
    writer = Writer.going_on(
        seq=last.seq,
        head=last.head,
        chain=chain,
        size=size,
        sealed=sealed,
        ended=ended,
        last_us=at_us + away_us,
        at_ns=at_ns,
    )
    return writer, size


def _whole(seal: Seal, seq: int) -> bool:
    """Whether it has the form of a seal of a block that is there. Its signature is for :func:`verify` to check."""
    try:
        return covered(seal.jws) == seal.seq <= seq
    except ValueError:
        return False
