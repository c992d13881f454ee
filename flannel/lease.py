"""Leases: which host holds which subnet, and what its peers must know to reach it.

In the store a lease is a key named after the subnet (``10.5.1.0-24``) whose value is the JSON of
its `LeaseAttrs`. Both forms are upstream flannel's, byte for byte, but for the members ``NodeID``
and, for moments, ``AskedBy`` at the end of ours, which upstream ignores. Everything here is pure.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any, assert_never

from flannel.document import MAX_CHARS, BadDocument, Members, parse_object, shown
from flannel.errors import BadLease

# A key of a dual-stack cluster goes on after "&" with an IPv6 subnet, which is left to others.
_KEY = re.compile(r"([0-9.]{7,15})-(3[0-2]|[12]?[0-9])(?:&[0-9a-fA-F:.]+-[0-9]{1,3})?")

_UNNAMED_BACKEND = "udp"

LONGEST_TTL = 2**31 - 1
"""Seconds. The store may say that a lease lasts longer; 68 years are for ever."""
LAST_INDEX = 2**64 - 1
"""Indexes of etcd are unsigned 64 bit numbers."""

_NODE_ID = re.compile(r"[A-Za-z0-9-]{0,64}")


@dataclass(frozen=True, slots=True)
class LeaseAttrs:
    """What a peer must know to reach a host: the value of its key.

    :ivar backend_data: whatever JSON value the backend publishes, as it stands in the store.
    :ivar node_id: which host it is, whatever its address; "" in what upstream has written.
    :ivar asked_by: the NodeID of a host that asks whether the holder is alive, which the holder
        answers by writing its lease again; see `flannel.leases.adoption`. It makes no difference
        to peers, so it does not count when attributes are compared.
    """

    public_ip: IPv4Address
    backend_type: str = ""
    backend_data: Any = None
    node_id: str = ""
    asked_by: str = field(default="", compare=False)

    def to_json(self) -> str:
        """The value to store: compact, in this member order, absent members left out."""
        members: dict[str, Any] = {"PublicIP": str(self.public_ip)}
        if self.backend_type:
            members["BackendType"] = self.backend_type
        if self.backend_data is not None:
            members["BackendData"] = self.backend_data
        if self.node_id:
            members["NodeID"] = self.node_id
        if self.asked_by:
            members["AskedBy"] = self.asked_by
        return json.dumps(members, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str, max_chars: int = MAX_CHARS) -> "LeaseAttrs":
        """Read a value; unknown members are ignored, names may be in any case.

        :raises BadLease: it is not JSON, or has no unicast ``PublicIP``, or a wrong type.
        """
        try:
            members = Members(parse_object(text, max_chars))
        except BadDocument as why:
            raise BadLease(f"its value cannot be read: {why}") from None
        public_ip = members.get("PublicIP")
        backend_type = members.get("BackendType") or ""
        if not isinstance(backend_type, str):
            raise BadLease(f"its BackendType is {shown(backend_type)}, not a string")
        try:
            if not isinstance(public_ip, str):
                raise AddressValueError
            address = IPv4Address(public_ip)
        except AddressValueError:
            raise BadLease(f"its PublicIP is {shown(public_ip)}, not an IPv4 address") from None
        if not is_unicast(address):
            raise BadLease(f"its PublicIP is {address}, not the address of a host")
        node_id = members.get("NodeID")
        if node_id is None:
            node_id = ""
        if not isinstance(node_id, str) or not _NODE_ID.fullmatch(node_id):
            raise BadLease(f"its NodeID is {shown(node_id)}, not up to 64 letters, digits and -")
        asked_by = members.get("AskedBy")
        if not isinstance(asked_by, str) or not _NODE_ID.fullmatch(asked_by):
            asked_by = ""  # as if it were not there: it says nothing of the host
        return cls(address, backend_type, members.get("BackendData"), node_id, asked_by)

    @property
    def backend(self) -> str:
        """The type of the backend that wrote the lease.

        One without a BackendType is upstream's udp or alloc, which cannot be told apart, or ours.
        """
        return self.backend_type or _UNNAMED_BACKEND

    @property
    def host(self) -> str:
        """The host, for messages that have to tell it from another."""
        return f"{self.public_ip} (NodeID {self.node_id})" if self.node_id else str(self.public_ip)


def is_unicast(address: IPv4Address) -> bool:
    """Whether a host can have ``address`` and be reached at it from another host."""
    first = int(address) >> 24
    return 0 < first < 224 and first != 127


UNKNOWN_TTL = -1
"""Of a lease that was read from a file, which does not know."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A subnet in the hands of a host.

    Two leases are equal when a peer would treat them alike: how long one lasts and which write
    made it do not count.

    :ivar ttl: whole seconds that were left when it was read, or `UNKNOWN_TTL`; None is a
        reservation, which stays.
    :ivar index: the store's number of the last write to it, for compare-and-swap.
    """

    subnet: IPv4Network
    attrs: LeaseAttrs
    ttl: int | None = field(default=None, compare=False)
    index: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.subnet} of {self.attrs.public_ip}"


Peers = Mapping[IPv4Network, Lease]
"""The other hosts' leases, by subnet."""


@dataclass(frozen=True, slots=True)
class LeaseAdded:
    """A lease was made or written again."""

    lease: Lease

    @property
    def subnet(self) -> IPv4Network:
        """What all events have."""
        return self.lease.subnet


@dataclass(frozen=True, slots=True)
class LeaseRemoved:
    """A lease was deleted or has expired."""

    subnet: IPv4Network


