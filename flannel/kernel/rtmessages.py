"""The rtnetlink messages that add, remove and report entries, as bytes. Pure.

`flannel.kernel.rtlayout` has the layouts, `flannel.kernel.rtnotices` the messages about what
others change.
"""

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from flannel.kernel import rtlayout as rt
from flannel.kernel.entries import PROTOCOL, Entry, Fdb, Neighbour, Nexthop, Route


def put_message(entry: Entry, sequence: int, flags: int) -> bytes:
    """Add an entry, or write it over the one with its key.

    Over a nexthop nothing is written: an id that is taken may be another program's, and the kernel
    refuses it with EEXIST.

    :param flags: more NLM_F_* flags for the header.
    """
    flags |= rt.NLM_F_REQUEST | rt.NLM_F_CREATE
    match entry:
        case Route():
            return rt.message(rt.RTM_NEWROUTE, sequence, flags | rt.NLM_F_REPLACE, *_route(entry))
        case Nexthop():
            onlink = rt.RTNH_F_ONLINK if entry.onlink else 0
            return rt.message(
                rt.RTM_NEWNEXTHOP,
                sequence,
                flags | rt.NLM_F_EXCL,
                rt.NHMSG.pack(socket.AF_INET, 0, PROTOCOL, 0, onlink),
                rt.number_attribute(rt.NHA_ID, entry.id),
                rt.number_attribute(rt.NHA_OIF, entry.link),
                rt.address_attribute(rt.NHA_GATEWAY, entry.via),
            )
        case Neighbour() | Fdb():
            return rt.message(
                rt.RTM_NEWNEIGH, sequence, flags | rt.NLM_F_REPLACE, *_neighbour(entry)
            )


def delete_message(entry: Entry, sequence: int, flags: int) -> bytes:
    """Remove an entry; ``flags`` as for `put_message`."""
    flags |= rt.NLM_F_REQUEST
    match entry:
        case Route():
            return rt.message(
                rt.RTM_DELROUTE,
                sequence,
                flags,
                _route_body(entry, scope=rt.RT_SCOPE_NOWHERE, kind=0),
                rt.address_attribute(rt.RTA_DST, entry.dst),
                rt.number_attribute(rt.RTA_PRIORITY, entry.metric),
            )
        case Nexthop():
            return rt.message(
                rt.RTM_DELNEXTHOP,
                sequence,
                flags,
                rt.NHMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0),
                rt.number_attribute(rt.NHA_ID, entry.id),
            )
        case Neighbour() | Fdb():
            return rt.message(rt.RTM_DELNEIGH, sequence, flags, *_neighbour(entry))


def _route(entry: Route) -> tuple[bytes, ...]:
    # In the nexthop form "onlink" is the nexthop's, and the kernel refuses it on the route.
    onlink = rt.RTNH_F_ONLINK if entry.onlink and not entry.nexthop else 0
    start = (
        _route_body(entry, scope=rt.RT_SCOPE_UNIVERSE, kind=rt.RTN_UNICAST, flags=onlink),
        rt.address_attribute(rt.RTA_DST, entry.dst),
        rt.number_attribute(rt.RTA_PRIORITY, entry.metric),
    )
    if entry.nexthop:
        return (*start, rt.number_attribute(rt.RTA_NH_ID, entry.nexthop))
    return (
        *start,
        rt.address_attribute(rt.RTA_GATEWAY, entry.via),
        rt.number_attribute(rt.RTA_OIF, entry.link),
    )


def _route_body(entry: Route, *, scope: int, kind: int, flags: int = 0) -> bytes:
    family, dst_len, protocol = socket.AF_INET, entry.prefix_len, entry.protocol
    return rt.RTMSG.pack(family, dst_len, 0, 0, rt.RT_TABLE_MAIN, protocol, scope, kind, flags)


def _neighbour(entry: Neighbour | Fdb) -> tuple[bytes, ...]:
    if isinstance(entry, Fdb):
        # NTF_SELF: the entry is the VXLAN link's own, not that of a bridge above it.
        body = rt.NDMSG.pack(
            rt.AF_BRIDGE, entry.link, rt.NUD_PERMANENT | rt.NUD_NOARP, rt.NTF_SELF, 0
        )
        ip = entry.dst
    else:
        body = rt.NDMSG.pack(socket.AF_INET, entry.link, rt.NUD_PERMANENT, 0, 0)
        ip = entry.ip
    mac = rt.mac_attribute(rt.NDA_LLADDR, entry.mac)
    return body, rt.address_attribute(rt.NDA_DST, ip), mac


