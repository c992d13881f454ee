"""Chooses the external interface: the link and its address that face the other hosts. Pure.

The link is the first usable one of:

1. the interface in use: a working one is kept even if another looks better;
2. links that have the address by which peers know this host;
3. `-iface` in order; then `-iface-regex` in order, each against addresses first, then names; then
   the way to `-iface-can-reach`, which for an address of this host is the link that has it;
   without any of these the links of the default routes, the lowest metric first.

Links with a carrier come before those without. Links that flanneld or a container engine made are
refused, and addresses that the network leases to containers.

The address on that link is the first in this order:

1. the one in use, or that our lease published, unless it is link-local and a global one is there;
2. the source of the route: as the route names it, or in the network of its gateway;
3. the one that is not deprecated; that is global, not link-local; whose prefix is shorter than
   /32, for a /32 beside others is a floating address; the kernel's first.

An address of loopback or of a dummy link, as hosts with BGP have, needs another link for its
packets: then link and MTU are those of the default route.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from flannel.errors import NoInterface
from flannel.kernel.host import is_ours
from flannel.kernel.interface import ExternalInterface, InterfaceChoice
from flannel.kernel.links import Address, Link
from flannel.kernel.rtmessages import FoundRoute
from flannel.kernel.surroundings import Surroundings, is_link_local
from flannel.network_config import NetworkConfig

_FLANNEL = {
    "vxlan": re.compile(r"flannel(-v6)?\.\d+|flannel-next"),
    "tun": re.compile(r"flannel\d+"),
    "ipip": re.compile(r"flannel\.ipip"),
    "wireguard": re.compile(r"flannel-wg(-v6)?"),
}
"""By kind, the names of the links that flanneld or upstream's daemon makes, also those that
`flannel.kernel.host.is_ours` does not count for they are not to be deleted."""

_ENGINE = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}|cni0|cni-podman\d+|podman\d+")
"""The names of the bridges that container engines make: docker, its networks, CNI, podman."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """The parts of the overlay on this host, which never carry it.

    :ivar config: None while it is not known.
    :ivar own: the subnets of our lease.
    """

    config: NetworkConfig | None = None
    own: Collection[IPv4Network] = ()

    def covers(self, address: IPv4Address) -> bool:
        """Whether ``address`` may be that of a container."""
        leased = self.config is not None and self.config.may_lease(address)
        return leased or any(address in subnet for subnet in self.own)


@dataclass(frozen=True, slots=True)
class Past:
    """Facts from the past that influence the choice.

    :ivar used: the interface in use.
    :ivar home: addresses whose link is preferred, independently of routes; in order.
    :ivar published: addresses that our lease published.
    """

    used: ExternalInterface | None = None
    home: Collection[IPv4Address] = ()
    published: Collection[IPv4Address] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A link that may be chosen.

    :ivar only: the addresses to choose from; empty: all of the link's.
    :ivar source: the source of the route over the link, perhaps an address of loopback.
    """

    link: int
    only: Collection[IPv4Address] = ()
    source: IPv4Address | None = None


def choose(
    host: Surroundings,
    choice: InterfaceChoice,
    overlay: Overlay = Overlay(),
    past: Past = Past(),
) -> ExternalInterface:
    """Choose by the rules at the head of this file.

    :raises NoInterface: nothing can be used now; links and addresses come late when a host boots.
    """
    found, problems = [], []
    for candidate in _candidates(host, choice, past):
        try:
            found.append(_external(host, choice, overlay, past.published, candidate))
        except NoInterface as why:
            problems.append(why)
    if found:
        return next((each for each in found if host.links[each.link].carrier), found[0])
    raise problems[0] if problems else NoInterface(_nothing(choice))


def _candidates(host: Surroundings, choice: InterfaceChoice, past: Past) -> Iterator[_Candidate]:
    used = past.used
    if used is not None and _still_leads_out(host, used):
        link_local = [each for each in host.having(used.address) if is_link_local(each)]
        if link_local and not all(map(is_link_local, host.on(used.link))):
            yield _Candidate(used.link)  # the link has a global address by now
        yield _Candidate(used.link, (used.address,), used.address)
    for ip in past.home:
        yield from (_Candidate(each.link, (ip,)) for each in host.having(ip))
    if choice.is_given:
        yield from _asked_for(host, choice, past.published)
    else:
        for route in host.default_routes():
            yield from (_Candidate(link, source=route.source) for link in route.links)


