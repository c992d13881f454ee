"""Repairs: what was found changed by others and put back: said once, counted, not fought over.

    repairs.note("the device was down")     # while the kernel is compared with what is wanted
    repairs.note_entries(gone)
    repairs.commit("flannel.1", culprit)    # at the end of the comparison: one line in the log

Somebody may be set on undoing it: another daemon that manages the same links, a script. When one
thing has to be put back more than `_TOO_MANY` times in a minute, that is said, with who it may be,
and `pause` grows: the network is compared at those times only, until one finds it as it was left.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from time import monotonic

from flannel.reconcile import Entry, Fdb, Neighbour, Nexthop, Route, key

log = logging.getLogger(__name__)

_TOO_MANY, _WINDOW = 5, 60.0
_REMEMBERED = 50
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0

_NAMES: dict[type[Entry], tuple[str, str]] = {
    Route: ("route", "routes"),
    Nexthop: ("nexthop", "nexthops"),
    Neighbour: ("ARP entry", "ARP entries"),
    Fdb: ("FDB entry", "FDB entries"),
}

_MANAGERS = {
    # As /proc/PID/comm has them: 15 characters at most.
    "NetworkManager": "NetworkManager",
    "systemd-network": "systemd-networkd",
    "connmand": "ConnMan",
    "dhcpcd": "dhcpcd",
    "flanneld": "another flanneld",
}


class Repairs:
    """Counts them; see the head of this file.

    :ivar total: how many things were put back since the start.
    :ivar last_at: when the last was, by `time.monotonic`; None if there was none.
    :ivar last: the line that the log had about it; "" if there was none.
    :ivar pause: seconds to wait before the next repair; 0 unless somebody keeps undoing them.
    """

    def __init__(self) -> None:
        self.total = 0
        self.last_at: float | None = None
        self.last = ""
        self.pause = 0.0
        self._noted: list[str] = []
        self._subjects: set[object] = set()
        self._recent: deque[tuple[float, set[object]]] = deque(maxlen=_REMEMBERED)

    def note(self, what: str) -> None:
        """One thing was not as it was left, e.g. ``the device was down``."""
        self._noted.append(what)
        self._subjects.add(what)

    def note_entries(self, entries: Iterable[Entry]) -> None:
        """Entries that were gone, or others than they should be."""
        keys = {key(entry) for entry in entries}
        if not keys:
            return
        self._subjects |= keys
        kinds = Counter(each[0] for each in keys)
        counts = [
            f"{kinds[kind]} {_NAMES[kind][kinds[kind] > 1]}" for kind in _NAMES if kind in kinds
        ]
        self._noted.append(f"{', '.join(counts)} {'was' if len(keys) == 1 else 'were'} not as left")

    def discard(self) -> None:
        """What was noted is no repair: at the start things are as somebody else has left them."""
        self._noted, self._subjects = [], set()

    def commit(self, device: str, port: int = 0) -> None:
        """The end of a comparison.

        :param device: what was repaired.
        :param port: the netlink port of who made the last change, if that is known.
        """
        now = monotonic()
        if not self._noted:
            if self.pause:
                log.info("nobody changes %s any more: repairing at once again", device)
                self.pause = 0.0
                self._recent.clear()
            return
        self.last = f"repaired {device}: {'; '.join(self._noted)}"
        self.last_at = now
        self.total += len(self._subjects)
        is_fight = self._is_fight(now)
        self.discard()
        if self.pause:
            self.pause = min(self.pause * 2, _LONGEST_PAUSE)
            log.debug("%s", self.last)
            return
        log.warning("%s", self.last)
        if is_fight:
            self.pause = _FIRST_PAUSE
            log.warning(
                "somebody keeps changing %s; it is repaired at growing pauses from now on, until "
                "that ends. Who it may be: %s",
                device,
                "; ".join(suspects(port)) or "no network manager that we know runs on this host",
            )

    def _is_fight(self, now: float) -> bool:
        """Whether one of the things that are put back now was so too often of late."""
        self._recent.append((now, self._subjects))
        while now - self._recent[0][0] > _WINDOW:
            self._recent.popleft()
        if len(self._recent) <= _TOO_MANY:
            return False
        times = Counter(each for _, then in self._recent for each in then & self._subjects)
        return max(times.values()) > _TOO_MANY


def suspects(port: int, proc: Path = Path("/proc")) -> list[str]:
    """Who may be changing the kernel's tables: programs of this host, the likeliest first.

    :param port: a netlink port that changes came from. A process's first socket has its id.
    """
    found = []
    with suppress(OSError):
        if port:
            name = (proc / str(port) / "comm").read_text().strip()
            found.append(f"{name} (process {port}), which made the last change")
    own = Path("/proc/self").resolve().name
    for process in proc.glob("[0-9]*"):
        with suppress(OSError):
            name = (process / "comm").read_text().strip()
            if name in _MANAGERS and process.name not in (own, str(port)):
                found.append(f"{_MANAGERS[name]} (process {process.name})")
    return found