@dataclass(frozen=True, slots=True)
class FoundRoute:
    """A unicast route of the main table, of any program.

    :ivar via: the gateway of the first hop; None: there is none.
    :ivar link: the link of the first hop; 0: there is none.
    :ivar source: the source address that the route prescribes.
    :ivar more_links: those of further hops.
    """

    dst: IPv4Network
    via: IPv4Address | None
    link: int
    metric: int
    source: IPv4Address | None = None
    more_links: tuple[int, ...] = ()

    @property
    def links(self) -> tuple[int, ...]:
        """The links of all hops."""
        return (self.link, *self.more_links) if self.link else self.more_links


ROUTES_REQUEST = rt.RTMSG.pack(socket.AF_INET, 0, 0, 0, rt.RT_TABLE_MAIN, 0, 0, 0, 0)
"""Body of a dump of the main table; before Linux 4.20 the kernel sends the others too."""

BLACKHOLES_REQUEST = rt.RTMSG.pack(
    socket.AF_INET, 0, 0, 0, rt.RT_TABLE_MAIN, PROTOCOL, 0, rt.RTN_BLACKHOLE, 0
)
"""Body of a dump of our blackhole routes; before Linux 4.20 the kernel sends all routes."""

NEXTHOPS_REQUEST = rt.NHMSG.pack(socket.AF_INET, 0, 0, 0, 0)
NO_NEXTHOPS_REQUEST = NEXTHOPS_REQUEST + rt.number_attribute(rt.NHA_OIF, 1)
"""Those over lo, whose index is 1 (LOOPBACK_IFINDEX): there are hardly any."""
"""Body of a dump of all IPv4 nexthops."""


def neighbours_request(link: int) -> bytes:
    """Body of a dump of a link's IPv4 neighbours."""
    return rt.NDMSG.pack(socket.AF_INET, 0, 0, 0, 0) + rt.number_attribute(rt.NDA_IFINDEX, link)


def fdb_request(link: int) -> bytes:
    """Body of a dump of a link's FDB; unlike above, the kernel wants the index in the header."""
    return rt.NDMSG.pack(rt.AF_BRIDGE, link, 0, 0, 0)


def parse_route(payload: bytes, hops: Mapping[int, Nexthop]) -> Route | None:
    """A unicast route of the main table that has a gateway or names one of ``hops``."""
    _, prefix_len, _, _, table, protocol, _, kind, flags = rt.RTMSG.unpack_from(payload)
    if table != rt.RT_TABLE_MAIN or kind != rt.RTN_UNICAST:
        return None
    attributes = rt.attributes(payload, rt.RTMSG.size)
    dst = attributes.get(rt.RTA_DST, bytes(rt.ADDRESS_LENGTH))
    metric = rt.number(attributes.get(rt.RTA_PRIORITY))
    nexthop = rt.number(attributes.get(rt.RTA_NH_ID))
    if nexthop:
        # With the sysctl nexthop_compat_mode off, the route has only the nexthop's id.
        hop = hops.get(nexthop)
        if hop is None:
            return None
        return Route(dst, prefix_len, hop.via, hop.link, hop.onlink, nexthop, metric, protocol)
    via, link = attributes.get(rt.RTA_GATEWAY), rt.number(attributes.get(rt.RTA_OIF))
    if via is None:
        return None
    return Route(dst, prefix_len, via, link, bool(flags & rt.RTNH_F_ONLINK), 0, metric, protocol)


def parse_foreign_route(payload: bytes) -> FoundRoute | None:
    """A unicast route of the main table that does not carry our protocol number."""
    protocol = rt.RTMSG.unpack_from(payload)[5]
    return parse_any_route(payload) if protocol != PROTOCOL else None


def parse_direct_route(payload: bytes) -> FoundRoute | None:
    """A unicast route of the main table that is ours and has no gateway."""
    protocol = rt.RTMSG.unpack_from(payload)[5]
    if protocol != PROTOCOL or rt.RTA_NH_ID in rt.attributes(payload, rt.RTMSG.size):
        return None
    route = parse_any_route(payload)
    return route if route is not None and route.via is None else None


