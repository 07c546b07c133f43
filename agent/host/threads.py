"""Threads that are there from the start."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

log = logging.getLogger("tidegate")


def pool_of(size: int, name: str) -> ThreadPoolExecutor:
    """So many threads, all of them started now: with no memory left a thread that dies at birth holds up its maker for ever."""
    pool = ThreadPoolExecutor(size, thread_name_prefix=name)
    all_there = threading.Barrier(size)
    for _ in range(size):
        pool.submit(all_there.wait)
    return pool


def submit(pool: Executor, work: Callable[..., object], *arguments: object) -> None:
    """A job whose failure is a bug, and is told as one."""
    pool.submit(_told, work, *arguments)


def _told(work: Callable[..., object], *arguments: object) -> None:
    try:
        work(*arguments)
    except Exception as error:
        log.error("a job failed", exc_info=error)
