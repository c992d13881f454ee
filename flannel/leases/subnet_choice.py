"""The choice of a subnet: that of an own lease, else a free one; and when a free one is known.

Pure. `flannel.leases.acquisition` calls these functions and writes the chosen lease.
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Network
from random import Random

from flannel.errors import NoFreeSubnet
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

_SETTLE, _SETTLE_PER_LEASE = 1.0, 0.0015
"""Seconds that a host without a lease waits if the store may just have been emptied, so that hosts
that use a subnet write their leases again first: they ask an unreachable store every 0.75 s, in a
large cluster every 1.5 ms for each lease (`retry_pause`)."""

_FRESH = 5
"""Seconds: a lease is young if it was written less than this ago."""


def is_of(attrs: LeaseAttrs, own: LeaseAttrs) -> bool:
    """Whether a lease with ``attrs`` belongs to the host that publishes ``own``.

    A lease without a NodeID, as upstream writes it, is recognized by its public address alone.
    """
    if attrs.node_id:
        return attrs.node_id == own.node_id
    return attrs.public_ip == own.public_ip


def own_first(
    leases: Iterable[Lease], own: LeaseAttrs, previous: IPv4Network | None
) -> list[Lease]:
    """The leases of this host, the one to use first.

    The order: a reservation that no host has used yet, the lease of ``previous``, then leases with
    its NodeID, then leases recognized by its address alone; among equals, the store's order.
    """
    found = [lease for lease in leases if is_of(lease.attrs, own)]
    return sorted(
        found,
        key=lambda each: (
            not each.has_no_host_yet,
            each.subnet != previous,
            not each.attrs.node_id,
        ),
    )


def rival(leases: Iterable[Lease], own: LeaseAttrs) -> Lease | None:
    """The first lease of another host that publishes this host's address; None if there is none.

    After two hosts have exchanged their addresses there is one for a moment. That is harmless: a
    host that has its own lease writes that one, and ignores the other lease.
    """
    for lease in leases:
        if lease.attrs.public_ip == own.public_ip and not is_of(lease.attrs, own):
            return lease
    return None


def time_to_settle(leases: Collection[Lease]) -> float:
    """Seconds for which the store must have answered before a subnet not in ``leases`` is free.

    It is 0, unless the store may just have been emptied.
    """
    if not all(_is_young(lease) for lease in leases):
        return 0.0
    return _SETTLE + _SETTLE_PER_LEASE * len(leases)


def _is_young(lease: Lease) -> bool:
    """Whether a lease may have been written within the last seconds: lifetimes are whole minutes.

    A reservation does not show that, so it counts as young.
    """
    return lease.ttl is None or -lease.ttl % 60 <= _FRESH


def is_free(config: NetworkConfig, subnet: IPv4Network, taken: Iterable[IPv4Network]) -> bool:
    """Whether ``subnet`` may be leased and overlaps none of ``taken``."""
    return config.fits(subnet) and not any(
        subnet.overlaps(each) for each in taken if _is_plausible(config, each)
    )


def _is_plausible(config: NetworkConfig, subnet: IPv4Network) -> bool:
    """Whether a network has room for at least four subnets of this size.

    A key for a larger subnet is not a host's lease, and must not keep all hosts from leasing.
    """
    return subnet.prefixlen >= config.network.prefixlen + 2


def choose_free(config: NetworkConfig, taken: Iterable[IPv4Network], random: Random) -> IPv4Network:
    """A subnet that overlaps none of ``taken``.

    The choice is uniform over *all* free subnets: if n hosts start at one moment in a network of N
    subnets, about n*n/2N of them collide.

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
    used: list[tuple[int, int]] = []  # the number of the first subnet, and one past the last
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
    for first, end in used:  # skip the used ones at or below the chosen free one
        if first > number:
            break
        number += end - first
    return IPv4Network((low + number * size, config.subnet_len))
