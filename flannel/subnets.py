"""SubnetManager: who gets which subnet. Policy on a lease store; no waiting, no I/O of its own.

    subnets = SubnetManager(store, config)
    lease = await subnets.acquire(attrs, previous)
    async for changed in subnets.follow():      # subnets.peers is up to date, these differ
        ...
    await subnets.renew()                       # when subnets.renewal_delay(margin) is over

Thread-safety: all of it belongs to one event loop.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable
from ipaddress import IPv4Address, IPv4Network
from random import Random, SystemRandom
from typing import assert_never

from flannel.errors import (
    LeaseChanged,
    LeaseLost,
    LeaseTaken,
    NoFreeSubnet,
)
from flannel.lease import Lease, LeaseAttrs, LeaseTable
from flannel.network_config import NetworkConfig
from flannel.once import Once
from flannel.stores import Changes, Snapshot, Store

log = logging.getLogger(__name__)

LEASE_TTL = 86400
"""Seconds; upstream's."""

_ATTEMPTS = 20
_LONGEST_PAUSE = 1.0
"""Seconds between two attempts to take a subnet, at most; the first pauses are much shorter."""


class SubnetManager:
    """This host's lease and its view of all others, for one network config.

    :ivar peers: the leases of other hosts that fit the network, by subnet.
    """

    def __init__(self, store: Store, config: NetworkConfig, random: Random | None = None) -> None:
        self._store = store
        self._config = config
        self._random = random or SystemRandom()
        self._table = LeaseTable()
        self._own: Lease | None = None
        self._own_changed = asyncio.Event()
        self._strange = Once(log)
        self.peers: dict[IPv4Network, Lease] = {}

    @property
    def own(self) -> Lease:
        """Our lease as it was last written or seen. Only after `acquire`."""
        assert self._own is not None, "acquire() comes first"
        return self._own

    async def acquire(self, attrs: LeaseAttrs, previous: IPv4Network | None) -> Lease:
        """Take a lease for this host: its own, or ``previous`` if free, or any free subnet.

        Another host's lease is never touched. A reservation of ours stays one.

        :raises NoFreeSubnet: all are leased.
        :raises LeaseTaken: others were quicker, again and again.
        """
        for attempt in range(_ATTEMPTS):
            leases = (await self._store.snapshot()).leases
            try:
                self._own = await self._claim(leases, attrs, previous)
            except (LeaseTaken, LeaseChanged) as lost:
                log.info("%s; choosing again", lost)
                pause = min(_LONGEST_PAUSE, 0.02 * 2**attempt)
                await asyncio.sleep(self._random.uniform(0, pause))
            else:
                return self._own
        raise LeaseTaken(f"cannot lease a subnet: others were quicker {_ATTEMPTS} times")

    async def _claim(
        self, leases: Collection[Lease], attrs: LeaseAttrs, previous: IPv4Network | None
    ) -> Lease:
        for lease in _own_first(leases, attrs.public_ip, previous):
            if self._config.fits(lease.subnet):
                log.info("lease %s is ours, keeping it", lease.subnet)
                return await self._keep(lease, attrs)
            if lease.ttl is None:
                log.warning("reservation %s does not fit the network config; left alone", lease)
            else:
                log.warning("giving up lease %s: it does not fit the network config", lease)
                await self._store.release(lease)
        taken = [lease.subnet for lease in leases]
        subnet = previous
        if subnet is None or not is_free(self._config, subnet, taken):
            subnet = choose_free(self._config, taken, self._random)
        return await self._store.create(subnet, attrs, LEASE_TTL)

    async def _keep(self, lease: Lease, attrs: LeaseAttrs) -> Lease:
        """Serve ``lease`` of ours on. Where it says what is true already, no other host is told:
        a cluster whose hosts all restart would tell every host of every host."""
        if lease.attrs != attrs:
            ttl = None if lease.ttl is None else LEASE_TTL
            return await self._store.replace(lease, attrs, ttl)
        return lease if lease.ttl is None else await self._store.renew(lease, LEASE_TTL)

    async def follow(self) -> AsyncIterator[set[IPv4Network]]:
        """Keep `peers` up to date; yield the subnets that differ, first of all perhaps none.

        :raises LeaseLost: our own lease is gone, or another's now.
        """
        async for news in self._store.follow_leases():
            match news:
                case Snapshot(leases):
                    changed = self._table.reset(leases)
                case Changes(events):
                    changed = self._table.update(events)
                case _:
                    assert_never(news)
            self._check_own()
            yield self._update_peers(changed)

    def _check_own(self) -> None:
        own = self.own
        seen = self._table.leases.get(own.subnet)
        if seen is None:
            raise LeaseLost(f"cannot keep lease {own.subnet}: it is gone from the store")
        if seen.attrs.public_ip != own.attrs.public_ip:
            raise LeaseLost(f"cannot keep lease {own.subnet}: {seen.attrs.public_ip} holds it now")
        if seen.index < own.index:
            return  # from before our last write
        if seen != own:
            raise LeaseLost(f"cannot keep lease {own.subnet}: somebody has written over it")
        if (seen.index, seen.ttl) != (own.index, own.ttl):
            self._own = seen
            self._own_changed.set()

    def _update_peers(self, changed: Iterable[IPv4Network]) -> set[IPv4Network]:
        differ = set()
        for subnet in changed:
            lease = self._table.leases.get(subnet)
            if lease is not None and self._is_peer(lease):
                self.peers[subnet] = lease
                differ.add(subnet)
            elif self.peers.pop(subnet, None) is not None:
                differ.add(subnet)
            if lease is None:
                self._strange.forget(subnet)
        return differ

    def _is_peer(self, lease: Lease) -> bool:
        network, subnet, host = (
            self._config.network,
            lease.subnet,
            lease.attrs.public_ip,
        )
        if subnet == self.own.subnet or host == self.own.attrs.public_ip:
            return False
        if subnet.prefixlen != self._config.subnet_len or subnet.network_address not in network:
            why = f"it is no /{self._config.subnet_len} of {network}"
        elif host in network:
            why = f"its host's address is inside {network}"
        else:
            return True
        self._strange.warn(subnet, f"ignoring lease {lease}: {why}")
        return False

    async def renew(self) -> None:
        """Let our lease last for its full time again; nobody else is woken by it.

        :raises LeaseLost: it is not ours any more.
        """
        try:
            self._own = await self._store.renew(self.own, LEASE_TTL)
        except LeaseChanged as why:
            raise LeaseLost(str(why)) from why

    async def own_changed(self) -> None:
        """Wait until somebody gave our lease another lifetime."""
        await self._own_changed.wait()
        self._own_changed.clear()

    def renewal_delay(self, margin: float) -> float | None:
        """Seconds until our lease is due for renewal; None: never, it is a reservation.

        :param margin: seconds that must be left of it. The moment is drawn anew each time from
            half to nine tenths of the time before that, so that hosts that started together do
            not renew together, and a failed renewal leaves time for many more.
        """
        ttl = self.own.ttl
        if ttl is None:
            return None
        latest = ttl - margin if ttl > margin else ttl / 4
        return latest * self._random.uniform(0.5, 0.9)


