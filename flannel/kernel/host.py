"""The host around the overlay: is its range free here, and what did an earlier config leave?"""

import logging
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network

from flannel.kernel.links import Address, Link
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtmessages import FoundRoute
from flannel.kernel.rtnetlink import RtNetlink

log = logging.getLogger(__name__)


async def find_overlap(
    netlink: Netlink,
    tables: RtNetlink,
    network: IPv4Network,
    own: Collection[IPv4Network] = (),
    gateways: Collection[IPv4Address] = (),
) -> str:
    """The first address or route of this host that ``network`` would collide with; "" if none.

    :param own: subnets of this host's own lease; its container bridge is there.
    :param gateways: public addresses of lease holders; routes over them into the network are
        those of another flannel daemon, which ours will replace.
    """
    links = {link.index: link for link in await netlink.list_links()}
    routes = tables.list_foreign_routes()
    return overlap(network, links, await netlink.list_addresses(), routes, own, gateways)


def overlap(
    network: IPv4Network,
    links: dict[int, Link],
    addresses: Iterable[Address],
    routes: Iterable[FoundRoute],
    own: Collection[IPv4Network],
    gateways: Collection[IPv4Address],
) -> str:
    """`find_overlap`, of values."""

    def name(index: int) -> str:
        return links[index].name if index in links else f"link {index}"

    def expected(dst: IPv4Network, link: int) -> bool:
        return (link in links and is_ours(links[link])) or any(dst.subnet_of(each) for each in own)

    for address in addresses:
        dst = address.interface.network
        if dst.overlaps(network) and not expected(dst, address.link):
            return f"address {address.interface} of {name(address.link)}"
    for route in routes:
        dst = route.dst
        if dst.prefixlen == 0 or not dst.overlaps(network) or expected(dst, route.link):
            continue
        if dst.subnet_of(network) and route.via in gateways:
            continue
        via = f" via {route.via}" if route.via else ""
        return f"route {dst}{via} dev {name(route.link)}"
    return ""


async def remove_stale_links(netlink: Netlink, network: IPv4Network, keep: str) -> None:
    """Remove links of an earlier config: ours by kind and name, with an address of ``network``."""
    used = {each.link for each in await netlink.list_addresses() if each.interface.ip in network}
    for link in await netlink.list_links():
        if link.index in used and link.name != keep and is_ours(link):
            log.warning("removing link %s, left by an earlier network config", link.name)
            await netlink.delete_link(link)


def is_ours(link: Link) -> bool:
    """Whether a flanneld made the link: one of this version, or upstream's."""
    if link.vxlan is not None:
        return link.name == f"flannel.{link.vxlan.vni}"
    return link.kind == "tun" and link.name == "flannel0"
