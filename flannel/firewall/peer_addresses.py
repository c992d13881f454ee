"""PeerAddresses: which hosts may send. Updates the elements of the guard's sets lease by lease."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Network
from typing import NamedTuple

from flannel.lease import Lease

PEERS, LEASES = "peers", "leases"
"""The names of the two sets."""


class Element(NamedTuple):
    """An element: the name of its set, and its text in nft."""

    set: str
    text: str


def elements_of(lease: Lease) -> tuple[Element, ...]:
    """The public address, and the pair of public address and subnet."""
    address = lease.attrs.public_ip
    pair = f"{address} . {int(lease.subnet.network_address):#x}"
    return Element(PEERS, str(address)), Element(LEASES, pair)


class PeerAddresses:
    """The elements of all leases.

    An address that several leases have is removed with the last of them.
    """

    def __init__(self) -> None:
        self._of: dict[IPv4Network, tuple[Element, ...]] = {}
        self._counts: Counter[Element] = Counter()

    @property
    def all(self) -> Collection[Element]:
        """All elements, without duplicates."""
        return self._counts.keys()

    def __contains__(self, element: Element) -> bool:
        return element in self._counts

    def refresh(self, peers: Mapping[IPv4Network, Lease]) -> None:
        """Replace all elements by those of ``peers``."""
        self._of = {subnet: elements_of(lease) for subnet, lease in peers.items()}
        self._counts = Counter(element for each in self._of.values() for element in each)

    def update(
        self, peers: Mapping[IPv4Network, Lease], changed: Iterable[IPv4Network]
    ) -> set[Element]:
        """Update the elements of these subnets; return those that may be new or removed."""
        touched: set[Element] = set()
        for subnet in changed:
            for element in self._of.pop(subnet, ()):
                touched.add(element)
                self._counts[element] -= 1
                if not self._counts[element]:
                    del self._counts[element]
            lease = peers.get(subnet)
            if lease is not None:
                self._of[subnet] = elements_of(lease)
                self._counts.update(self._of[subnet])
                touched.update(self._of[subnet])
        return touched
