"""Matches that rules of nft and iptables have: addresses, links, protocols, conntrack, marks.

Each function makes a `Match`. `unknown` stands for a match that is not understood.
"""

from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address
from typing import Literal

from flannel.cli.rulesets.verdict import Match, Packet, Sight

PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp"}
"""Other spellings of /etc/protocols' names."""

ALL_BITS = 0xFFFFFFFF


def unknown(_: Sight) -> bool | None:
    """Perhaps: a match that is not understood."""
    return None


def never(_: Sight) -> bool | None:
    """No."""
    return False


def inverted(match: Match) -> Match:
    """The contrary of a match."""

    def fits(sight: Sight) -> bool | None:
        found = match(sight)
        return None if found is None else not found

    return fits


def address(side: Literal["source", "destination"], wanted: int, mask: int = ALL_BITS) -> Match:
    """An address of which the bits in ``mask`` are those of ``wanted``."""

    def fits(sight: Sight) -> bool | None:
        found: IPv4Address = getattr(sight.packet, side)
        return int(found) & mask == wanted & mask

    return fits


def always(_: Sight) -> bool | None:
    """Yes."""
    return True


def source_port(ranges: Collection[tuple[int, int]]) -> Match:
    """A source port in one of these ranges, with their ends."""

    def fits(sight: Sight) -> bool | None:
        if sight.packet.protocol not in ("tcp", "udp"):
            return False
        return within(sight.packet.source_ports, ranges)

    return fits


def within(ports: tuple[int, int], ranges: Collection[tuple[int, int]]) -> bool | None:
    """Whether every port of a range is in one of ``ranges``; None: some are."""
    low, high = ports
    if any(first <= low and high <= last for first, last in ranges):
        return True
    return None if any(first <= high and low <= last for first, last in ranges) else False


def tcp_flags(mask: Collection[str], wanted: Collection[str]) -> Match:
    """Of the TCP flags in ``mask`` those in ``wanted`` are set: the packet opens a connection."""
    expected = {name.lower() for name in wanted}
    found = {"syn"} & {name.lower() for name in mask}
    return lambda sight: sight.packet.protocol == "tcp" and found == expected


def protocol(name: str) -> Match:
    """A protocol by its name or number."""
    wanted = PROTOCOLS.get(name, name)
    return lambda sight: sight.packet.protocol == wanted


def links(wanted: Iterable[str]) -> Callable[[str], bool]:
    """Whether a name is among these; a + or * at the end of one stands for any text."""
    patterns = tuple(wanted)

    def fits(name: str) -> bool:
        return any(
            name.startswith(each[:-1]) if each[-1:] in ("+", "*") else name == each
            for each in patterns
        )

    return fits


def state(wanted: Collection[str]) -> Match:
    """A state of conntrack: the packet is the first of its connection."""
    names = {name.lower() for name in wanted}

    def fits(sight: Sight) -> bool | None:
        if sight.packet.tracked is None:
            return True if {"new", "untracked"} <= names else None
        return ("new" if sight.packet.tracked else "untracked") in names

    return fits


def mark(wanted: int, mask: int = ALL_BITS) -> Match:
    """A mark of which the bits in ``mask`` are ``wanted``."""

    def fits(sight: Sight) -> bool | None:
        return None if sight.packet.mark is None else sight.packet.mark & mask == wanted

    return fits


def address_type(packet: Packet, side: Literal["source", "destination"]) -> str:
    """The type of an address in the routing table: local, unicast, multicast or broadcast."""
    found: IPv4Address = getattr(packet, side)
    if found.is_multicast:
        return "multicast"
    if int(found) == ALL_BITS:
        return "broadcast"
    is_local = not (packet.came_in if side == "source" else packet.goes_out)
    return "local" if is_local else "unicast"
