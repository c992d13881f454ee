"""Schedule: when the kernel is compared next with what it should hold. Pure: it has no clock.

A comparison costs CPU time proportional to the number of peers. So what each one has cost decides
how soon the next one may be (`EARLIEST_SHARE`) and has to be (`RESYNC_SHARE`). Time in which this
process did not run, as on a busy host or while its virtual machine was paused, costs nothing.

    schedule = Schedule()
    if now >= schedule.due(is_disturbed=...):
        ...                                         # compare
        schedule.succeeded(ended, cost)             # or: schedule.failed(ended, cost)

All moments are seconds of one monotonic clock; costs are seconds of a CPU.
"""

from math import inf

RESYNC = 10.0
"""Seconds between two comparisons that nothing calls for, as upstream's host-gw has it..."""
RESYNC_SHARE = 50
"""...but at least this many times what the last one has cost: no more than 2 % of a CPU..."""
LONGEST = 60.0
"""...and no more seconds than this: 60,000 peers, of which a comparison costs 2.5 s, get 4 %. It is
half of what `flannel.health.status` takes for the silence of a task that hangs."""
EARLIEST_SHARE = 10
"""Comparisons that hints call for get one part in so many of a CPU in the long run..."""
BURST = 10.0
"""...of which that of so many seconds may be taken at once: damage seldom comes alone."""
RETRY = 1.0
"""Seconds after a comparison that has failed."""


class Schedule:
    """The moments between which the next comparison begins; at first, both have come."""

    def __init__(self) -> None:
        self._earliest = self._resync = 0.0
        self._paid = 0.0
        """Until when the share of the CPU is spent."""

    def due(self, *, is_disturbed: bool) -> float:
        """Return when the next comparison is to begin.

        :param is_disturbed: something in the kernel may have changed since the last one.
        """
        return min(self._earliest, self._resync) if is_disturbed else self._resync

    def succeeded(
        self, ended: float, cost: float, *, pause: float = 0.0, look_at: float = inf
    ) -> None:
        """A comparison is over.

        :param pause: seconds for which the device is left alone, since somebody fights over it.
        :param look_at: when the first of the entries that somebody fights over is to be repaired.
        """
        self._pay(ended, cost)
        self._earliest = max(self._paid - BURST, ended + pause)
        resync = ended + max(min(max(RESYNC, RESYNC_SHARE * cost), LONGEST), pause)
        self._resync = min(resync, max(look_at, self._earliest))

    def failed(self, ended: float, cost: float) -> None:
        """A comparison has ended with an error: the next one is a second attempt."""
        self._pay(ended, cost)
        self._earliest = min(max(self._paid - BURST, ended + RETRY), ended + LONGEST)
        self._resync = max(self._resync, self._earliest)

    def _pay(self, ended: float, cost: float) -> None:
        self._paid = max(self._paid, ended) + EARLIEST_SHARE * cost
