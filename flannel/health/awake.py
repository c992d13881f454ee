"""Awake: notices that this process did not run for a while: it was stopped, or its machine was.

Whoever measures for how long somebody was silent asks it, so that a pause is not taken for a hang:

    awake = Awake()
    task = asyncio.create_task(awake.keep())
    silence = awake.since(heard_at)          # seconds; of a pause, they begin at its end

A loop that is blocked looks the same. For one that is blocked for ever nobody asks any more, and
systemd's watchdog is not fed.
"""

import asyncio
from time import monotonic

_TICK = 1.0
_PAUSE = 5.0
"""Seconds between two ticks that are a pause: no work of the event loop takes that long."""


class Awake:
    """See the head of this file; moments are of the monotonic clock."""

    def __init__(self) -> None:
        self._ticked_at = self._resumed_at = monotonic()

    def since(self, moment: float) -> float:
        """Seconds since ``moment``, or since the end of a pause that was later."""
        return monotonic() - max(moment, self._resumed_at)

    def tick(self) -> None:
        """Come round again; called each second while this process runs."""
        now = monotonic()
        if now - self._ticked_at > _PAUSE:
            self._resumed_at = now
        self._ticked_at = now

    async def keep(self) -> None:
        """Tick until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(_TICK)
