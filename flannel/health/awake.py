"""Awake: notices pauses of this process: it was stopped, or its machine was.

A part that measures a silence asks Awake, so that a pause is not taken for a hang:

    awake = Awake()
    task = asyncio.create_task(awake.keep())
    silence = awake.since(heard_at)          # seconds; of a pause, they begin at its end

A blocked event loop looks the same. While the loop is blocked, no part asks, and systemd's watchdog
is not fed.
"""

import asyncio
from time import monotonic

_TICK = 1.0
_PAUSE = 5.0
"""Seconds between two ticks that count as a pause: no work of the event loop takes that long."""


class Awake:
    """See the head of this file; moments are of the monotonic clock."""

    def __init__(self) -> None:
        self._ticked_at = self._resumed_at = monotonic()

    def since(self, moment: float) -> float:
        """Seconds since ``moment``, or since the end of the last pause if that is later."""
        return monotonic() - max(moment, self._resumed_at)

    def tick(self) -> None:
        """Record that this process runs; called each second."""
        now = monotonic()
        if now - self._ticked_at > _PAUSE:
            self._resumed_at = now
        self._ticked_at = now

    async def keep(self) -> None:
        """Tick until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(_TICK)
