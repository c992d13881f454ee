"""Waiting for a condition, never for a duration."""

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], object], what: str = "") -> None:
    """Return as soon as ``holds`` returns something true.

    :raises AssertionError: it still does not after 100 s.
    """
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"there is still no {what or holds}")
