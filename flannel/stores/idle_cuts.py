"""IdleCuts: notices a balancer or firewall that ends connections on which nothing is sent.

A long poll is silent for ten seconds. Some balancers end what is silent for five, and some end each
connection at a certain age. The next poll makes up for it, so it is logged once. It is told from an
etcd that fails by its regularity: three times in a row after the same time.
"""

import logging
from collections import deque
from threading import Lock

from flannel.once import Once

log = logging.getLogger(__name__)

LEAST_SILENCE = 1.0
"""Seconds: a request that fails sooner is an error. It also bounds the rate of new polls."""
_IN_A_ROW = 3
_SPREAD = 0.1
"""Times are the same if they differ by that share of the longest, or by `_LEAST_SPREAD` seconds."""
_LEAST_SPREAD = 0.5


class IdleCuts:
    """The polls that ended early at the endpoints of one cluster. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._silences: deque[float] = deque(maxlen=_IN_A_ROW)
        self._ages: deque[float] = deque(maxlen=_IN_A_ROW)
        self._logged = Once(log)

    def note_cut(self, endpoint: str, silence: float, age: float) -> None:
        """A poll broke.

        :param silence: seconds since its request was sent.
        :param age: seconds since its connection was made.
        """
        with self._lock:
            self._silences.append(silence)
            self._ages.append(age)
            if _are_alike(self._silences):
                when = f"after {silence:.0f} s of silence"
            elif _are_alike(self._ages):
                when = f"{age:.0f} s after they are made"
            else:
                return
            self._logged.warn(
                endpoint,
                f"connections to {endpoint} are cut {when}, again and again, by a balancer or "
                "firewall on the way: let it keep silent ones for 15 s; meanwhile flanneld "
                "connects again and misses nothing",
                about="cut",
            )

    def note_whole(self, endpoint: str, silence: float) -> None:
        """A poll lasted ``silence`` seconds and was not cut."""
        with self._lock:
            # Connections of a certain age are cut in between: that poll was just not old enough.
            if self._silences and silence > max(self._silences) + _LEAST_SPREAD:
                self._silences.clear()
                if not _are_alike(self._ages):
                    self._logged.forget(endpoint)


def _are_alike(times: deque[float]) -> bool:
    if len(times) < _IN_A_ROW:
        return False
    return max(times) - min(times) <= max(_LEAST_SPREAD, _SPREAD * max(times))
