"""Reservations: made for a host before it starts, or from its lease."""

import asyncio
from collections.abc import Coroutine
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

import pytest
from fake_store import FakeStore
from managers import fresh

from flannel.errors import BadLease, LeaseTaken, NoFreeSubnet
from flannel.lease import Lease, LeaseAttrs
from flannel.leases.reservations import release, reserve
from flannel.network_config import NetworkConfig

T = TypeVar("T")
SMALL = NetworkConfig.from_json('{"Network":"10.5.0.0/22","SubnetLen":24}')  # .1 to .3
A, B, C = (IPv4Network(f"10.5.{n}.0/24") for n in (1, 2, 3))
ME, OTHER = (IPv4Address(f"192.0.2.{n}") for n in (1, 2))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 250))


def test_the_host_gets_the_reserved_subnet_and_the_reservation_stays() -> None:
    store = FakeStore()
    assert run(reserve(store, SMALL, ME, B)).ttl is None
    attrs = LeaseAttrs(ME, "host-gw", node_id="n1")
    lease = run(fresh(store, SMALL).acquire(attrs, A))
    assert (lease.subnet, lease.attrs, lease.ttl) == (B, attrs, None)


def test_without_a_named_subnet_any_free_one_is_reserved() -> None:
    store = FakeStore()
    for subnet in (A, C):
        store.put(subnet, LeaseAttrs(OTHER), 50)
    assert run(reserve(store, SMALL, ME)).subnet == B
    with pytest.raises(NoFreeSubnet):
        run(reserve(store, SMALL, IPv4Address("192.0.2.3")))


@pytest.mark.parametrize("wish", [None, A])
def test_the_lease_of_the_host_becomes_a_reservation(wish: IPv4Network | None) -> None:
    store = FakeStore()
    attrs = LeaseAttrs(ME, "host-gw", node_id="n1")
    store.put(A, attrs, 50)
    lease = run(reserve(store, SMALL, ME, wish))
    assert (lease.subnet, lease.attrs, lease.ttl) == (A, attrs, None)
    assert len(store.leases) == 1


def test_a_subnet_leased_by_another_host_is_not_reserved() -> None:
    store = FakeStore()
    theirs = store.put(A, LeaseAttrs(OTHER), 50)
    with pytest.raises(LeaseTaken):
        run(reserve(store, SMALL, ME, A))
    assert store.leases == {A: theirs}


@pytest.mark.parametrize("subnet", ["10.5.0.0/24", "10.6.1.0/24", "10.5.1.0/25"])
def test_a_subnet_that_does_not_fit_the_network_is_not_reserved(subnet: str) -> None:
    with pytest.raises(BadLease, match=f"cannot reserve {subnet}"):
        run(reserve(FakeStore(), SMALL, ME, IPv4Network(subnet)))


def test_releasing_removes_the_lease_and_returns_it() -> None:
    store = FakeStore()
    made = run(reserve(store, SMALL, ME, A))
    assert run(release(store, A)) == made
    assert store.leases == {}
    assert run(release(store, A)) is None


def test_a_host_moves_to_its_reservation_at_its_next_start() -> None:
    store = FakeStore()
    attrs = LeaseAttrs(ME, "host-gw", node_id="n1")
    store.put(A, attrs, 50)
    run(reserve(store, SMALL, ME, B))
    lease = run(fresh(store, SMALL).acquire(attrs, A))
    assert (lease.subnet, lease.attrs, lease.ttl) == (B, attrs, None)
    assert list(store.leases) == [B]
    # It stays, whatever it held before.
    store.put(A, attrs, 50)
    assert run(fresh(store, SMALL).acquire(attrs, B)).subnet == B
    assert A in store.leases


def test_a_reservation_that_a_host_uses_becomes_a_lease_where_it_moves() -> None:
    store = FakeStore()
    attrs = LeaseAttrs(ME, "host-gw", node_id="n1")
    store.put(A, attrs, None)
    run(reserve(store, SMALL, ME, B, ttl=70))
    assert store.leases[A].ttl == 70
    assert run(fresh(store, SMALL).acquire(attrs, A)).subnet == B
    assert list(store.leases) == [B]


def test_the_lease_of_a_host_without_an_identity_is_left_to_its_end() -> None:
    """By its address alone it may be another host's."""
    store = FakeStore()
    store.put(A, LeaseAttrs(ME, "host-gw"), 50)
    store.put(B, LeaseAttrs(ME), None)
    attrs = LeaseAttrs(ME, "host-gw", node_id="n1")
    assert run(fresh(store, SMALL).acquire(attrs, A)).subnet == B
    assert list(store.leases) == [A, B]


def test_a_reservation_has_no_host_until_one_has_written_it() -> None:
    blank = LeaseAttrs(ME)
    assert Lease(A, blank, None).has_no_host_yet
    assert not Lease(A, blank, 50).has_no_host_yet
    assert not Lease(A, LeaseAttrs(ME, node_id="n1"), None).has_no_host_yet
    assert not Lease(A, LeaseAttrs(ME, "vxlan"), None).has_no_host_yet
