"""Schedule: when the kernel's entries are compared next with the wanted ones. Pure: has no clock.

A comparison costs CPU time proportional to the number of peers. The cost of one decides how soon
the next one may start (`EARLIEST_SHARE`) and how soon it must (`RESYNC_SHARE`). Time in which this
process does not run, as on a busy host or while its virtual machine is paused, does not count.

    schedule = Schedule()
    if now >= schedule.due(is_disturbed=...):
        ...                                         # compare
        schedule.succeeded(ended, cost)             # or: schedule.failed(ended, cost)

All moments are seconds of one monotonic clock; costs are seconds of a CPU.
"""

from math import inf

RESYNC = 10.0
"""Seconds between two regular comparisons, as in upstream's host-gw..."""
RESYNC_SHARE = 50
"""...but at least this many times the cost of the last one: at most 2 % of a CPU..."""
LONGEST = 60.0
"""...and at most this many seconds: 4 % of a CPU for 60,000 peers, whose comparison costs 2.5 s. It
is half the time after which `flannel.health.status` says that a task hangs."""
EARLIEST_SHARE = 10
"""Comparisons after hints get at most one part in this many of a CPU in the long run..."""
BURST = 10.0
"""...and may use the share of this many seconds at once, as damage often comes in series."""
RETRY = 1.0
"""Seconds from a failed comparison to the next."""


class Schedule:
    """The earliest and the latest time of the next comparison; the first one is due at once."""

    def __init__(self) -> None:
        self._earliest = self._resync = 0.0
        self._paid = 0.0
        """The time until which the share of the CPU is used up."""

    def due(self, *, is_disturbed: bool) -> float:
        """Return when the next comparison is due.

        :param is_disturbed: something in the kernel may have changed since the last one.
        """
        return min(self._earliest, self._resync) if is_disturbed else self._resync

    def succeeded(
        self, ended: float, cost: float, *, pause: float = 0.0, look_at: float = inf
    ) -> None:
        """Record a comparison that succeeded.

        :param pause: seconds for which the device is not repaired, as somebody keeps changing it.
        :param look_at: when the first entry that somebody keeps changing is to be repaired.
        """
        self._pay(ended, cost)
        self._earliest = max(self._paid - BURST, ended + pause)
        resync = ended + max(min(max(RESYNC, RESYNC_SHARE * cost), LONGEST), pause)
        self._resync = min(resync, max(look_at, self._earliest))

    def failed(self, ended: float, cost: float) -> None:
        """Record a comparison that failed; the next one is its retry."""
        self._pay(ended, cost)
        self._earliest = min(max(self._paid - BURST, ended + RETRY), ended + LONGEST)
        self._resync = max(self._resync, self._earliest)

    def _pay(self, ended: float, cost: float) -> None:
        self._paid = max(self._paid, ended) + EARLIEST_SHARE * cost
