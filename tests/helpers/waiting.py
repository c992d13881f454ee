"""Waiting for a condition, never for a duration; and work that runs beside a test."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any


async def until(holds: Callable[[], object], what: str = "") -> None:
    """Return as soon as ``holds`` returns something true.

    :raises AssertionError: it still does not after 100 s.
    """
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"there is still no {what or holds}")


def wait_for(condition: Callable[[], object], what: str = "") -> None:
    """Return as soon as ``condition`` returns something true; for threads and without a loop.

    :raises AssertionError: it still does not after 100 s.
    """
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, f"there is still no {what or condition}"
        time.sleep(0.005)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """A task for ``work``, ended at the end of the block; what it raised itself comes through."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
