"""The threads of teardown: an alarm is never lost, though the host can start no more threads."""

import threading
from concurrent.futures import Executor, Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.acting import Acting
from agent.expiry.schedule import Act, Alarm
from agent.host.threads import pool_of, submit


def test_no_thread_is_started_once_the_pool_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(2, "cut")

    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    done = threading.Semaphore(0)
    held = threading.Event()
    for _ in range(2):
        submit(pool, held.wait, 5)
    submit(pool, done.release)  # one more than there are threads: it waits, and is not lost
    held.set()
    assert done.acquire(timeout=5)
    pool.shutdown()


def test_a_job_that_fails_is_told_and_the_next_is_done(caplog: pytest.LogCaptureFixture) -> None:
    pool = pool_of(1, "again")
    done = threading.Event()
    submit(pool, lambda: 1 / 0)
    submit(pool, done.set)
    assert done.wait(5)
    pool.shutdown()
    assert "a job failed" in caplog.text


class NotedPool(Executor):
    """Does nothing, and notes for whom."""

    def __init__(self, size: int, name: str, jobs: list[tuple[int, str]]) -> None:
        self.about, self.jobs = (size, name), jobs

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        self.jobs.append(self.about)
        return Future()


def test_the_mark_of_the_time_wakes_one_thread_and_no_other() -> None:
    """Of several threads that wait for work, Python wakes two for each job: every ten seconds, as long as anything is open."""
    jobs: list[tuple[int, str]] = []
    ledger = SimpleNamespace(get=lambda _id: None, to_sweep=lambda _alarm: {}, lent_to_sweep=lambda _alarm: ())
    pipeline = SimpleNamespace(prover=SimpleNamespace(ready=lambda _pools: None), teardown=SimpleNamespace(), ledger=ledger)
    acting = Acting(cast(Any, pipeline), NotedPool(1, "take", jobs), lambda size, name: NotedPool(size, name, jobs))
    acting.act([Alarm(Act.MARK, 0)])
    assert jobs == [(1, "mark")]