def _still_leads_out(host: Surroundings, used: ExternalInterface) -> bool:
    """Whether the link carries packets from the address: its own, or by the default route."""
    is_own = any(each.link == used.link for each in host.having(used.address))
    return is_own or not host.default_routes() or host.default_route(used.link) is not None


def _asked_for(
    host: Surroundings, choice: InterfaceChoice, published: Collection[IPv4Address]
) -> Iterator[_Candidate]:
    for wanted in choice.names:
        for each in host.addresses:
            if str(each.interface.ip) == wanted:
                yield _Candidate(each.link, (each.interface.ip,))
        yield from (_Candidate(n) for n, link in host.links.items() if link.name == wanted)
    for pattern in choice.patterns:
        matched = [each for each in host.addresses if pattern.search(str(each.interface.ip))]
        ips = [each.interface.ip for each in matched]
        matched.sort(key=lambda each: each.interface.ip not in published)
        yield from (_Candidate(link, ips) for link in dict.fromkeys(each.link for each in matched))
        yield from (_Candidate(n) for n, link in host.links.items() if pattern.search(link.name))
    if choice.can_reach is not None and host.way is not None:
        if host.way.local:
            for each in host.having(choice.can_reach):
                yield _Candidate(each.link, (choice.can_reach,))
        else:
            yield _Candidate(host.way.link, source=host.way.source)


def _external(
    host: Surroundings,
    choice: InterfaceChoice,
    overlay: Overlay,
    published: Collection[IPv4Address],
    candidate: _Candidate,
) -> ExternalInterface:
    link = host.links.get(candidate.link)
    if link is None:  # the link was removed between two dumps
        raise NoInterface(f"cannot use link number {candidate.link}: it is gone")
    refusal = refusal_of(host, link, overlay)
    if refusal:
        raise NoInterface(f"cannot use interface {link.name}: {refusal}")
    if not link.up:
        raise NoInterface(f"cannot use interface {link.name}: it is down")
    address = _address(host, overlay, published, link, candidate)
    public_ip = choice.public_ip or address
    if overlay.covers(public_ip):
        raise NoInterface(
            f"cannot use public address {public_ip}: it is among the addresses that the network "
            "leases to containers"
        )
    carriers = _carriers(host, overlay, link, address)
    first = carriers[0]
    networks = [each for each in host.on(first.index) if not overlay.covers(each.interface.ip)]
    networks.sort(key=lambda each: each.scope)
    return ExternalInterface(
        first.index,
        first.name,
        min(each.mtu for each in carriers),
        address,
        public_ip,
        tuple(each.interface for each in networks),
        _siblings(host, overlay, first, address),
    )


def _siblings(
    host: Surroundings, overlay: Overlay, first: Link, address: IPv4Address
) -> tuple[str, ...]:
    """The other links on which packets of peers may arrive, by name and in order."""
    networks = [each.interface.network for each in host.on(first.index)]
    indexes = {
        each.link
        for each in host.addresses
        if any(network.prefixlen < 32 and each.interface.ip in network for network in networks)
    }
    if any(_is_loopback(host.links.get(each.link)) for each in host.having(address)):
        indexes.update(n for route in host.default_routes() for n in route.links)
    found = [host.links[n] for n in indexes - {first.index} if n in host.links]
    return tuple(
        sorted(
            each.name
            for each in found
            if not _is_loopback(each) and not refusal_of(host, each, overlay)
        )
    )


def refusal_of(host: Surroundings, link: Link, overlay: Overlay) -> str:
    """Why ``link`` never carries the overlay; "" if it may."""
    names = _FLANNEL.get(link.kind)
    if is_ours(link) or (names is not None and names.fullmatch(link.name)):
        return "it belongs to the overlay"
    if link.kind == "bridge" and _ENGINE.fullmatch(link.name):
        return "it is a bridge for containers"
    for each in host.on(link.index):
        if any(each.interface.ip in subnet for subnet in overlay.own):
            return f"it has address {each.interface} of the subnet that this host has leased"
    return ""