def parse_any_route(payload: bytes) -> FoundRoute | None:
    """A unicast route of the main table."""
    _, prefix_len, _, _, table, _, _, kind, _ = rt.RTMSG.unpack_from(payload)
    if table != rt.RT_TABLE_MAIN or kind != rt.RTN_UNICAST:
        return None
    attributes = rt.attributes(payload, rt.RTMSG.size)
    dst = IPv4Network((attributes.get(rt.RTA_DST, bytes(rt.ADDRESS_LENGTH)), prefix_len))
    metric = rt.number(attributes.get(rt.RTA_PRIORITY))
    link = rt.number(attributes.get(rt.RTA_OIF))
    source = attributes.get(rt.RTA_PREFSRC)
    hops = list(_hops(attributes.get(rt.RTA_MULTIPATH, b"")))
    if hops:
        link, attributes = hops[0]
    via = attributes.get(rt.RTA_GATEWAY)
    return FoundRoute(
        dst,
        IPv4Address(via) if via else None,
        link,
        metric,
        IPv4Address(source) if source else None,
        tuple(each for each, _ in hops[1:]),
    )


def _hops(multipath: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
    """The link and the attributes of each hop."""
    while len(multipath) >= rt.RTNEXTHOP.size:
        length, link = rt.RTNEXTHOP.unpack_from(multipath)
        if length < rt.RTNEXTHOP.size:
            return
        yield link, rt.attributes(multipath[:length], rt.RTNEXTHOP.size)
        multipath = multipath[rt.aligned(length) :]


def parse_blackhole(payload: bytes) -> IPv4Network | None:
    """The destination of a blackhole route of ours: in the main table, with the last metric."""
    _, prefix_len, _, _, table, protocol, _, kind, _ = rt.RTMSG.unpack_from(payload)
    attributes = rt.attributes(payload, rt.RTMSG.size)
    metric = rt.number(attributes.get(rt.RTA_PRIORITY))
    ours = rt.RT_TABLE_MAIN, PROTOCOL, rt.RTN_BLACKHOLE, rt.LAST_METRIC
    if (table, protocol, kind, metric) != ours:
        return None
    return IPv4Network((attributes.get(rt.RTA_DST, bytes(rt.ADDRESS_LENGTH)), prefix_len))


def parse_nexthop(payload: bytes) -> tuple[Nexthop, int] | None:
    """An object with one IPv4 gateway, and its protocol."""
    _, _, protocol, _, flags = rt.NHMSG.unpack_from(payload)
    attributes = rt.attributes(payload, rt.NHMSG.size)
    via, link = attributes.get(rt.NHA_GATEWAY), rt.number(attributes.get(rt.NHA_OIF))
    if via is None or len(via) != rt.ADDRESS_LENGTH:
        return None
    id_ = rt.number(attributes.get(rt.NHA_ID))
    return Nexthop(id_, via, link, bool(flags & rt.RTNH_F_ONLINK)), protocol


def parse_neighbour(payload: bytes, link: int) -> Neighbour | None:
    """A permanent entry of ``link``'s ARP table."""
    _, index, state, _, _ = rt.NDMSG.unpack_from(payload)
    attributes = rt.attributes(payload, rt.NDMSG.size)
    ip, mac = attributes.get(rt.NDA_DST), attributes.get(rt.NDA_LLADDR)
    if index != link or not state & rt.NUD_PERMANENT or ip is None or mac is None:
        return None
    return Neighbour(ip, link, mac)


def parse_fdb(payload: bytes, link: int) -> Fdb | None:
    """A permanent entry of ``link``'s FDB that leads to an IPv4 host; not what it learned."""
    _, index, state, _, _ = rt.NDMSG.unpack_from(payload)
    attributes = rt.attributes(payload, rt.NDMSG.size)
    mac, dst = attributes.get(rt.NDA_LLADDR), attributes.get(rt.NDA_DST)
    if (
        index != link
        or not state & rt.NUD_PERMANENT
        or mac is None
        or dst is None
        or len(dst) != rt.ADDRESS_LENGTH
    ):
        return None
    return Fdb(mac, link, dst)
