"""Bytes in one direction, from one end to another, with at most one read's worth held in between.

While the sink takes nothing, nothing is read: what the one side does not take the other side feels, as if they were connected.
"""

from collections.abc import Callable

from agent.sessions.recorder.ends import Bytes, End, Tap
from agent.sessions.recorder.loop import GONE, IN, OUT, Loop

_READS_A_TURN = 16  # then it is the turn of other sessions


class Side:
    """An end, in the loop: at most one flow reads from it, at most one writes to it."""

    __slots__ = ("_hung", "_loop", "end", "feeds", "takes")

    def __init__(self, loop: Loop, end: End) -> None:
        self._loop = loop
        self.end = end
        self.feeds: Flow | None = None
        self.takes: Flow | None = None
        self._hung = False

    def update(self) -> None:
        """Ask the kernel for what is wanted now; a hang-up that is known and of no use meanwhile is not asked for again."""
        if self.end.fd < 0:
            return
        mask = (IN if self.feeds and self.feeds.reads else 0) | (OUT if self.takes and self.takes.writes else 0)
        if not mask and self._hung:
            self._loop.forget(self.end.fd)
        else:
            self._loop.watch(self.end.fd, mask, self.ready)

    def ready(self, events: int) -> None:
        """Called by the loop."""
        if events == IN and self.feeds is not None:  # every key and every piece of output: nothing else has to be looked at
            self.feeds.fill()
            return
        self._hung = self._hung or bool(events & GONE)
        if self.takes and events & (OUT | GONE):
            self.takes.drain()
        if self.feeds and events & (IN | GONE):
            self.feeds.fill()
        if self.takes and events & GONE:
            self.takes.break_off()
        self.update()

    def later(self, call: Callable[[], object]) -> None:
        """After others' turns."""
        self._loop.after(0, call)

    def close(self) -> None:
        """Out of the loop, and closed; twice is the same as once."""
        if self.end.fd >= 0:
            self._loop.forget(self.end.fd)
            self.end.close()


class Flow:
    """``tap`` sees every byte before it goes on, and may say False: hold it back. ``over`` is called once, with why.

    ``kept`` is told what is held in between, whenever that changes.
    """

    __slots__ = ("_kept", "_over", "_tap", "done", "dry", "held", "pending", "sink", "source")

    def __init__(
        self, source: Side, sink: Side, tap: Tap, over: Callable[["Flow", str], None], kept: Callable[["Flow"], None]
    ) -> None:
        self.source, self.sink = source, sink
        self._tap, self._over, self._kept = tap, over, kept
        self.pending = b""
        self.done = ""  # why nothing flows any more: "end" of what comes in, or "broken": nobody takes it
        self.held = False
        self.dry: Callable[[], None] | None = None  # called when all that there is for now has been passed on
        source.feeds = sink.takes = self

    @property
    def reads(self) -> bool:
        """Whether it would read more now."""
        return not (self.pending or self.held or self.done)

    @property
    def writes(self) -> bool:
        """Whether it waits for the sink."""
        return bool(self.pending) and not (self.held or self.done)

    def start(self) -> None:
        """Let it flow."""
        self.source.update()
        self.sink.update()

    def fill(self) -> None:
        """Pass on what is there, a few reads of it. While all is taken, the kernel is asked for nothing else."""
        source, sink = self.source.end, self.sink.end
        for _ in range(_READS_A_TURN):
            if self.pending or self.held or self.done:
                return
            data = source.read()
            if data is None:
                if self.dry is not None:
                    self.dry()
                return
            if not data:
                self._finish("end")
                return
            took = sink.write(data) if self._tap(data) else 0
            if took != len(data):
                self._keep(data, took)
                return
            if took < source.full and self.dry is None:
                return
        if self.dry is not None:  # what is left may be nothing, of which nobody would tell
            self.source.later(self.fill)

    def _keep(self, data: Bytes, took: int) -> None:
        """Not all of it was taken."""
        if took < 0:
            self.break_off()
            return
        self.pending = bytes(data[took:])
        self._kept(self)
        self.source.update()
        self.sink.update()

    def drain(self) -> None:
        """Write what waits; when all of it is gone, read on."""
        if not self.writes:
            return
        took = self.sink.end.write(self.pending)
        if took < 0:
            self.break_off()
        elif took:
            self.pending = self.pending[took:]
            self._kept(self)
            if not self.pending:
                self.fill()
                self.source.update()
                self.sink.update()

    def hold(self, held: bool) -> None:
        """Let nothing pass, or again."""
        self.held = held
        if not held:
            self.drain()
            if self.dry is not None:
                self.fill()
        self.source.update()
        self.sink.update()

    def break_off(self) -> None:
        """Nobody takes it any more: who writes is told."""
        self._finish("broken")

    def _finish(self, why: str) -> None:
        if self.done:
            return
        self.done = why
        self.pending = b""
        self._kept(self)
        if why == "end":
            self.sink.end.no_more()
        else:
            self.source.end.deaf()
        for side in (self.source, self.sink):
            if side.end.both_ways:
                side.update()
            else:
                side.close()
        self._over(self, why)
