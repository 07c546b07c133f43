"""The threads of teardown: an alarm is never lost, though the host can start no more threads."""

import threading

import pytest

from agent.acting import pool_of, submit


def test_a_host_that_can_start_no_thread_still_has_those_made_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(4, "cut", ready=2)

    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    done = threading.Semaphore(0)
    held = threading.Event()
    for _ in range(2):
        submit(pool, held.wait, 5)
    submit(pool, done.release)  # one more than there are threads, and no third can be made: it waits, and is not lost
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
