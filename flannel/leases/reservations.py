"""Reservations: leases without an end, which an operator makes before a host starts.

    lease = await reserve(store, config, IPv4Address("192.0.2.11"), IPv4Network("10.1.7.0/24"))
    await release(store, lease.subnet)
    leases = (await store.snapshot()).leases       # the reservations have ttl None

The host with that public address uses the subnet from its next start on. The reservation stays when
the host leaves. Upstream's daemon does the same.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from random import SystemRandom

from flannel.errors import BadLease
from flannel.lease import Lease, LeaseAttrs
from flannel.leases.subnet_choice import choose_free
from flannel.network_config import NetworkConfig
from flannel.stores import Store


async def reserve(
    store: Store,
    config: NetworkConfig,
    public_ip: IPv4Address,
    subnet: IPv4Network | None = None,
    *,
    ttl: int = 86400,
) -> Lease:
    """Reserve ``subnet``, or any free one, for the host with ``public_ip``.

    If the host has leased that subnet already, its lease becomes a reservation; the host goes on
    undisturbed. If it holds a different one, it moves when its flanneld starts next; a reservation
    of that one ends.

    :param ttl: seconds that are left of such a reservation if its host uses it.
    :raises BadLease: the subnet does not fit the network config.
    :raises LeaseTaken: the subnet is leased by another host, or overlaps a leased one.
    :raises NoFreeSubnet: no subnet was named, and none is free.
    """
    leases = (await store.snapshot()).leases
    if subnet is not None and not config.fits(subnet):
        raise BadLease(
            f"cannot reserve {subnet}: it is not a /{config.subnet_len} from {config.subnet_min} "
            f"to {config.subnet_max}"
        )
    held = held_by(leases, public_ip)
    for lease in held:
        if subnet in (None, lease.subnet):
            return await store.replace(lease, lease.attrs, None)
    wanted = subnet or choose_free(config, _subnets(leases), SystemRandom())
    made = await store.create(wanted, LeaseAttrs(public_ip), None)
    for lease in held:
        if lease.has_no_host_yet:
            await store.release(lease)
        elif lease.ttl is None:
            await store.replace(lease, lease.attrs, ttl)
    return made


def held_by(leases: Iterable[Lease], public_ip: IPv4Address) -> list[Lease]:
    """The leases of the host with that address; those that it uses come first."""
    held = [lease for lease in leases if lease.attrs.public_ip == public_ip]
    return sorted(held, key=lambda each: each.has_no_host_yet)


async def release(store: Store, subnet: IPv4Network) -> Lease | None:
    """Delete the lease of ``subnet``, reserved or not, and return it; None if there is none.

    A host that is using the subnet takes it again within seconds, as an ordinary lease.

    :raises BadLease: the value of its key is not a lease.
    :raises LeaseChanged: it was written at the same moment.
    """
    lease = await store.find(subnet)
    if lease is not None:
        await store.release(lease)
    return lease


def _subnets(leases: Iterable[Lease]) -> list[IPv4Network]:
    return [lease.subnet for lease in leases]
