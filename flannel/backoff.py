"""Backoff: growing pauses, with jitter, between attempts that fail."""

import asyncio
from random import SystemRandom

_random = SystemRandom()


class Backoff:
    """The first pause is ``first`` seconds, each next one twice as long, up to ``longest``.

    backoff = Backoff()
    while not attempt():
        await backoff.wait()
    """

    def __init__(self, first: float = 0.5, longest: float = 10.0) -> None:
        self._first = first
        self.longest = longest
        self._pause = first

    async def wait(self) -> None:
        """Sleep for half to one and a half times the current pause; the next is twice as long."""
        await asyncio.sleep(self._pause * _random.uniform(0.5, 1.5))
        self._pause = min(self._pause * 2, self.longest)

    def reset(self) -> None:
        """Begin with short pauses again, after an attempt that succeeded."""
        self._pause = self._first