def _address(
    host: Surroundings,
    overlay: Overlay,
    published: Collection[IPv4Address],
    link: Link,
    candidate: _Candidate,
) -> IPv4Address:
    """The address to use on ``link``.

    :raises NoInterface: it has no usable address.
    """
    own = host.on(link.index)
    usable = [each for each in own if not overlay.covers(each.interface.ip)]
    wanted = [each for each in usable if not candidate.only or each.interface.ip in candidate.only]
    looped = _on_loopback(host, overlay)
    source, route = candidate.source, host.default_route(link.index)
    if wanted and (source not in looped or any(e.interface.ip in published for e in wanted)):
        return pick(wanted, route, source, published)
    if source is not None and source in looped:
        return source
    if looped and not own and not candidate.only and route is not None:
        return looped[0]  # where the kernel finds the source of its packets too
    raise NoInterface(f"cannot use interface {link.name}: {_useless(host, link, own)}")


def _useless(host: Surroundings, link: Link, own: Sequence[Address]) -> str:
    """Why there is no address to use."""
    if own:
        ips = ", ".join(str(each.interface.ip) for each in own)
        return f"of its addresses, {ips}, none can be that of a host beside this network"
    master = host.links.get(link.master)
    return "it has no IPv4 address" + (f"; it is a port of {master.name}" if master else "")


def pick(
    addresses: Sequence[Address],
    route: FoundRoute | None = None,
    source: IPv4Address | None = None,
    published: Collection[IPv4Address] = (),
) -> IPv4Address:
    """The address to publish of ``addresses``, which are in the kernel's order.

    :param route: the default route over their link.
    :param source: the source of the chosen route, where it is known.
    """
    has_global = any(not is_link_local(each) for each in addresses)
    via = route.via if route is not None else None
    source = source or (route.source if route is not None else None)
    has_source = any(each.interface.ip == source for each in addresses)

    def is_source(each: Address) -> bool:
        if has_source:
            return each.interface.ip == source
        return via is not None and via in each.interface.network and not is_link_local(each)

    def rank(each: Address) -> tuple[bool, ...]:
        is_published = each.interface.ip in published
        return (
            not is_published or (is_link_local(each) and has_global),
            not is_source(each),
            each.deprecated,
            *standing(each),
        )

    return min(addresses, key=rank).interface.ip


def standing(address: Address) -> tuple[bool, bool]:
    """How unsuitable an address is; the least is the best."""
    return is_link_local(address), address.interface.network.prefixlen == 32


def _on_loopback(host: Surroundings, overlay: Overlay) -> list[IPv4Address]:
    """The usable addresses of links that reach no other host themselves."""
    return [
        each.interface.ip
        for each in host.addresses
        if _is_loopback(host.links.get(each.link)) and not overlay.covers(each.interface.ip)
    ]


def _is_loopback(link: Link | None) -> bool:
    return link is not None and (link.name == "lo" or link.kind == "dummy")


def _carriers(
    host: Surroundings, overlay: Overlay, link: Link, address: IPv4Address
) -> Sequence[Link]:
    """The links that carry packets from ``address``, the one to name first.

    ``link`` carries those from its own addresses, the default route those from loopback's.
    """
    is_own = any(each.link == link.index for each in host.having(address))
    links: Iterable[int] = (link.index,)
    if _is_loopback(link):
        links = (n for route in host.default_routes()[:1] for n in route.links)
    elif not is_own:
        route = host.default_route(link.index)
        links = dict.fromkeys((link.index, *(route.links if route is not None else ())))
    found = [host.links[n] for n in links if n in host.links]
    found = [each for each in found if each.up and not refusal_of(host, each, overlay)]
    found.sort(key=lambda each: not each.carrier)
    return found or [link]


def _nothing(choice: InterfaceChoice) -> str:
    if choice.is_given:
        return f"cannot find an external interface: none {choice.describe()}"
    return (
        "cannot find an external interface: there is no default route; "
        "name one with -iface, or wait until there is"
    )
