"""The rtnetlink messages that add, remove and report entries, as bytes. Pure.

Layouts: linux/netlink.h, rtnetlink.h, neighbour.h, nexthop.h; netlink(7), rtnetlink(7). Integers
are in host order, addresses in network order. Every message that we send has one fixed layout,
packed by one `struct.Struct`: 1 us each, where a general encoder takes 50.
"""

import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from flannel.kernel.entries import PROTOCOL, Entry, Fdb, Neighbour, Nexthop, Route

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWADDR, RTM_DELADDR = 20, 21
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_RTA_MULTIPATH, _RTA_NH_ID = 9, 30
_IFLA_IFNAME = 3
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_NHA_ID, _NHA_OIF, _NHA_GATEWAY = 1, 5, 6
_RT_TABLE_MAIN, _RTN_UNICAST, _RTN_BLACKHOLE = 254, 1, 6
_RT_SCOPE_UNIVERSE, _RT_SCOPE_NOWHERE = 0, 255
_RTNH_F_ONLINK = 4
_NUD_PERMANENT, _NUD_NOARP, _NTF_SELF = 0x80, 0x40, 0x02
_AF_BRIDGE = 7

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
_RTMSG = struct.Struct("=8BI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, ifindex, state, flags, type
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG = struct.Struct("=4BI")  # family, prefixlen, flags, scope, index
_NHMSG = struct.Struct("=4BI")  # family, scope, protocol, reserved, flags
_RTNEXTHOP = struct.Struct("=HxxI")  # length, flags and hops, ifindex
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type

_ROUTE_VIA = struct.Struct("=IHHII 8BI HH4s HHI HH4s HHI")
_ROUTE_NEXTHOP = struct.Struct("=IHHII 8BI HH4s HHI HHI")
_ROUTE_DELETE = struct.Struct("=IHHII 8BI HH4s HHI")
_NEXTHOP = struct.Struct("=IHHII 4BI HHI HHI HH4s")
_NEXTHOP_DELETE = struct.Struct("=IHHII 4BI HHI")
_NEIGHBOUR = struct.Struct("=IHHII BxxxiHBB HH4s HH6sxx")


def put_message(entry: Entry, sequence: int, flags: int, *, replace: bool = True) -> bytes:
    """Add an entry, or write it over what has its key.

    :param flags: more NLM_F_* flags for the header.
    :param replace: False lets a nexthop whose id is taken be refused with EEXIST.
    """
    flags |= NLM_F_REQUEST | NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    match entry:
        case Route():
            return _put_route(entry, sequence, flags)
        case Nexthop():
            # An id that is taken may be another program's: EEXIST then.
            flags ^= NLM_F_REPLACE | NLM_F_EXCL
            return _NEXTHOP.pack(
                *(_NEXTHOP.size, RTM_NEWNEXTHOP, flags, sequence, 0),
                *(
                    socket.AF_INET,
                    0,
                    PROTOCOL,
                    0,
                    _RTNH_F_ONLINK if entry.onlink else 0,
                ),
                *(8, _NHA_ID, entry.id),
                *(8, _NHA_OIF, entry.link),
                *(8, _NHA_GATEWAY, entry.via),
            )
        case Neighbour() | Fdb():
            return _neighbour(entry, RTM_NEWNEIGH, sequence, flags)


def delete_message(entry: Entry, sequence: int, flags: int) -> bytes:
    """Remove an entry; ``flags`` as for `put_message`."""
    flags |= NLM_F_REQUEST
    match entry:
        case Route():
            return _ROUTE_DELETE.pack(
                *(_ROUTE_DELETE.size, RTM_DELROUTE, flags, sequence, 0),
                *(socket.AF_INET, entry.prefix_len, 0, 0, _RT_TABLE_MAIN),
                *(entry.protocol, _RT_SCOPE_NOWHERE, 0, 0),
                *(8, _RTA_DST, entry.dst),
                *(8, _RTA_PRIORITY, entry.metric),
            )
        case Nexthop():
            return _NEXTHOP_DELETE.pack(
                *(_NEXTHOP_DELETE.size, RTM_DELNEXTHOP, flags, sequence, 0),
                *(socket.AF_UNSPEC, 0, 0, 0, 0),
                *(8, _NHA_ID, entry.id),
            )
        case Neighbour() | Fdb():
            return _neighbour(entry, RTM_DELNEIGH, sequence, flags)


def _put_route(entry: Route, sequence: int, flags: int) -> bytes:
    layout = _ROUTE_NEXTHOP if entry.nexthop else _ROUTE_VIA
    # In the nexthop form "onlink" is the nexthop's, and the kernel refuses it on the route.
    onlink = _RTNH_F_ONLINK if entry.onlink and not entry.nexthop else 0
    start = (
        *(layout.size, RTM_NEWROUTE, flags, sequence, 0),
        *(socket.AF_INET, entry.prefix_len, 0, 0, _RT_TABLE_MAIN),
        *(entry.protocol, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, onlink),
        *(8, _RTA_DST, entry.dst),
        *(8, _RTA_PRIORITY, entry.metric),
    )
    if entry.nexthop:
        return layout.pack(*start, 8, _RTA_NH_ID, entry.nexthop)
    return layout.pack(*start, 8, _RTA_GATEWAY, entry.via, 8, _RTA_OIF, entry.link)


def _neighbour(entry: Neighbour | Fdb, kind: int, sequence: int, flags: int) -> bytes:
    if isinstance(entry, Fdb):
        # NTF_SELF: the entry is the VXLAN link's own, not that of a bridge above it.
        family, state, ntf, ip = (
            _AF_BRIDGE,
            _NUD_PERMANENT | _NUD_NOARP,
            _NTF_SELF,
            entry.dst,
        )
    else:
        family, state, ntf, ip = socket.AF_INET, _NUD_PERMANENT, 0, entry.ip
    return _NEIGHBOUR.pack(
        *(_NEIGHBOUR.size, kind, flags, sequence, 0),
        *(family, entry.link, state, ntf, 0),
        *(8, _NDA_DST, ip),
        *(10, _NDA_LLADDR, entry.mac),
    )


@dataclass(frozen=True, slots=True)
class FoundRoute:
    """A unicast route of the main table, whoever made it. One with several hops shows the first."""

    dst: IPv4Network
    via: IPv4Address | None
    link: int
    metric: int


ROUTES_REQUEST = _RTMSG.pack(socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, 0, 0, 0, 0)
"""Body of a dump of the main table; before Linux 4.20 the kernel sends the others too."""

BLACKHOLES_REQUEST = _RTMSG.pack(
    *(socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, PROTOCOL, 0, _RTN_BLACKHOLE, 0)
)
"""Body of a dump of our blackhole routes; before Linux 4.20 the kernel sends all routes."""

NEXTHOPS_REQUEST = _NHMSG.pack(socket.AF_INET, 0, 0, 0, 0)
"""Body of a dump of all IPv4 nexthops."""


def neighbours_request(link: int) -> bytes:
    """Body of a dump of a link's IPv4 neighbours."""
    return _NDMSG.pack(socket.AF_INET, 0, 0, 0, 0) + struct.pack("=HHI", 8, _NDA_IFINDEX, link)


def fdb_request(link: int) -> bytes:
    """Body of a dump of a link's FDB; unlike above, the kernel wants the index in the header."""
    return _NDMSG.pack(_AF_BRIDGE, link, 0, 0, 0)


def parse_route(payload: bytes, hops: Mapping[int, Nexthop]) -> Route | None:
    """A unicast route of the main table that has a gateway or names one of ``hops``."""
    _, prefix_len, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(payload)
    if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
        return None
    attributes = _attributes(payload, _RTMSG.size)
    dst = attributes.get(_RTA_DST, bytes(4))
    metric = _number(attributes.get(_RTA_PRIORITY))
    nexthop = _number(attributes.get(_RTA_NH_ID))
    if nexthop:
        # With the sysctl nexthop_compat_mode off the route itself tells no more than this.
        hop = hops.get(nexthop)
        if hop is None:
            return None
        return Route(dst, prefix_len, hop.via, hop.link, hop.onlink, nexthop, metric, protocol)
    via, link = attributes.get(_RTA_GATEWAY), _number(attributes.get(_RTA_OIF))
    if via is None:
        return None
    return Route(dst, prefix_len, via, link, bool(flags & _RTNH_F_ONLINK), 0, metric, protocol)


def parse_foreign_route(payload: bytes) -> FoundRoute | None:
    """A unicast route of the main table that does not carry our protocol number."""
    _, prefix_len, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(payload)
    if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST or protocol == PROTOCOL:
        return None
    attributes = _attributes(payload, _RTMSG.size)
    dst = IPv4Network((attributes.get(_RTA_DST, bytes(4)), prefix_len))
    metric = _number(attributes.get(_RTA_PRIORITY))
    link = _number(attributes.get(_RTA_OIF))
    hops = attributes.get(_RTA_MULTIPATH)
    if hops is not None:
        length, link = _RTNEXTHOP.unpack_from(hops)
        attributes = _attributes(hops[:length], _RTNEXTHOP.size)
    via = attributes.get(_RTA_GATEWAY)
    return FoundRoute(dst, IPv4Address(via) if via else None, link, metric)


def parse_blackhole(payload: bytes) -> IPv4Network | None:
    """The destination of a blackhole route of ours in the main table."""
    _, prefix_len, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(payload)
    if (table, protocol, kind) != (_RT_TABLE_MAIN, PROTOCOL, _RTN_BLACKHOLE):
        return None
    dst = _attributes(payload, _RTMSG.size).get(_RTA_DST, bytes(4))
    return IPv4Network((dst, prefix_len))


def parse_nexthop(payload: bytes) -> tuple[Nexthop, int] | None:
    """An object with one IPv4 gateway, and its protocol."""
    _, _, protocol, _, flags = _NHMSG.unpack_from(payload)
    attributes = _attributes(payload, _NHMSG.size)
    via, link = attributes.get(_NHA_GATEWAY), _number(attributes.get(_NHA_OIF))
    if via is None or len(via) != 4:
        return None
    id_ = _number(attributes.get(_NHA_ID))
    return Nexthop(id_, via, link, bool(flags & _RTNH_F_ONLINK)), protocol


def parse_neighbour(payload: bytes, link: int) -> Neighbour | None:
    """A permanent entry of ``link``'s ARP table."""
    _, index, state, _, _ = _NDMSG.unpack_from(payload)
    attributes = _attributes(payload, _NDMSG.size)
    ip, mac = attributes.get(_NDA_DST), attributes.get(_NDA_LLADDR)
    if index != link or not state & _NUD_PERMANENT or ip is None or mac is None:
        return None
    return Neighbour(ip, link, mac)


def parse_fdb(payload: bytes, link: int) -> Fdb | None:
    """A permanent entry of ``link``'s FDB that leads to an IPv4 host; not what it learned."""
    _, index, state, _, _ = _NDMSG.unpack_from(payload)
    attributes = _attributes(payload, _NDMSG.size)
    mac, dst = attributes.get(_NDA_LLADDR), attributes.get(_NDA_DST)
    if index != link or not state & _NUD_PERMANENT or mac is None or dst is None or len(dst) != 4:
        return None
    return Fdb(mac, link, dst)


class RouteChange(NamedTuple):
    """A route of the main table that came or went; ``dst`` is None for a default route."""

    dst: int | None
    link: int
    is_own: bool


def parse_route_change(payload: bytes) -> RouteChange | None:
    """What a message about a unicast IPv4 route of the main table is about."""
    family, prefix_len, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(payload)
    if family != socket.AF_INET or table != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
        return None
    attributes = _attributes(payload, _RTMSG.size)
    dst = int.from_bytes(attributes.get(_RTA_DST, b""), "big") if prefix_len else None
    return RouteChange(dst, _number(attributes.get(_RTA_OIF)), protocol == PROTOCOL)


def parse_nexthop_id(payload: bytes) -> int:
    """The id of the nexthop object that a message is about."""
    return _number(_attributes(payload, _NHMSG.size).get(_NHA_ID))


def parse_link_name(payload: bytes) -> tuple[int, str]:
    """Index and name of the link that a message is about."""
    _, _, index, _, _ = _IFINFOMSG.unpack_from(payload)
    # The name comes first of some fifty attributes.
    name = _attributes(payload[: _IFINFOMSG.size + 20], _IFINFOMSG.size).get(_IFLA_IFNAME, b"")
    return index, name.rstrip(b"\0").decode(errors="replace")


def parse_address_link(payload: bytes) -> int:
    """The index of the link whose address came or went."""
    index: int = _IFADDRMSG.unpack_from(payload)[4]
    return index


def parse_neighbour_link(payload: bytes) -> tuple[int, int]:
    """Address family (AF_BRIDGE for the FDB) and link of a neighbour."""
    family, index, _, _, _ = _NDMSG.unpack_from(payload)
    return family, index


def parse_neighbour_ip(payload: bytes) -> bytes:
    """The address of an entry of an ARP table; b"" if the message does not tell."""
    return _attributes(payload, _NDMSG.size).get(_NDA_DST, b"")


def _attributes(payload: bytes, offset: int) -> dict[int, bytes]:
    found = {}
    end = len(payload)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4:
            break
        found[kind] = payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _number(attribute: bytes | None) -> int:
    return int.from_bytes(attribute, sys.byteorder) if attribute else 0
