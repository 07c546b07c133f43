"""Several things at once, which end together."""

import asyncio
from collections.abc import Coroutine


async def first(*works: Coroutine[object, object, object]) -> None:
    """Run all until one ends; raise what it raises."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        pending = set(tasks)
        while pending:  # nats-py may swallow a cancellation that comes as an answer does: once is not enough
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.5)
        for task in tasks:
            if not task.cancelled():
                task.exception()
