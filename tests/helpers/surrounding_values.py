"""A host with four links, and what tests put beside them."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Address, Link, Way
from flannel.kernel.rtmessages import FoundRoute
from flannel.kernel.surroundings import Surroundings

GLOBAL, LINK = 0, 253  # rtnetlink.h: scopes

LO, ETH0, ETH1, DOCKER0 = 1, 2, 3, 4


def ips(*texts: str) -> set[IPv4Address]:
    return set(map(IPv4Address, texts))


def link(
    index: int,
    name: str,
    kind: str = "",
    *,
    mtu: int = 1500,
    up: bool = True,
    carrier: bool = True,
    master: int = 0,
) -> Link:
    return Link(index, name, kind, mtu, up, "", master=master, carrier=carrier)


def address(index: int, text: str, scope: int = GLOBAL, *, deprecated: bool = False) -> Address:
    return Address(index, IPv4Interface(text), scope, deprecated)


def default(
    index: int, metric: int = 0, *, via: str | None = "192.0.2.1", source: str | None = None,
    more: tuple[int, ...] = (),
) -> FoundRoute:  # fmt: skip
    return route("0.0.0.0/0", index, metric, via=via, source=source, more=more)


def route(
    dst: str, index: int, metric: int = 0, *, via: str | None = None, source: str | None = None,
    more: tuple[int, ...] = (),
) -> FoundRoute:  # fmt: skip
    return FoundRoute(
        IPv4Network(dst),
        IPv4Address(via) if via else None,
        index,
        metric,
        IPv4Address(source) if source else None,
        more,
    )


LINKS = (
    link(LO, "lo", mtu=65536),
    link(ETH0, "eth0"),
    link(ETH1, "eth1", mtu=9000),
    link(DOCKER0, "docker0", "bridge"),
)
ADDRESSES = (
    address(ETH0, "192.0.2.7/24"),
    address(ETH1, "198.51.100.7/24"),
    address(ETH1, "198.51.100.8/24"),
    address(DOCKER0, "172.17.0.1/16"),
)


def host(
    links: Iterable[Link] = LINKS,
    addresses: Iterable[Address] = ADDRESSES,
    routes: Iterable[FoundRoute] = (),
    way: Way | None = None,
) -> Surroundings:
    by_index = {each.index: each for each in (*LINKS, *links)}
    return Surroundings(by_index, tuple(addresses), tuple(routes), way)


def chosen(found: ExternalInterface) -> tuple[str, str]:
    return found.name, str(found.address)
