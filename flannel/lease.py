"""Leases: which host holds which subnet, and what its peers must know to reach it. Pure.

In the store a lease is a key named after the subnet (``10.5.1.0-24``) whose value is the JSON of
its `LeaseAttrs`. Both have upstream flannel's form, byte for byte. Only the members ``NodeID`` and,
for moments, ``AskedBy`` are new; they are last, and upstream ignores them.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any, assert_never

from flannel.document import MAX_CHARS, BadDocument, Members, parse_object, shown
from flannel.errors import BadLease

# A key of a dual-stack cluster has an IPv6 subnet after "&"; this program ignores it.
_KEY = re.compile(r"([0-9.]{7,15})-(3[0-2]|[12]?[0-9])(?:&[0-9a-fA-F:.]{2,45}-[0-9]{1,3})?")

_UNNAMED_BACKEND = "udp"

LONGEST_TTL = 2**31 - 1
"""Seconds, 68 years. A lease that lasts longer in the store is read as one of this length."""
LAST_INDEX = 2**64 - 1
"""Indexes of etcd are unsigned 64 bit numbers."""

_NODE_ID = re.compile(r"[A-Za-z0-9-]{0,64}")

_RECENT = 1 << 15
"""Keys and values that are parsed once: at a start each comes out of the saved state and of two
lists. The value of a larger cluster's lease is parsed each time."""
_SHORT = 512
"""Characters of a value that may be kept so. Backends of flannel write at most 150."""


@dataclass(frozen=True, slots=True)
class LeaseAttrs:
    """What a peer must know to reach a host: the value of the lease's key.

    :ivar backend_data: the JSON value that the backend publishes, as it is in the store.
    :ivar node_id: identifies the host independently of its address; "" if upstream wrote the lease.
    :ivar asked_by: the NodeID of a host that asks whether the holder is alive; the holder answers
        by writing its lease again; see `flannel.leases.adoption`. Peers do not use it, so it does
        not count when attributes are compared.
    """

    public_ip: IPv4Address
    backend_type: str = ""
    backend_data: Any = None
    node_id: str = ""
    asked_by: str = field(default="", compare=False)

    def to_json(self) -> str:
        """The value to store: compact, in this order of members, without empty members."""
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
        if len(text) > min(_SHORT, max_chars):
            return _parse_attrs(text, max_chars)
        return _parse_short_attrs(text)

    @property
    def backend(self) -> str:
        """The type of the backend that wrote the lease.

        udp and alloc write none, ours as upstream's, and cannot be distinguished: both are "udp".
        """
        return self.backend_type or _UNNAMED_BACKEND

    @property
    def host(self) -> str:
        """The host, for messages that must distinguish it from other hosts."""
        return f"{self.public_ip} (NodeID {self.node_id})" if self.node_id else str(self.public_ip)


def _parse_attrs(text: str, max_chars: int) -> LeaseAttrs:
    """See `LeaseAttrs.from_json`."""
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
        asked_by = ""  # ignored: it does not describe the host
    return LeaseAttrs(address, backend_type, members.get("BackendData"), node_id, asked_by)


@lru_cache(_RECENT)
def _parse_short_attrs(text: str) -> LeaseAttrs:
    return _parse_attrs(text, _SHORT)


def is_unicast(address: IPv4Address) -> bool:
    """Whether a host can have ``address`` and be reached at it from another host."""
    first = int(address) >> 24
    return 0 < first < 224 and first != 127


UNKNOWN_TTL = -1
"""The lifetime of a lease that was read from a file: the file does not contain it."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A subnet that a host holds.

    Two leases are equal if a peer would treat them alike: their lifetimes and indexes do not count.

    :ivar ttl: whole seconds that were left when the lease was read, or `UNKNOWN_TTL`; None for a
        reservation, which never expires.
    :ivar index: the store's number of the last write to it, for compare-and-swap.
    """

    subnet: IPv4Network
    attrs: LeaseAttrs
    ttl: int | None = field(default=None, compare=False)
    index: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.subnet} of {self.attrs.public_ip}"

    @property
    def has_no_host_yet(self) -> bool:
        """A reservation as an operator makes it: its host has not written anything into it.

        Upstream's udp writes nothing into it either.
        """
        return self.ttl is None and self.attrs == LeaseAttrs(self.attrs.public_ip)


Peers = Mapping[IPv4Network, Lease]
"""The other hosts' leases, by subnet."""


@dataclass(frozen=True, slots=True)
class LeaseAdded:
    """A lease was made or written again."""

    lease: Lease

    @property
    def subnet(self) -> IPv4Network:
        """The subnet of the event; all kinds of events have it."""
        return self.lease.subnet


@dataclass(frozen=True, slots=True)
class LeaseRemoved:
    """A lease was deleted or has expired."""

    subnet: IPv4Network


@dataclass(frozen=True, slots=True)
class LeaseGarbled:
    """Somebody overwrote a lease with a value that is not one; the old lease stays in force."""

    subnet: IPv4Network


LeaseEvent = LeaseAdded | LeaseRemoved | LeaseGarbled


def subnet_key(subnet: IPv4Network) -> str:
    """The last part of the key of a lease: ``10.5.1.0-24``."""
    return f"{subnet.network_address}-{subnet.prefixlen}"


@lru_cache(_RECENT)
def parse_subnet_key(key: str) -> IPv4Network:
    """The subnet that the last part of a key names.

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
    """All leases that the store holds, by subnet.

    `reset`, for a snapshot, and `update`, for the watch, both return the subnets that differ, so
    that the caller need not know from which of them a change came. Whole leases are compared.

    A store that was emptied or restored lacks leases that are still in use. The table keeps such a
    missing lease until its time is over, the store has it again, its holder takes another lease,
    or another host takes the subnet.
    """

    def __init__(self, leases: Iterable[Lease] = ()) -> None:
        self._leases = {lease.subnet: lease for lease in leases}
        self._missing: dict[IPv4Network, float] = {}
        self._missing_of: dict[IPv4Address | str, set[IPv4Network]] = {}
        """The missing subnets by each name of their holders; some may no longer be missing."""

    @property
    def leases(self) -> dict[IPv4Network, Lease]:
        """The table itself; the caller must not change it."""
        return self._leases

    def held(self, subnet: IPv4Network) -> Lease | None:
        """The lease that the store holds for ``subnet``; None also if it has lost it."""
        return None if subnet in self._missing else self._leases.get(subnet)

    def reset(self, leases: Collection[Lease], keep_until: float | None = None) -> set[IPv4Network]:
        """Replace everything; return the subnets whose lease is new, different or removed.

        :param keep_until: the time until which leases that are not among ``leases`` are kept;
            None: they are dropped, except those that an earlier call kept.
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
        """Apply ``events`` in order; return the subnets that may differ now."""
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
        """Drop missing leases whose time is over at ``now``; return their subnets."""
        return self._drop({subnet for subnet, end in self._missing.items() if end <= now})

    def _settle(self, lease: Lease) -> set[IPv4Network]:
        """Drop missing leases of the host that made ``lease``."""
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

    Hosts are compared by NodeID, or by public address if one of the two has no NodeID.
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
    """The names by which a holder is found."""
    return {attrs.public_ip, attrs.node_id} if attrs.node_id else {attrs.public_ip}
