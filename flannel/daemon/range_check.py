"""Whether a network's range is free on this host; asked before anything is touched."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from ipaddress import IPv4Network

from flannel.backends import route_length
from flannel.errors import NetworkInUse
from flannel.kernel.doors import Kernel
from flannel.kernel.host import Claim, overlap
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.surroundings import look_around
from flannel.lease import Lease
from flannel.network_config import NetworkConfig


def check_address(config: NetworkConfig, interface: ExternalInterface) -> None:
    """Refuse a network that leases our own address to containers: peers refuse us as well.

    :raises NetworkInUse: naming the address.
    """
    for address in (interface.address, interface.public_ip):
        if config.may_lease(address):
            raise NetworkInUse(
                f"cannot use network {config.network} on this host: its own address {address} is "
                "among those that are leased to containers"
            )


async def check_range(
    kernel: Kernel,
    config: NetworkConfig,
    interface: ExternalInterface,
    own: Collection[IPv4Network],
    known_leases: Callable[[], Awaitable[Collection[Lease]]],
) -> None:
    """Refuse a network that is in use on this host.

    :param own: the subnets that are known to be this host's.
    :param known_leases: returns all leases; awaited only if there seems to be a conflict.
    :raises NetworkInUse: naming the address or route.
    """
    check_address(config, interface)
    host = await look_around(kernel.netlink, kernel.tables)
    claim = Claim(config, route_length(config), own)
    if not overlap(host, claim):
        return
    # It may be our own, with subnet.env lost, or upstream's routes to peers.
    leases = await known_leases()
    ours = {each.subnet for each in leases if each.attrs.public_ip == interface.public_ip}
    gateways = {each.attrs.public_ip for each in leases}
    found = overlap(host, replace(claim, own={*own, *ours}, gateways=gateways))
    if found:
        raise NetworkInUse(f"cannot use network {config.network} on this host: it has {found}")
