"""Threads that are there from the start."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path

log = logging.getLogger("tidegate")
_TURN_S = 0.0005
_OWN_NAME = Path("/proc/thread-self/comm")
_OURS, _NAME_MAX = "tide-", 15


def pool_of(size: int, name: str) -> ThreadPoolExecutor:
    """So many threads, all of them started now: with no memory left a thread that dies at birth holds up its maker for ever."""
    pool = ThreadPoolExecutor(size, thread_name_prefix=name)
    all_there = threading.Barrier(size)
    for _ in range(size):
        pool.submit(_arrive, all_there, name)
    return pool


def _arrive(all_there: threading.Barrier, name: str) -> None:
    """Be there, and be told from the others by ``top -H`` and ``ps -L``: Python's own names stay within it (proc(5), comm)."""
    with contextlib.suppress(OSError):
        _OWN_NAME.write_text(f"{_OURS}{name}"[:_NAME_MAX])
    all_there.wait()


@contextlib.contextmanager
def together(pool: Executor | None, *jobs: Callable[[], object]) -> Iterator[None]:
    """Have these done in other threads while the block runs; without a pool, or with one that stops, they are done before it.

    It ends when all have ended, whatever failed: then the block's own error is raised, or else the first of theirs.
    """
    begun = [_begun(pool, job) for job in jobs]
    try:
        yield
    finally:
        wait(begun)
    for each in begun:
        each.result()


def _begun(pool: Executor | None, job: Callable[[], object]) -> Future[object]:
    if pool is not None:
        with contextlib.suppress(RuntimeError):
            return pool.submit(job)
    done: Future[object] = Future()
    try:
        done.set_result(job())
    except Exception as error:
        done.set_exception(error)
    return done


def take_short_turns() -> None:
    """For a program whose threads mostly wait: one that has its answer goes on within half a millisecond, and not within five.

    Python lets a thread that computes keep the interpreter for 5 ms before another's turn comes; an opening, or an end, whose
    threads hand over to each other some ten times would take that ten times (sys.setswitchinterval).
    """
    sys.setswitchinterval(_TURN_S)


def submit(pool: Executor, work: Callable[..., object], *arguments: object) -> None:
    """A job whose failure is a bug, and is told as one."""
    pool.submit(_told, work, *arguments)


def _told(work: Callable[..., object], *arguments: object) -> None:
    try:
        work(*arguments)
    except Exception as error:
        log.error("a job failed", exc_info=error)
