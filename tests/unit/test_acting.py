"""The threads of teardown: an alarm is never lost, though the host can start no more threads."""

import threading

import pytest

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
