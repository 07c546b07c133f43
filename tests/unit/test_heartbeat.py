"""systemd is told in time that the loop goes round, and no wake-up is for that alone where another comes anyway."""

import asyncio
import errno
import socket
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import heartbeat
from agent.heartbeat import Heartbeat


class FakeLoop:
    """Notes what is to be called, and when."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waiting: list[list[Any]] = []

    def call_later(self, delay_s: float, call: Any) -> Any:
        entry = [self.now_s + delay_s, call]
        self.waiting.append(entry)

        def cancel() -> None:
            self.waiting = [other for other in self.waiting if other is not entry]

        return SimpleNamespace(cancel=cancel)

    def pass_to(self, now_s: float) -> None:
        while self.waiting and self.waiting[0][0] <= now_s:
            self.now_s, call = self.waiting.pop(0)
            call()
        self.now_s = now_s


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, loop: FakeLoop) -> list[float]:
    words: list[float] = []
    monkeypatch.setattr(
        heartbeat, "tell_systemd", lambda state, _patience_s: words.append(loop.now_s) if state == "WATCHDOG=1" else None
    )
    monkeypatch.setattr(time, "monotonic", lambda: loop.now_s)
    return words


def beating(loop: FakeLoop, period_us: str = "30000000") -> Heartbeat:
    made = Heartbeat(cast(asyncio.AbstractEventLoop, loop), period_us)
    made.begin()
    return made


def test_it_is_said_at_once_and_in_each_half_of_the_period(loop: FakeLoop, said: list[float]) -> None:
    beating(loop)
    loop.pass_to(1060)
    assert said == [1000, 1015, 1030, 1045, 1060]


def test_who_is_awake_every_ten_seconds_anyway_wakes_for_nothing_else(loop: FakeLoop, said: list[float]) -> None:
    beats = beating(loop)
    for now in (1010, 1020, 1030):
        loop.pass_to(now)
        beats.awake()
    assert said == [1000, 1010, 1020, 1030]
    assert [at for at, _ in loop.waiting] == [1045]


def test_many_wake_ups_are_not_as_many_words(loop: FakeLoop, said: list[float]) -> None:
    beats = beating(loop)
    for tenth in range(100):
        loop.pass_to(1000 + tenth / 10)
        beats.awake()
    assert said == [1000, 1005]


def test_nothing_is_said_where_nobody_watches(loop: FakeLoop, said: list[float]) -> None:
    beats = beating(loop, "")
    loop.pass_to(2000)
    beats.awake()
    assert said == []
    assert loop.waiting == []


def test_with_no_descriptor_left_nothing_is_raised_and_the_next_word_is_set(
    loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setattr(socket, "socket", none_left)
    beating(loop)
    assert len(loop.waiting) == 1
