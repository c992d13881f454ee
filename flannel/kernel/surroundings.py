"""Surroundings: the links, addresses and routes of this host, read together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from flannel.kernel.links import Address, Link, Way
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtmessages import FoundRoute
from flannel.kernel.rtnetlink import RtNetlink
from flannel.lease import is_unicast

_SCOPE_LINK, _SCOPE_HOST = 253, 254  # rtnetlink.h: RT_SCOPE_LINK; RT_SCOPE_HOST, as 127.0.0.1 has


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The links, addresses and routes of this host.

    :ivar links: by index.
    :ivar addresses: those that other hosts could send to, in the kernel's order.
    :ivar routes: the unicast routes of the main table that are not ours.
    :ivar way: where the kernel sends a packet to the address that was asked about; None: nowhere.
    """

    links: Mapping[int, Link]
    addresses: Sequence[Address]
    routes: Sequence[FoundRoute] = ()
    way: Way | None = None

    def on(self, link: int) -> list[Address]:
        """The addresses of a link."""
        return [each for each in self.addresses if each.link == link]

    def having(self, ip: IPv4Address) -> list[Address]:
        """The places of an address."""
        return [each for each in self.addresses if each.interface.ip == ip]

    def default_routes(self) -> list[FoundRoute]:
        """The default routes, the lowest metric first."""
        found = [route for route in self.routes if route.dst.prefixlen == 0 and route.links]
        return sorted(found, key=lambda route: route.metric)

    def default_route(self, link: int) -> FoundRoute | None:
        """The best default route over a link."""
        return next((route for route in self.default_routes() if link in route.links), None)

    def name(self, link: int) -> str:
        """The name of a link, for messages."""
        return self.links[link].name if link in self.links else f"link {link}"


async def look_around(
    netlink: Netlink, tables: RtNetlink, can_reach: IPv4Address | None = None
) -> Surroundings:
    """Read the links, addresses and routes of this host.

    :param can_reach: an address to ask the kernel the way to.
    :raises KernelError: it cannot be read.
    """
    links = {link.index: link for link in await netlink.list_links()}
    addresses = [
        each
        for each in await netlink.list_addresses()
        if each.scope != _SCOPE_HOST and is_unicast(each.interface.ip)
    ]
    way = await netlink.find_way(can_reach) if can_reach is not None else None
    return Surroundings(links, addresses, tables.list_foreign_routes(), way)


def is_link_local(address: Address) -> bool:
    """Whether other links may have the same address (RFC 3927)."""
    return address.scope == _SCOPE_LINK or address.interface.ip.is_link_local
