"""Parses rtnetlink's messages about changes: the entry that each is about. Pure."""

import socket
from typing import NamedTuple

from flannel.kernel import rtlayout as rt
from flannel.kernel.entries import PROTOCOL


class RouteChange(NamedTuple):
    """A route of the main table that was added or removed; ``dst`` is None for a default route."""

    dst: int | None
    link: int
    is_own: bool


def parse_route_change(payload: bytes) -> RouteChange | None:
    """What a message about a unicast IPv4 route of the main table is about."""
    family, prefix_len, _, _, table, protocol, _, kind, _ = rt.RTMSG.unpack_from(payload)
    if family != socket.AF_INET or table != rt.RT_TABLE_MAIN or kind != rt.RTN_UNICAST:
        return None
    attributes = rt.attributes(payload, rt.RTMSG.size)
    dst = int.from_bytes(attributes.get(rt.RTA_DST, b""), "big") if prefix_len else None
    return RouteChange(dst, rt.number(attributes.get(rt.RTA_OIF)), protocol == PROTOCOL)


def parse_nexthop_id(payload: bytes) -> int:
    """The id of the nexthop object that a message is about."""
    return rt.number(rt.attributes(payload, rt.NHMSG.size).get(rt.NHA_ID))


def parse_link_name(payload: bytes) -> tuple[int, str]:
    """Index and name of the link that a message is about."""
    _, _, index, _, _ = rt.IFINFOMSG.unpack_from(payload)
    # The name comes first of some fifty attributes.
    name = rt.attributes(payload[: rt.IFINFOMSG.size + 20], rt.IFINFOMSG.size).get(
        rt.IFLA_IFNAME, b""
    )
    return index, name.rstrip(b"\0").decode(errors="replace")


def parse_address_link(payload: bytes) -> int:
    """The index of the link whose address was added or removed."""
    index: int = rt.IFADDRMSG.unpack_from(payload)[4]
    return index


def parse_neighbour_link(payload: bytes) -> tuple[int, int]:
    """Address family (AF_BRIDGE for the FDB) and link of a neighbour."""
    family, index, _, _, _ = rt.NDMSG.unpack_from(payload)
    return family, index


def parse_neighbour_ip(payload: bytes) -> bytes:
    """The address of an entry of an ARP table; b"" if the message lacks it."""
    return rt.attributes(payload, rt.NDMSG.size).get(rt.NDA_DST, b"")
