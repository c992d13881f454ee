"""PeerNews: which peers have joined, changed or left since the last line of the log about them.

news = PeerNews(peers)
news.note({IPv4Network("10.1.5.0/24")})    # its lease has changed
news.line(peers)                           # joined 10.1.5.0/24 of 192.0.2.5
"""

from collections.abc import Iterable
from ipaddress import IPv4Network

from flannel.lease import Peers

_NAMED = 5
"""The most peers of each kind that a line names; it counts the others."""


class PeerNews:
    """Compares the peers with those of the log's last line.

    :ivar count: how many subnets the last line was about.
    """

    def __init__(self, peers: Peers) -> None:
        self.count = 0
        self._known = dict(peers)
        self._noted: set[IPv4Network] = set()

    def note(self, changed: Iterable[IPv4Network]) -> None:
        """The peers of these subnets have changed."""
        self._noted |= set(changed)

    def line(self, peers: Peers) -> str:
        """The changes of the noted peers since the last line; "" if there are none."""
        joined, changed, left = [], [], []
        for subnet in sorted(self._noted):
            before, now = self._known.pop(subnet, None), peers.get(subnet)
            if now is not None:
                self._known[subnet] = now
            if before is None and now is not None:
                joined.append(str(now))
            elif before is not None and now is None:
                left.append(str(before))
            elif now is not None and now != before:
                changed.append(str(now))
        self._noted = set()
        self.count = len(joined) + len(changed) + len(left)
        kinds = (("joined", joined), ("changed", changed), ("left", left))
        return "; ".join(f"{kind} {listed(each)}" for kind, each in kinds if each)


def listed(texts: Iterable[object]) -> str:
    """``a, b``; of many, the first ones and how many more there are."""
    every = list(map(str, texts))
    more = len(every) - _NAMED
    return ", ".join(every[:_NAMED]) + (f" and {more} more" if more > 0 else "")
