"""Entries of the kernel's tables as values, and the difference between found and wanted. Pure.

An entry is one row of one kernel table: a `Route`, the `Nexthop` it names, a `Neighbour` (ARP),
an `Fdb` row of a VXLAN link. Addresses are *packed*, as in netlink messages: 4 bytes in network
order, MACs 6 bytes. A table may have 100,000 of them, and bytes are compared and hashed without
Python code.
"""

import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

PROTOCOL = 102
"""Marks routes and nexthops as ours (rtm_protocol, nh_protocol). rtnetlink(7): numbers above
RTPROT_STATIC are for user space; 102 is in no rt_protos file of iproute2."""


EVERYTHING = IPv4Network("0.0.0.0/0")
"""The range of all entries."""


class Route(NamedTuple):
    """An IPv4 route of the main table.

    ``nexthop`` is the id of the nexthop object that it names, 0 for the classic form with its own
    gateway and link; ``via`` and ``link`` are set in both forms.
    """

    dst: bytes
    prefix_len: int
    via: bytes
    link: int
    onlink: bool = False
    nexthop: int = 0
    metric: int = 0
    protocol: int = PROTOCOL

    def __str__(self) -> str:
        onlink = " onlink" if self.onlink else ""
        return (
            f"route {socket.inet_ntoa(self.dst)}/{self.prefix_len} "
            f"via {socket.inet_ntoa(self.via)} link {self.link}{onlink}"
        )


class Nexthop(NamedTuple):
    """A nexthop object, named by one route.

    A route with its own gateway costs the kernel time proportional to the number of such
    routes on the link (fib_find_info compares them all); a route that names an object does not. The
    id is the route's network address as a number: it is not allocated or remembered, and is far
    above the ids of programs that count upwards.
    """

    id: int
    via: bytes
    link: int
    onlink: bool = False

    def __str__(self) -> str:
        return f"nexthop {self.id} via {socket.inet_ntoa(self.via)} link {self.link}"


class Neighbour(NamedTuple):
    """A permanent ARP entry."""

    ip: bytes
    link: int
    mac: bytes

    def __str__(self) -> str:
        return f"neighbour {socket.inet_ntoa(self.ip)} link {self.link} is {self.mac.hex(':')}"


class Fdb(NamedTuple):
    """A permanent forwarding entry of a VXLAN link: frames to ``mac`` go to the host ``dst``."""

    mac: bytes
    link: int
    dst: bytes

    def __str__(self) -> str:
        return f"FDB {self.mac.hex(':')} link {self.link} to {socket.inet_ntoa(self.dst)}"


Entry = Route | Nexthop | Neighbour | Fdb
Key = tuple[type[Entry], object, int]

# Entries are added in this order and removed in reverse, so that a route never points at a peer
# that the kernel cannot reach.
ORDER: Mapping[type[Entry], int] = {Fdb: 0, Neighbour: 1, Nexthop: 2, Route: 3}


def key(entry: Entry) -> Key:
    """The key by which the kernel finds the entry: two entries with one key cannot coexist."""
    match entry:
        case Route():
            return (Route, (entry.dst, entry.prefix_len), entry.metric)
        case Nexthop():
            return (Nexthop, entry.id, 0)
        case Neighbour():
            return (Neighbour, entry.ip, entry.link)
        case Fdb():
            return (Fdb, entry.mac, entry.link)


class Difference(NamedTuple):
    """The work to do in the kernel, in this order."""

    clear: list[Entry]
    """Nexthops that change, removed before all additions. The kernel removes their routes too.
    (To replace a nexthop, the kernel walks through all of them; and it might not be ours.)"""
    put: list[Entry]
    drop: list[Entry]


def diff(
    found: Mapping[Key, Entry], wanted: Mapping[Key, Entry], keys: Iterable[Key]
) -> Difference:
    """The work that turns ``found`` into ``wanted`` at ``keys``."""
    clear: list[Entry] = []
    put: list[Entry] = []
    drop: list[Entry] = []
    for each in keys:
        want, have = wanted.get(each), found.get(each)
        if want == have:
            continue
        if want is not None:
            put.append(want)
            if isinstance(have, Nexthop):
                clear.append(have)
        elif have is not None:
            drop.append(have)
    put.sort(key=_order)
    drop.sort(key=_order, reverse=True)
    return Difference(clear, put, drop)


def _order(entry: Entry) -> int:
    return ORDER[type(entry)]


def routed(
    dst: IPv4Network,
    via: IPv4Address,
    link: int,
    *,
    onlink: bool = False,
    nexthops: bool,
) -> tuple[Entry, ...]:
    """The entries for a route of ours: with a nexthop object, or classic without such objects."""
    packed, gateway = dst.network_address.packed, via.packed
    if not nexthops:
        return (Route(packed, dst.prefixlen, gateway, link, onlink),)
    id_ = int(dst.network_address)
    return (
        Nexthop(id_, gateway, link, onlink),
        Route(packed, dst.prefixlen, gateway, link, onlink, id_),
    )
