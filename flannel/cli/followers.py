"""The hosts that have followed a change of the network config, as far as their leases show.

A host that adopts a config begins a new run, and writes its lease in it: the lease's index is then
larger than that of the config. Three kinds of hosts show nothing: those with a reservation whose
attributes stay the same, those for which the change has no effect, and those of upstream's daemon,
which does not follow until it is restarted; it puts no NodeID into its leases.
"""

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from time import monotonic

from flannel.backends.traits import traits
from flannel.errors import BadNetworkConfig, StoreError
from flannel.lease import Lease
from flannel.network_config import NetworkConfig
from flannel.stores import Store

PATIENCE = 10.0
"""Seconds. A host that can follow needs two; then it is not known whether it will."""
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Change:
    """A config that was written.

    :ivar before: the document before; "" if there was none.
    :ivar version: that of the new document.
    """

    before: str
    config: NetworkConfig
    version: int

    def concerns(self, lease: Lease) -> bool:
        """Whether the host of ``lease`` has anything to do; see `flannel.daemon.life.Life`."""
        config = self.config
        if not config.fits(lease.subnet) or not self._is_served(lease):
            return True
        try:
            before = NetworkConfig.from_json(self.before)
        except BadNetworkConfig:
            return True
        same = replace(before, subnet_min=config.subnet_min, subnet_max=config.subnet_max)
        return bool(same.difference(config))

    def may_be_served_by(self, lease: Lease) -> bool:
        """Whether the host of ``lease`` may have served this config before it was written.

        The document before cannot be used, or is not there, and hosts serve the last good one
        meanwhile. If that is this one, they have nothing to do, and write nothing.
        """
        try:
            NetworkConfig.from_json(self.before)
        except BadNetworkConfig:
            return self.config.fits(lease.subnet) and self._is_served(lease)
        return False

    def is_adopted_by(self, lease: Lease) -> bool:
        """Whether a host that has written ``lease`` has followed."""
        is_new = lease.index > self.version
        return is_new and self.config.fits(lease.subnet) and self._is_served(lease)

    def _is_served(self, lease: Lease) -> bool:
        return lease.attrs.backend_type == traits(self.config.backend_type).published_as


@dataclass(frozen=True, slots=True)
class Followers:
    """The hosts by what is known of them, each as the lease that it had.

    :ivar late: they follow changes, and have not followed this one.
    :ivar until_restart: they do not follow changes.
    :ivar unknown: their leases would not show it.
    """

    followed: list[Lease] = field(default_factory=list)
    late: list[Lease] = field(default_factory=list)
    until_restart: list[Lease] = field(default_factory=list)
    unknown: list[Lease] = field(default_factory=list)

    @property
    def have_all(self) -> bool:
        """Whether no host is known that has not followed."""
        return not self.late and not self.until_restart

    def document(self) -> dict[str, list[str]]:
        """The members for JSON."""
        return {
            "followed": [str(each) for each in self.followed],
            "late": [str(each) for each in self.late],
            "until_restart": [str(each) for each in self.until_restart],
            "unknown": [str(each) for each in self.unknown],
        }

    def lines(self) -> list[str]:
        """Lines for people."""
        n = len(self.followed) + len(self.late) + len(self.until_restart) + len(self.unknown)
        lines = [f"{len(self.followed)} of {n} hosts have followed"] if n else []
        lines += [
            f"  NOT FOLLOWED: the host of lease {each}; see flannel status there"
            for each in self.late
        ]
        lines += [
            f"  NOT FOLLOWED: the host of lease {each}: its daemon, perhaps CoreOS's, does not "
            "follow changes; restart it"
            for each in self.until_restart
        ]
        lines += [
            f"  not known: the host of lease {each}: its lease does not show it"
            for each in self.unknown
        ]
        return lines


def judge(holders: Iterable[Lease], now: Collection[Lease], change: Change) -> Followers:
    """Which hosts have followed. Pure.

    :param holders: the leases before the change.
    :param now: the leases at this moment.
    """
    found = Followers()
    # A lease that was released lasts for a second, beside the new one of its host.
    hosts = {
        lease.attrs.node_id or lease.attrs.public_ip: lease
        for lease in sorted(holders, key=lambda each: each.index)
        if not lease.has_no_host_yet
    }
    for lease in sorted(hosts.values(), key=lambda each: each.subnet):
        own = [each for each in now if _is_same_host(each, lease)]
        if not change.concerns(lease) or any(change.is_adopted_by(each) for each in own):
            found.followed.append(lease)
        elif not lease.attrs.node_id:
            found.until_restart.append(lease)
        elif lease.ttl is None and own and not _must_be_written(lease, change):
            found.unknown.append(lease)
        else:
            found.late.append(lease)
    return found


def _subnet(lease: Lease) -> IPv4Network:
    return lease.subnet


def _must_be_written(lease: Lease, change: Change) -> bool:
    own, new = lease.attrs.backend_type, traits(change.config.backend_type).published_as
    return own != new or not change.config.fits(lease.subnet)


def _is_same_host(one: Lease, other: Lease) -> bool:
    if one.attrs.node_id and other.attrs.node_id:
        return one.attrs.node_id == other.attrs.node_id
    return one.attrs.public_ip == other.attrs.public_ip


async def wait_for_hosts(
    store: Store, holders: Collection[Lease], change: Change, patience: float | None = None
) -> Followers:
    """Wait until no host is late, for ``patience`` seconds at most; return what is known then."""
    deadline = monotonic() + (PATIENCE if patience is None else patience)
    now: Collection[Lease] = holders
    while True:
        with suppress(StoreError):  # the next look may succeed
            now = (await store.snapshot()).leases
        found = judge(holders, now, change)
        if not found.late:
            return found
        if monotonic() >= deadline:
            silent = [each for each in found.late if change.may_be_served_by(each)]
            late = [each for each in found.late if each not in silent]
            return replace(found, late=late, unknown=sorted([*found.unknown, *silent], key=_subnet))
        await asyncio.sleep(_PAUSE)
