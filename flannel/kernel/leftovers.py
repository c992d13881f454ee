"""Leftovers: removes the entries and links that an earlier network config left in the kernel.

    await remove_leftovers(kernel, Keep(network, subnet, device))

Ours are routes and nexthops with our protocol number, and links with our alias, of any range: the
config that they were made for is unknown. Devices and networks that another flanneld of this
network namespace has claimed stay, with the routes over the device.
"""

import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from flannel.kernel.doors import Kernel
from flannel.kernel.entries import EVERYTHING, Entry, Nexthop, Route
from flannel.kernel.host import ALIAS, is_ours, name_of_ours
from flannel.kernel.links import Address, Link
from flannel.kernel.surroundings import is_link_local

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keep:
    """The parts of the network that is served now.

    :ivar network: the range of its routes; `PeerTables` decides which of them are right.
    :ivar subnet: of this host.
    :ivar device: its link; "" if it has none.
    """

    network: IPv4Network
    subnet: IPv4Network
    device: str


async def remove_leftovers(kernel: Kernel, keep: Keep) -> None:
    """Remove all that is ours and does not belong to the network that is served.

    :raises KernelError: the tables cannot be read, or a link or address cannot be removed.
    """
    others = kernel.claims.of_others()
    addresses = await kernel.netlink.list_addresses()
    kept = await _remove_links(kernel, keep, addresses, others)
    await _remove_addresses(kernel, keep, addresses, kept)
    elsewhere = {link.index for link in kept if link.name != keep.device}
    await _remove_direct_routes(kernel, keep, elsewhere)
    _remove_entries(kernel, keep, elsewhere, others)


async def _remove_links(
    kernel: Kernel, keep: Keep, addresses: Collection[Address], others: Collection[str]
) -> list[Link]:
    """Remove links; return those of ours, or of upstream's daemon, that stay."""
    used = {each.link for each in addresses if each.interface.ip in keep.network}
    kept = []
    for link in await kernel.netlink.list_links():
        if not is_ours(link):
            continue
        # Without the alias it may belong to upstream's daemon, which may serve another network.
        is_left = link.alias == ALIAS or link.index in used
        if link.name == keep.device or name_of_ours(link) in others or not is_left:
            kept.append(link)
            continue
        log.warning("removing link %s, left by an earlier network config", link.name)
        await kernel.netlink.delete_link(link)
    return kept


async def _remove_addresses(
    kernel: Kernel, keep: Keep, addresses: Collection[Address], links: Collection[Link]
) -> None:
    """Remove those that a lease of another network has given to the device, which served it too.

    Their prefix length shows which they are. A packet of this host would have such a source, and
    peers would take it for a forged one.
    """
    own = IPv4Interface((keep.subnet.network_address, 32))
    for link in links:
        if link.name != keep.device:
            continue
        found = [each for each in addresses if each.link == link.index]
        if own not in [each.interface for each in found]:
            continue  # routes over the link would have no source
        for each in found:
            is_of_lease = each.interface.network.prefixlen == 32 and not is_link_local(each)
            if is_of_lease and each.interface != own:
                log.warning(
                    "removing address %s of %s, left by an earlier network config",
                    each.interface,
                    link.name,
                )
                await kernel.netlink.delete_address(link, each.interface)


async def _remove_direct_routes(kernel: Kernel, keep: Keep, elsewhere: Collection[int]) -> None:
    """Remove routes of a whole network, which lead over a device without a gateway."""
    for route in kernel.tables.list_direct():
        if route.link not in elsewhere and route.dst != keep.network:
            log.warning("removing route %s, left by an earlier network config", route.dst)
            await kernel.netlink.delete_route(route.dst, route.link)


def _remove_entries(
    kernel: Kernel, keep: Keep, elsewhere: Collection[int], others: Collection[str]
) -> None:
    # In integers, for there may be tens of thousands of entries.
    ranges = [
        (int(each.network_address), int(each.broadcast_address), each.prefixlen)
        for each in (keep.network, *_networks(others))
    ]
    stale = [
        entry
        for entry in kernel.tables.list_own(EVERYTHING)
        if entry.link not in elsewhere and not _is_within(entry, ranges)
    ]
    if not stale:
        return
    log.warning(
        "removing %d routes and nexthops, left by an earlier network config, such as %s",
        len(stale),
        stale[0],
    )
    for failure in kernel.tables.delete(stale):
        log.warning("cannot remove %s: %s", failure.entry, failure.why)


def _networks(names: Collection[str]) -> list[IPv4Network]:
    """Those of the claims that are networks; any root program can claim what is no name of ours."""
    found = []
    for each in names:
        with suppress(ValueError):
            found.append(IPv4Network(each))
    return found


def _is_within(entry: Entry, ranges: Collection[tuple[int, int, int]]) -> bool:
    """Whether the entry leads into one of the networks: first address, last, prefix length."""
    match entry:
        case Route():
            value, length = int.from_bytes(entry.dst, "big"), entry.prefix_len
        case Nexthop():
            value, length = entry.id, 32
        case _:
            raise AssertionError(f"{entry} is in no table of routes")
    return any(first <= value <= last and length >= least for first, last, least in ranges)
