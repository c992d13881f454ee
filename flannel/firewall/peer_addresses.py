"""The public addresses of the peers, kept up to date lease by lease."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Network

from flannel.lease import Lease


class PeerAddresses:
    """Of all leases, as text. Where several have one address, it goes with the last of them."""

    def __init__(self) -> None:
        self._of: dict[IPv4Network, str] = {}
        self._counts: Counter[str] = Counter()

    @property
    def all(self) -> Collection[str]:
        """Each once."""
        return self._counts.keys()

    def __contains__(self, address: str) -> bool:
        return address in self._counts

    def refresh(self, peers: Mapping[IPv4Network, Lease]) -> None:
        """Look at every lease."""
        self._of = {subnet: str(lease.attrs.public_ip) for subnet, lease in peers.items()}
        self._counts = Counter(self._of.values())

    def update(
        self, peers: Mapping[IPv4Network, Lease], changed: Iterable[IPv4Network]
    ) -> set[str]:
        """Look at the leases of these subnets; return the addresses that may be new or gone."""
        touched = set()
        for subnet in changed:
            before = self._of.pop(subnet, None)
            if before is not None:
                touched.add(before)
                self._counts[before] -= 1
                if not self._counts[before]:
                    del self._counts[before]
            lease = peers.get(subnet)
            if lease is not None:
                self._of[subnet] = address = str(lease.attrs.public_ip)
                self._counts[address] += 1
                touched.add(address)
        return touched