def _own_first(
    leases: Iterable[Lease], public_ip: IPv4Address, previous: IPv4Network | None
) -> list[Lease]:
    """The leases of this host, that of ``previous`` before others, else in the store's order."""
    own = [lease for lease in leases if lease.attrs.public_ip == public_ip]
    return sorted(own, key=lambda lease: lease.subnet != previous)


def is_free(config: NetworkConfig, subnet: IPv4Network, taken: Iterable[IPv4Network]) -> bool:
    """Whether ``subnet`` may be leased and overlaps none of ``taken``."""
    return config.fits(subnet) and not any(
        subnet.overlaps(each) for each in taken if _is_plausible(config, each)
    )


def _is_plausible(config: NetworkConfig, subnet: IPv4Network) -> bool:
    """A subnet has at least three like it in a network; a key for more is no lease of anybody's,
    and must not keep everybody from getting one."""
    return subnet.prefixlen >= config.network.prefixlen + 2


def choose_free(config: NetworkConfig, taken: Iterable[IPv4Network], random: Random) -> IPv4Network:
    """A subnet that overlaps none of ``taken``, each free one being equally likely.

    Uniform over *all* free ones: where n hosts start at one moment in a network of N subnets,
    about n*n/2N of them collide.

    :raises NoFreeSubnet: there is none.
    """
    size, low = config.subnet_size, int(config.subnet_min)
    used: set[int] = set()
    for subnet in taken:
        if not _is_plausible(config, subnet):
            continue
        first = max(0, (int(subnet.network_address) - low) // size)
        last = min(config.n_subnets - 1, (int(subnet.broadcast_address) - low) // size)
        used.update(range(first, last + 1))
    free = config.n_subnets - len(used)
    if free <= 0:
        raise NoFreeSubnet(
            f"cannot lease a subnet: all {config.n_subnets} between {config.subnet_min} and "
            f"{config.subnet_max} are leased"
        )
    number = random.randrange(free)
    for each in sorted(used):  # step over the used ones at or below the chosen free one
        if each > number:
            break
        number += 1
    return IPv4Network((low + number * size, config.subnet_len))