@dataclass(frozen=True, slots=True)
class LeaseGarbled:
    """Somebody has written what is no lease over one; what it was stands until that is mended."""

    subnet: IPv4Network


LeaseEvent = LeaseAdded | LeaseRemoved | LeaseGarbled


def subnet_key(subnet: IPv4Network) -> str:
    """The last part of the key of a lease: ``10.5.1.0-24``."""
    return f"{subnet.network_address}-{subnet.prefixlen}"


def parse_subnet_key(key: str) -> IPv4Network:
    """The subnet that a key's last part stands for.

    :raises BadLease: it is not of the form ``10.5.1.0-24``, or has host bits set.
    """
    match = _KEY.fullmatch(key)
    if not match:
        raise BadLease("its name is not of the form 10.5.1.0-24")
    try:
        return IPv4Network((match[1], int(match[2])))
    except ValueError as error:
        raise BadLease(f"its name is not a subnet: {error}") from None


class LeaseTable:
    """All leases that the store holds, by subnet. Whole leases are compared.

    Both ways to learn of leases report what is different now, so that the caller need not know
    whether it came from a snapshot or from the watch.

    A store that was emptied or restored has forgotten leases that are in use all the same. Such
    ones stay in the table until their time is over, the store has them again, or their
    host or another one settles the matter by a new lease.
    """

    def __init__(self, leases: Iterable[Lease] = ()) -> None:
        self._leases = {lease.subnet: lease for lease in leases}
        self._missing: dict[IPv4Network, float] = {}
        self._missing_of: dict[IPv4Address | str, set[IPv4Network]] = {}
        """By each name of their holders, those and perhaps some that are not missing any more."""

    @property
    def leases(self) -> dict[IPv4Network, Lease]:
        """The table itself; not to be written to."""
        return self._leases

    def held(self, subnet: IPv4Network) -> Lease | None:
        """The lease that the store holds for ``subnet``; None also where it has forgotten it."""
        return None if subnet in self._missing else self._leases.get(subnet)

    def reset(self, leases: Collection[Lease], keep_until: float | None = None) -> set[IPv4Network]:
        """Replace everything; return the subnets whose lease is new, different or gone.

        :param keep_until: until when to keep leases that are not among ``leases``; None drops
            them, but for those which an earlier call has kept.
        """
        before, self._leases = self._leases, {lease.subnet: lease for lease in leases}
        changed = {subnet for subnet, lease in self._leases.items() if before.get(subnet) != lease}
        gone = before.keys() - self._leases.keys()
        deadlines, self._missing, self._missing_of = self._missing, {}, {}
        hosts = _Hosts(leases if gone else ())
        for subnet in gone:
            deadline = deadlines.get(subnet, keep_until)
            holder = before[subnet].attrs
            if deadline is None or holder in hosts:
                changed.add(subnet)
                continue
            self._leases[subnet] = before[subnet]
            self._missing[subnet] = deadline
            for name in _names(holder):
                self._missing_of.setdefault(name, set()).add(subnet)
        return changed

    def update(self, events: Iterable[LeaseEvent]) -> set[IPv4Network]:
        """Apply ``events`` in order; return the subnets they touched in a way that counts."""
        changed: set[IPv4Network] = set()
        for event in events:
            match event:
                case LeaseAdded(lease):
                    if self._leases.get(lease.subnet) != lease:
                        changed.add(lease.subnet)
                    self._leases[lease.subnet] = lease
                    self._missing.pop(lease.subnet, None)
                    changed |= self._settle(lease)
                case LeaseRemoved(subnet):
                    self._missing.pop(subnet, None)
                    if self._leases.pop(subnet, None) is not None:
                        changed.add(subnet)
                case LeaseGarbled():
                    pass
                case _:
                    assert_never(event)
        return changed

    def expire(self, now: float) -> set[IPv4Network]:
        """Drop what has been missing until ``now``; return those subnets."""
        return self._drop({subnet for subnet, end in self._missing.items() if end <= now})

    def _settle(self, lease: Lease) -> set[IPv4Network]:
        """Drop missing leases of the host that has made ``lease``."""
        if not self._missing:
            return set()
        host = _Hosts((lease,))
        named = (self._missing_of.get(name, set()) for name in _names(lease.attrs))
        return self._drop(
            {
                each
                for each in set().union(*named)
                if each in self._missing and self._leases[each].attrs in host
            }
        )

    def _drop(self, subnets: set[IPv4Network]) -> set[IPv4Network]:
        for subnet in subnets:
            del self._leases[subnet], self._missing[subnet]
        return subnets


class _Hosts:
    """The holders of ``leases``: ``attrs in hosts`` is True if one of them publishes ``attrs``.

    A host is known by its NodeID; where one of the two has none, by its public address.
    """

    def __init__(self, leases: Iterable[Lease]) -> None:
        self._ids: set[str] = set()
        self._addresses: set[IPv4Address] = set()
        self._addresses_without_id: set[IPv4Address] = set()
        for attrs in (lease.attrs for lease in leases):
            self._addresses.add(attrs.public_ip)
            if attrs.node_id:
                self._ids.add(attrs.node_id)
            else:
                self._addresses_without_id.add(attrs.public_ip)

    def __contains__(self, attrs: LeaseAttrs) -> bool:
        if not attrs.node_id:
            return attrs.public_ip in self._addresses
        return attrs.node_id in self._ids or attrs.public_ip in self._addresses_without_id


def _names(attrs: LeaseAttrs) -> set[IPv4Address | str]:
    """What a holder can be looked up by."""
    return {attrs.public_ip, attrs.node_id} if attrs.node_id else {attrs.public_ip}
