"""Repairs: counts and logs repairs of changes by others; backs off from a program that persists.

    repairs.note("the device was down")     # while the kernel is compared with what is wanted
    repairs.note_entries(gone)
    repairs.commit("flannel.1", port)       # at the end of the comparison: one line in the log

A program may undo each repair: another daemon that manages the same links, a script. When one
subject is repaired more than `_TOO_MANY` times within a minute, the programs that may do it are
logged, and the subject is repaired after growing pauses only. It rests until a pause ends and the
subject is found unchanged:

    repairs.resting()       the entries that rest now; all others are repaired at once
    repairs.pause           seconds for which the device rests; it is repaired before its entries
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
    """A subject that somebody keeps changing: an entry's key, or a note about the device.

    :ivar pause: seconds for which it rests after its last repair.
    :ivar until: the end of that pause, by `time.monotonic`.
    """

    pause: float
    until: float


class Repairs:
    """Counts repairs; see the head of this file.

    :ivar total: the number of repairs since the start.
    :ivar last_at: the time of the last repair, by `time.monotonic`; None if there was none.
    :ivar last: the log line of the last repair; "" if there was none.
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
            (fight.pause for each, fight in self._fights.items() if isinstance(each, str)),
            default=0,
        )

    @property
    def due(self) -> float:
        """The time at which the first pause ends, by `time.monotonic`."""
        return min((fight.until for fight in self._fights.values()), default=inf)

    def resting(self) -> set[Key]:
        """The keys of the entries that somebody keeps changing, and that are not repaired now."""
        now = monotonic()
        return {
            each
            for each, fight in self._fights.items()
            if isinstance(each, tuple) and fight.until > now
        }

    def note(self, change: str) -> None:
        """Note one change by others, e.g. ``the device was down``."""
        self._noted.append(change)
        self._subjects[change] = change

    def note_entries(self, entries: Iterable[Entry]) -> None:
        """Note entries that others have removed or changed."""
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
            f"{', '.join(counts)} {'were' if kinds.total() > 1 else 'was'} changed or removed"
        )

    def discard(self) -> None:
        """Forget the notes: at the start, a difference is not a change by others."""
        self._noted, self._subjects = [], {}

    def commit(self, device: str, port: int = 0, began: float | None = None) -> None:
        """End a comparison: count and log what was noted.

        :param device: the name of the device, or of what else was repaired.
        :param port: the netlink port that made the last change; 0 if that is not known.
        :param began: when the comparison began, by `time.monotonic`; None: now.
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
                "somebody keeps changing %s (%s%s); repairing it after growing pauses until that "
                "ends. Suspects: %s",
                device,
                first,
                f" and {len(others)} more" if others else "",
                "; ".join(suspects(port)) or "no known network manager runs on this host",
            )

    def _end_fights(self, device: str, subjects: Collection[object], began: float) -> None:
        """Forget the fights whose pause is over and whose subject was found unchanged."""
        over = {
            each
            for each, fight in self._fights.items()
            if fight.until <= began and each not in subjects
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
        """The subjects repaired now that were repaired too often within the last minute."""
        self._recent.append((now, set(subjects)))
        while now - self._recent[0][0] > _WINDOW:
            self._recent.popleft()
        if len(self._recent) <= _TOO_MANY:
            return set()
        times = Counter(each for _, then in self._recent for each in then if each in subjects)
        return {each for each, n in times.items() if n > _TOO_MANY}


def suspects(port: int, proc: Path = Path("/proc")) -> list[str]:
    """The programs of this host that may change the kernel's tables, the likeliest first.

    :param port: a netlink port that changes came from; the first socket of a process has its id.
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
