"""Which subnet a host takes: its own leases, else a free one, and when what is free can be told.

Pure; `flannel.leases.subnets` asks in this order and writes what was chosen.
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Network
from random import Random

from flannel.errors import NoFreeSubnet
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

_SETTLE, _SETTLE_PER_LEASE = 1.0, 0.0015
"""Seconds that a host without a lease waits where the store may just have been emptied, so that
those who are using their subnets put them back first: they ask a store that is away every 0.75 s
at the latest, in a large cluster every 1.5 ms for each lease (`retry_pause`)."""

_FRESH = 5
"""Seconds: a lease is young if that much of its time at most is over."""


def is_of(attrs: LeaseAttrs, own: LeaseAttrs) -> bool:
    """Whether a lease with ``attrs`` belongs to the host that publishes ``own``.

    One without a NodeID, as upstream writes it, is known by its public address alone.
    """
    if attrs.node_id:
        return attrs.node_id == own.node_id
    return attrs.public_ip == own.public_ip


def own_first(
    leases: Iterable[Lease], own: LeaseAttrs, previous: IPv4Network | None
) -> list[Lease]:
    """The leases of this host, the one to use first.

    That of ``previous``, then those with its NodeID, then those known by its address alone; among
    equals in the store's order.
    """
    found = [lease for lease in leases if is_of(lease.attrs, own)]
    return sorted(found, key=lambda each: (each.subnet != previous, not each.attrs.node_id))


def rival(leases: Iterable[Lease], own: LeaseAttrs) -> Lease | None:
    """The first lease of another host that publishes the address of this one; None: there is none.

    Where hosts have exchanged their addresses that is so for a moment, and no trouble: a host that
    has a lease of its own writes that, whatever another's says.
    """
    for lease in leases:
        if lease.attrs.public_ip == own.public_ip and not is_of(lease.attrs, own):
            return lease
    return None


def time_to_settle(leases: Collection[Lease]) -> float:
    """Seconds for which a store must answer before a subnet not in ``leases`` counts as free.

    0, unless the store may just have been emptied.
    """
    if not all(_is_young(lease) for lease in leases):
        return 0.0
    return _SETTLE + _SETTLE_PER_LEASE * len(leases)


def _is_young(lease: Lease) -> bool:
    """Whether it may have been written in the last seconds: lifetimes are whole minutes.

    A reservation does not tell, so it may.
    """
    return lease.ttl is None or -lease.ttl % 60 <= _FRESH


def is_free(config: NetworkConfig, subnet: IPv4Network, taken: Iterable[IPv4Network]) -> bool:
    """Whether ``subnet`` may be leased and overlaps none of ``taken``."""
    return config.fits(subnet) and not any(
        subnet.overlaps(each) for each in taken if _is_plausible(config, each)
    )


def _is_plausible(config: NetworkConfig, subnet: IPv4Network) -> bool:
    """Whether a network has room for at least four subnets of this size.

    A key for a larger one is nobody's lease, and must not keep everybody from getting one.
    """
    return subnet.prefixlen >= config.network.prefixlen + 2


def choose_free(config: NetworkConfig, taken: Iterable[IPv4Network], random: Random) -> IPv4Network:
    """A subnet that overlaps none of ``taken``, each free one being equally likely.

    Uniform over *all* free ones: where n hosts start at one moment in a network of N subnets,
    about n*n/2N of them collide.

    :raises NoFreeSubnet: there is none.
    """
    size, low = config.subnet_size, int(config.subnet_min)
    ranges = sorted(
        (
            (int(subnet.network_address) - low) // size,
            (int(subnet.broadcast_address) - low) // size + 1,
        )
        for subnet in taken
        if _is_plausible(config, subnet)
    )
    used: list[tuple[int, int]] = []  # the number of the first, and that after the last
    free, reached = config.n_subnets, 0
    for first, end in ranges:
        first, end = max(first, reached), min(end, config.n_subnets)
        if first < end:
            used.append((first, end))
            free, reached = free - (end - first), end
    if not free:
        raise NoFreeSubnet(
            f"cannot lease a subnet: all {config.n_subnets} between {config.subnet_min} and "
            f"{config.subnet_max} are leased"
        )
    number = random.randrange(free)
    for first, end in used:  # step over those at or below the chosen free one
        if first > number:
            break
        number += end - first
    return IPv4Network((low + number * size, config.subnet_len))
