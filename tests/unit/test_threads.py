"""What an opening waits for beside its own work."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host.threads import pool_of, take_short_turns, together


def test_jobs_run_while_the_block_does_and_the_block_ends_after_them() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        go_on.wait(10)
        ended.set()

    pool = pool_of(1, "test")
    with together(pool, job):
        assert begun.wait(10) and not ended.is_set()
        go_on.set()
    assert ended.is_set()
    pool.shutdown()


def test_a_failed_job_fails_the_block_and_the_blocks_own_error_comes_first() -> None:
    def job() -> None:
        raise HostError("backstop", "no timer")

    done: list[str] = []
    with pytest.raises(HostError, match="no timer"), together(None, job):
        done.append("the block")
    assert done == ["the block"]
    with pytest.raises(ValueError, match="mine"), together(None, job):
        raise ValueError("mine")


def test_a_block_that_fails_still_waits_for_its_jobs() -> None:
    """Who undoes it may not meet a job that is still at work, such as a timer that is being armed."""
    go_on, ended = threading.Event(), threading.Event()

    def job() -> None:
        go_on.wait(10)
        ended.set()

    pool = pool_of(1, "test")
    with pytest.raises(ValueError, match="mine"), together(pool, job):
        threading.Timer(0.01, go_on.set).start()
        raise ValueError("mine")
    assert ended.is_set()
    pool.shutdown()


def test_a_pool_that_stops_leaves_the_job_to_who_asks() -> None:
    pool, done = ThreadPoolExecutor(1), list[int]()
    pool.shutdown()
    with together(pool, lambda: done.append(threading.get_ident())):
        assert done == [threading.get_ident()]


def test_a_thread_that_computes_lets_others_have_their_turn_soon() -> None:
    before = sys.getswitchinterval()
    try:
        take_short_turns()
        assert sys.getswitchinterval() < 0.001
    finally:
        sys.setswitchinterval(before)


def test_its_threads_are_there_and_have_its_name() -> None:
    pool, all_named = pool_of(3, "prove-sshd-twice"), threading.Barrier(3)
    wait([pool.submit(all_named.wait, 10) for _ in range(3)])  # started is not named yet: that each does first of all
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert names.count("tide-prove-sshd") == 3
    pool.shutdown()
