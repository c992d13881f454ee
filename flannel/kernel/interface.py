"""ExternalInterface: the link and the address by which other hosts reach this one."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from flannel.errors import NoInterface
from flannel.kernel.links import Address, Link
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtmessages import FoundRoute
from flannel.kernel.rtnetlink import RtNetlink
from flannel.lease import is_unicast

_SCOPE_HOST = 254  # rtnetlink.h: RT_SCOPE_HOST, as loopback's addresses have


@dataclass(frozen=True, slots=True)
class InterfaceChoice:
    """What the operator asked for; see `find_external_interface` for the order."""

    names: Sequence[str] = ()
    """Names or addresses."""
    patterns: Sequence[re.Pattern[str]] = ()
    can_reach: IPv4Address | None = None
    public_ip: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class ExternalInterface:
    """Where the overlay leaves and enters this host.

    :ivar address: an address of this host, used as the outer source.
    :ivar public_ip: what peers send to: the same, unless this host is behind NAT.
    :ivar networks: the link's own networks with our address in each; what is inside one of them
        is reached without a router.
    """

    link: int
    name: str
    mtu: int
    address: IPv4Address
    public_ip: IPv4Address
    networks: tuple[IPv4Interface, ...]

    def is_on_link(self, address: IPv4Address) -> bool:
        """Whether ``address`` is on a network of this link."""
        return any(address in interface.network for interface in self.networks)

    def __str__(self) -> str:
        public = "" if self.public_ip == self.address else f", public address {self.public_ip}"
        return f"{self.name} with address {self.address}{public}"


async def find_external_interface(
    netlink: Netlink, tables: RtNetlink, choice: InterfaceChoice
) -> ExternalInterface:
    """Choose as upstream does.

    The first match of the names in order, then of the patterns (against addresses first, then
    names), then the way to ``can_reach``. Without any of these, the link of the default route
    with the lowest metric.

    :raises NoInterface: nothing fits now; links and addresses come late when a host boots.
    """
    links = await netlink.list_links()
    addresses = [each for each in await netlink.list_addresses() if each.scope != _SCOPE_HOST]
    found = match_names(links, addresses, choice)
    if found is None and choice.can_reach is not None:
        way = await netlink.find_way(choice.can_reach)
        found = (way.link, None) if way is not None else None
    if found is None:
        if choice.names or choice.patterns or choice.can_reach is not None:
            raise NoInterface(f"cannot find an external interface: none {_wanted(choice)}")
        found = (default_link(tables.list_foreign_routes()), None)
    return _external(links, addresses, *found, choice.public_ip)


def match_names(
    links: Iterable[Link], addresses: Sequence[Address], choice: InterfaceChoice
) -> tuple[int, IPv4Address | None] | None:
    """The link, and the address if that was asked for, that the names or patterns select."""
    by_name = {link.name: link.index for link in links}
    for wanted in choice.names:
        for address in addresses:
            if str(address.interface.ip) == wanted:
                return address.link, address.interface.ip
        if wanted in by_name:
            return by_name[wanted], None
    for pattern in choice.patterns:
        for address in addresses:
            if pattern.search(str(address.interface.ip)):
                return address.link, address.interface.ip
        for name, index in by_name.items():
            if pattern.search(name):
                return index, None
    return None


def default_link(routes: Iterable[FoundRoute]) -> int:
    """The link of the best default route.

    :raises NoInterface: there is none.
    """
    defaults = [route for route in routes if route.dst.prefixlen == 0 and route.link]
    if not defaults:
        raise NoInterface(
            "cannot find an external interface: there is no default route; "
            "name one with -iface, or wait until there is"
        )
    return min(defaults, key=lambda route: route.metric).link


def _external(
    links: Iterable[Link],
    addresses: Iterable[Address],
    index: int,
    address: IPv4Address | None,
    public_ip: IPv4Address | None,
) -> ExternalInterface:
    link = next((each for each in links if each.index == index), None)
    if link is None:  # it went away between two dumps
        raise NoInterface(f"cannot use link number {index}: it is gone")
    if not link.up:
        raise NoInterface(f"cannot use interface {link.name}: it is down")
    own = sorted((each for each in addresses if each.link == index), key=lambda each: each.scope)
    usable = [each.interface for each in own if is_unicast(each.interface.ip)]
    if not usable:
        raise NoInterface(f"cannot use interface {link.name}: it has no IPv4 address")
    local = address or usable[0].ip
    return ExternalInterface(
        link.index, link.name, link.mtu, local, public_ip or local, tuple(usable)
    )


def _wanted(choice: InterfaceChoice) -> str:
    wanted = []
    if choice.names:
        wanted.append(f"is called or has address {', '.join(choice.names)} (-iface)")
    if choice.patterns:
        texts = ", ".join(pattern.pattern for pattern in choice.patterns)
        wanted.append(f"matches {texts} (-iface-regex)")
    if choice.can_reach is not None:
        wanted.append(f"reaches {choice.can_reach} (-iface-can-reach)")
    return " or ".join(wanted)
