"""SubnetManager: this host's lease and its peers' leases. Policy on a lease store, without I/O.

    subnets = SubnetManager(store, config, ttl=86400, grace=300.0, table=...)
    lease = await subnets.acquire(attrs, previous)     # or, without a store: resume(attrs, lease)
    async for changed in subnets.follow():      # subnets.peers is up to date, these differ
        ...
    await subnets.keep()                        # when subnets.renewal_delay(margin) is over,
                                                # or subnets.is_in_order is false

Use it in the event loop's thread only.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import replace
from ipaddress import IPv4Network
from random import Random, SystemRandom
from time import monotonic
from typing import assert_never

from flannel.errors import LeaseChanged, LeaseLost, LeaseTaken
from flannel.lease import UNKNOWN_TTL, Lease, LeaseAttrs, LeaseGarbled, LeaseTable
from flannel.leases.acquisition import ATTEMPTS, Acquisition
from flannel.leases.adoption import Adoption, copied
from flannel.leases.own_lease import OwnLease
from flannel.leases.subnet_choice import is_of
from flannel.network_config import NetworkConfig
from flannel.once import Once
from flannel.stores import Changes, Snapshot, Store

log = logging.getLogger(__name__)


def retry_pause(n_leases: int) -> float:
    """The mean pause, in seconds, after which an unreachable store is asked again.

    All hosts together send no more than about 1,000 requests a second, however many they are.
    """
    return 0.5 + n_leases / 1000


class SubnetManager:
    """This host's lease and all other hosts' leases, for one network config.

    :ivar config: the network config; it may be replaced by one that differs only in which subnets
        may be leased.
    :ivar peers: the leases of other hosts that fit the network, by subnet.
    :param ttl: seconds that our lease lasts.
    :param grace: seconds for which leases still count after the store has lost them.
    :param table: the leases in the store at our last look, perhaps in an earlier run, and which of
        them it has lost since; kept up to date here.
    :ivar is_in_order: True while the store's record of our subnet matches ours.
    :ivar is_forgotten: True if it does not because the store has lost our lease, probably others
        too.
    """

    def __init__(
        self,
        store: Store,
        config: NetworkConfig,
        random: Random | None = None,
        *,
        ttl: int,
        grace: float,
        table: LeaseTable | None = None,
    ) -> None:
        self.config = config
        self.peers: dict[IPv4Network, Lease] = {}
        self.is_in_order = True
        self.is_forgotten = False
        self._store = store
        self._random = random or SystemRandom()
        self._own_lease = OwnLease(store, ttl)
        self._grace = grace
        self._table = table if table is not None else LeaseTable()
        self._own: Lease | None = None
        self._stored: LeaseAttrs | None = None
        """The attributes of our lease in the store, by our last look or write."""
        self._is_unverified = False
        self._own_changed = asyncio.Event()
        self._strange = Once(log)

    @property
    def own(self) -> Lease:
        """Our lease as we serve it. Call `acquire` or `resume` first."""
        assert self._own is not None, "acquire() comes first"
        return self._own

    @property
    def is_verified(self) -> bool:
        """Whether the store has answered since `resume`, so that `own` is what it holds."""
        return not self._is_unverified

    @property
    def leases(self) -> Collection[Lease]:
        """Every known lease, usable or not."""
        return self._table.leases.values()

    def resume(self, attrs: LeaseAttrs, lease: Lease) -> Lease:
        """Serve ``lease`` of an earlier run before it is known whether it is still ours.

        `follow` and `keep` check that as soon as the store answers.
        """
        self._own = replace(lease, attrs=attrs)
        self._stored = lease.attrs
        self._is_unverified = True
        self._update_peers(self._table.leases.keys())
        return self._own

    async def acquire(
        self,
        attrs: LeaseAttrs,
        previous: IPv4Network | None,
        *,
        before: Lease | None = None,
        seen_since: float | None = None,
        adoption: Adoption | None = None,
    ) -> Lease:
        """Take a lease for this host: its own, or ``previous`` if free, or any free subnet.

        The lease of a live host is never touched. A reservation of ours stays one.

        :param before: our lease in the store at our last look.
        :param seen_since: the time (monotonic) since which the store has answered.
        :param adoption: decides whether the holder of a lease with our public address is dead;
            None: it counts as alive.
        :raises AddressTaken: another host's lease has our public address, and we have no lease.
        :raises NoFreeSubnet: all subnets are leased.
        :raises LeaseTaken: other hosts were quicker `ATTEMPTS` times.
        """
        acquisition = Acquisition(
            self._store,
            self._own_lease,
            self.config,
            self._table,
            self._random,
            grace=self._grace,
            adoption=adoption,
        )
        since = monotonic() if seen_since is None else seen_since
        lease = await acquisition.run(attrs, previous, before, since)
        self._have(lease)
        self._update_peers(self._table.leases.keys())
        return lease

    def _have(self, lease: Lease) -> None:
        self._own, self._stored = lease, lease.attrs
        self.is_in_order, self.is_forgotten = True, False

    async def follow(self) -> AsyncIterator[set[IPv4Network]]:
        """Keep `peers` up to date; yield the subnets that differ, the first time perhaps none.

        :raises LeaseLost: another host holds our subnet now.
        """
        async for news in self._store.follow_leases():
            match news:
                case Snapshot():
                    changed = self._compare(news)
                case Changes():
                    changed = self._apply(news)
                case _:
                    assert_never(news)
            yield self._update_peers(changed)

    def _compare(self, found: Snapshot) -> set[IPv4Network]:
        own = self.own
        seen = next((each for each in found.leases if each.subnet == own.subnet), None)
        rewound = found.rewound
        if seen is None:
            rewound |= own.index > 0  # no event reported its removal
            self.is_forgotten |= rewound
        elif self._is_unverified:
            rewound |= own.index > seen.index
        keep_until = monotonic() + self._grace if rewound else None
        changed = self._table.reset(found.leases, keep_until)
        self._is_unverified = False
        self._check_own(seen, rewound, is_garbled=own.subnet in found.garbled)
        return changed

    def _apply(self, changes: Changes) -> set[IPv4Network]:
        changed = self._table.update(changes.events)
        ours = [each for each in changes.events if each.subnet == self.own.subnet]
        if ours:
            seen = self._table.held(self.own.subnet)
            self._check_own(seen, False, is_garbled=isinstance(ours[-1], LeaseGarbled))
        return changed

    def expire(self) -> set[IPv4Network]:
        """Drop leases that the store lost too long ago; return the subnets that differ."""
        return self._update_peers(self._table.expire(monotonic()))

    def _check_own(self, seen: Lease | None, rewound: bool, is_garbled: bool) -> None:
        if is_garbled:
            self.is_in_order = False
            self._own_changed.set()
            return
        own = self.own
        if seen is None:
            # A missing lease has no index, so a later snapshot is not taken for an older one.
            self._own = replace(own, index=0)
            self._stored = None
            in_order = False
        elif seen.index < own.index and not rewound:
            return  # from before our last write
        else:
            self._check_owner(seen)
            in_order = seen.attrs == own.attrs and not seen.attrs.asked_by
            if (seen.index, seen.ttl, in_order) == (own.index, own.ttl, self.is_in_order):
                return
            self._own = replace(own, ttl=seen.ttl, index=seen.index)
        self.is_in_order = in_order
        self._own_changed.set()

    def _check_owner(self, seen: Lease) -> None:
        own, attrs = self.own, seen.attrs
        if not is_of(attrs, own.attrs):
            raise LeaseLost(f"cannot keep lease {own.subnet}: {attrs.host} holds it now")
        stored = self._stored or own.attrs
        if attrs.public_ip not in (own.attrs.public_ip, stored.public_ip):
            raise copied(seen)

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
        self._strange.summarize()
        return differ

    def _is_peer(self, lease: Lease) -> bool:
        network, subnet, attrs, own = self.config.network, lease.subnet, lease.attrs, self.own
        if subnet == own.subnet or attrs.public_ip == own.attrs.public_ip:
            return False
        if is_of(attrs, own.attrs):
            return False  # ours from before our address changed
        if lease.has_no_host_yet and own.attrs.backend_type:
            return False  # nobody is there; upstream's hosts with udp write nothing, as an operator
        if subnet.prefixlen != self.config.subnet_len or subnet.network_address not in network:
            why = f"it is not a /{self.config.subnet_len} of {network}"
        elif self.config.may_lease(attrs.public_ip) or attrs.public_ip in subnet:
            why = f"its host's address is inside {network}, where a container may have it"
        else:
            return True
        self._strange.warn(subnet, f"ignoring lease {lease}: {why}")
        return False

    async def keep(self) -> None:
        """Make the store's record match what we serve, for its full time.

        Renew our lease, take it again if it is gone, write it again if it differs. Other hosts
        see no event for a renewal.

        :raises LeaseLost: another host holds our subnet now.
        """
        for _ in range(ATTEMPTS):
            try:
                lease = await self._keep()
            except (LeaseTaken, LeaseChanged):
                continue  # the next look shows which host holds it
            self._have(lease)
            return
        raise LeaseTaken(f"cannot keep lease {self.own}: others were quicker {ATTEMPTS} times")

    async def _keep(self) -> Lease:
        own = self.own
        found = await self._own_lease.repair(own)
        if found is None:
            lease = await self._store.create(own.subnet, own.attrs, self._own_lease.ttl)
            log.warning("lease %s was gone from the store; taken again", own)
            return lease
        self._check_owner(found)
        lease = await self._own_lease.write(found, own.attrs)
        if found.attrs != own.attrs:
            log.warning(
                "lease %s was changed in the store: %s; written again", own, found.attrs.host
            )
        if found.attrs.asked_by:
            asker = found.attrs.asked_by.rpartition("-")[0]
            message = (
                f"another host, of NodeID {asker}, has our public address {own.attrs.public_ip}"
            )
            self._strange.warn(("asker", asker), f"{message}; it waits for lease {own.subnet}")
        return lease

    async def release(self) -> None:
        """Release our lease; a reservation stays.

        :raises LeaseChanged: another host holds it.
        """
        if self.own.ttl is not None:
            await self._store.release(self.own)

    async def own_changed(self) -> None:
        """Wait until our lease changes in the store, for example its lifetime."""
        await self._own_changed.wait()
        self._own_changed.clear()

    def renewal_delay(self, margin: float) -> float | None:
        """Seconds until our lease is due for renewal; None: never, it is a reservation.

        :param margin: seconds that must be left of the lease. The delay is chosen at random each
            time, from half to nine tenths of the time before that, so that hosts that started
            together do not renew together, and a failed renewal leaves time for many more.
        """
        ttl = self.own.ttl
        if ttl is None:
            return None
        if ttl == UNKNOWN_TTL:  # until the store reports it
            ttl = self._own_lease.ttl
        latest = ttl - margin if ttl > margin else ttl / 4
        return latest * self._random.uniform(0.5, 0.9)
