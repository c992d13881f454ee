"""A store on a real etcd, and other hosts' leases in it."""

import asyncio
from collections.abc import Coroutine
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

from etcd_server import PREFIX, EtcdServer

from flannel.lease import LeaseAttrs
from flannel.stores.etcd_endpoints import Endpoints
from flannel.stores.etcd_v2 import EtcdV2Store

T = TypeVar("T")
A, B, C = (IPv4Network(f"10.5.{n}.0/24") for n in (1, 2, 3))
ME, OTHER = (LeaseAttrs(IPv4Address(f"192.0.2.{n}"), "host-gw") for n in (1, 2))
VALUE = OTHER.to_json()


def store_at(*urls: str, **options: Any) -> EtcdV2Store:
    return EtcdV2Store(Endpoints(urls, **options), PREFIX)


def run(work: Coroutine[Any, Any, T], seconds: float = 250) -> T:
    return asyncio.run(asyncio.wait_for(work, seconds))


def add(etcd: EtcdServer, subnet: IPv4Network, value: str = VALUE, **params: object) -> int:
    """Another host's lease; returns its index."""
    key = f"subnets/{subnet.network_address}-{subnet.prefixlen}"
    index: int = etcd.put(key, value, **params)["node"]["modifiedIndex"]
    return index
