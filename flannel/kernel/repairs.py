"""Repairs: what was found changed by others and put back: said once, counted, not fought over.

    repairs.note("the device was down")     # while the kernel is compared with what is wanted
    repairs.note_entries(gone)
    repairs.commit("flannel.1", culprit)    # at the end of the comparison: one line in the log

Somebody may be set on undoing it: another daemon that manages the same links, a script. When one
thing has to be put back more than `_TOO_MANY` times in a minute, that is said, with who it may be,
and it is left alone for pauses that grow, until at the end of one it is found as it was left:

    repairs.resting()       entries that are not to be put back now; all others are, at once
    repairs.pause           the same for the device, without which nothing else can be repaired
"""

import logging
from collections import Counter, deque
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic

from flannel.kernel.entries import Entry, Fdb, Key, Neighbour, Nexthop, Route, key

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


@dataclass(slots=True)
class _Fight:
    """Over one thing: an entry's key, or what was noted of the device.

    :ivar pause: seconds for which it is left alone after its last repair.
    :ivar until: the end of that, by `time.monotonic`.
    """

    pause: float
    until: float


class Repairs:
    """Counts them; see the head of this file.

    :ivar total: how many things were put back since the start.
    :ivar last_at: when the last was, by `time.monotonic`; None if there was none.
    :ivar last: the line that the log had about it; "" if there was none.
    """

    def __init__(self) -> None:
        self.total = 0
        self.last_at: float | None = None
        self.last = ""
        self._noted: list[str] = []
        self._subjects: dict[object, str] = {}
        self._fights: dict[object, _Fight] = {}
        self._recent: deque[tuple[float, set[object]]] = deque(maxlen=_REMEMBERED)

    @property
    def pause(self) -> float:
        """Seconds to wait before the device is compared again; 0 unless somebody fights over it."""
        return max(
            (f.pause for what, f in self._fights.items() if isinstance(what, str)), default=0
        )

    @property
    def due(self) -> float:
        """When the first of the things that rest is to be looked at, by `time.monotonic`."""
        return min((fight.until for fight in self._fights.values()), default=inf)

    def resting(self) -> set[Key]:
        """The keys of entries that somebody fights over, and that are to be left alone now."""
        now = monotonic()
        return {
            what
            for what, fight in self._fights.items()
            if isinstance(what, tuple) and fight.until > now
        }

    def note(self, what: str) -> None:
        """One thing was not as it was left, e.g. ``the device was down``."""
        self._noted.append(what)
        self._subjects[what] = what

    def note_entries(self, entries: Iterable[Entry]) -> None:
        """Entries that were gone, or others than they should be."""
        kinds: Counter[type[Entry]] = Counter()
        for each, entry in {key(entry): entry for entry in entries}.items():
            self._subjects[each] = str(entry)
            kinds[type(entry)] += 1
        if not kinds:
            return
        counts = [
            f"{kinds[kind]} {_NAMES[kind][kinds[kind] > 1]}" for kind in _NAMES if kind in kinds
        ]
        self._noted.append(
            f"{', '.join(counts)} {'were' if kinds.total() > 1 else 'was'} not as left"
        )

    def discard(self) -> None:
        """What was noted is no repair: at the start things are as somebody else has left them."""
        self._noted, self._subjects = [], {}

    def commit(self, device: str, port: int = 0, began: float | None = None) -> None:
        """The end of a comparison.

        :param device: what was repaired.
        :param port: the netlink port of who made the last change, if that is known.
        :param began: when the comparison did, by `time.monotonic`; None: now.
        """
        now = monotonic()
        noted, subjects = self._noted, self._subjects
        self.discard()
        self._end_fights(device, subjects, now if began is None else began)
        if not noted:
            return
        self.last = f"repaired {device}: {'; '.join(noted)}"
        self.last_at = now
        self.total += len(subjects)
        new = self._often(subjects, now) - self._fights.keys()
        for each in self._fights.keys() & subjects.keys():
            fight = self._fights[each]
            fight.pause = min(fight.pause * 2, _LONGEST_PAUSE)
            fight.until = now + fight.pause
        is_known = subjects.keys() <= self._fights.keys()
        log.log(logging.DEBUG if is_known else logging.WARNING, "%s", self.last)
        if new:
            self._fights |= {each: _Fight(_FIRST_PAUSE, now + _FIRST_PAUSE) for each in new}
            first, *others = (subjects[each] for each in subjects if each in new)
            log.warning(
                "somebody keeps changing %s (%s%s); that is repaired at growing pauses from now "
                "on, until it ends. Who it may be: %s",
                device,
                first,
                f" and {len(others)} more" if others else "",
                "; ".join(suspects(port)) or "no network manager that we know runs on this host",
            )

    def _end_fights(self, device: str, subjects: Collection[object], began: float) -> None:
        """What did not rest any more and is as it was left: nobody fights over that now."""
        over = {
            what
            for what, fight in self._fights.items()
            if fight.until <= began and what not in subjects
        }
        if not over:
            return
        for each in over:
            del self._fights[each]
        for _, then in self._recent:
            then -= over
        if not self._fights:
            log.info("nobody changes %s any more: repairing at once again", device)

    def _often(self, subjects: Collection[object], now: float) -> set[object]:
        """Those of the things that are put back now that were so too often of late."""
        self._recent.append((now, set(subjects)))
        while now - self._recent[0][0] > _WINDOW:
            self._recent.popleft()
        if len(self._recent) <= _TOO_MANY:
            return set()
        times = Counter(each for _, then in self._recent for each in then if each in subjects)
        return {each for each, n in times.items() if n > _TOO_MANY}


def suspects(port: int, proc: Path = Path("/proc")) -> list[str]:
    """Who may be changing the kernel's tables: programs of this host, the likeliest first.

    :param port: a netlink port that changes came from. A process's first socket has its id.
    """
    found = []
    with suppress(OSError):
        if port:
            name = _name(proc / str(port))
            found.append(f"{name} (process {port}), which made the last change")
    own = Path("/proc/self").resolve().name
    for process in proc.glob("[0-9]*"):
        with suppress(OSError):
            name = _name(process)
            if name in _MANAGERS and process.name not in (own, str(port)):
                found.append(f"{_MANAGERS[name]} (process {process.name})")
    return found


def _name(process: Path) -> str:
    """A process may call itself anything, in bytes."""
    return (process / "comm").read_text(errors="replace").strip()
