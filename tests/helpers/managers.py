"""A SubnetManager on a store that is real but kept in memory."""

import asyncio
from collections.abc import Coroutine
from ipaddress import IPv4Address, IPv4Network
from random import Random
from typing import Any, TypeVar

from fake_store import FakeStore

from flannel.lease import Lease, LeaseAttrs, LeaseTable
from flannel.leases.subnets import SubnetManager
from flannel.network_config import NetworkConfig
from flannel.stores import Store

T = TypeVar("T")
CONFIG = NetworkConfig.from_json('{"Network":"10.5.0.0/16"}')
SMALL = NetworkConfig.from_json('{"Network":"10.5.0.0/22","SubnetLen":24}')  # .1 to .3
ME, OTHER = (LeaseAttrs(IPv4Address(f"192.0.2.{n}"), "host-gw", node_id=f"n{n}") for n in (1, 2))
UPSTREAMS = LeaseAttrs(ME.public_ip, "host-gw")
LONG_AGO = 0.0
"""If a store has answered since then, all hosts have written their leases again."""
TTL = 86400


def net(text: str) -> IPv4Network:
    return IPv4Network(text)


def fresh(
    store: Store,
    config: NetworkConfig = CONFIG,
    random: Random | None = None,
    *,
    grace: float = 300.0,
    table: LeaseTable | None = None,
) -> SubnetManager:
    return SubnetManager(store, config, random, ttl=TTL, grace=grace, table=table)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 250))


class Cluster:
    """A store and a manager for this host."""

    def __init__(self, config: NetworkConfig = CONFIG) -> None:
        self.store = FakeStore()
        self.config = config
        self.manager = fresh(self.store, config, Random(7))

    def acquire(self, previous: str = "", attrs: LeaseAttrs = ME) -> Lease:
        subnet = net(previous) if previous else None
        return run(self.manager.acquire(attrs, subnet, seen_since=LONG_AGO))
