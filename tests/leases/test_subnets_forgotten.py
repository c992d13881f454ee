"""SubnetManager: our lease and the peers after the store has lost leases, or holds garbage."""

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address
from random import Random

import pytest
from fake_store import FakeStore
from managers import CONFIG, LONG_AGO, ME, OTHER, SMALL, TTL, Cluster, fresh, net, run

from flannel.errors import LeaseLost, NoFreeSubnet
from flannel.lease import Lease, LeaseAttrs, LeaseTable
from flannel.leases.subnets import SubnetManager, retry_pause
from flannel.stores import Snapshot


class Clock:
    """Time that passes for those who wait, and for nobody else."""

    now = 1e6

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in ("acquisition", "subnets"):
        monkeypatch.setattr(f"flannel.leases.{module}.monotonic", lambda: made.now)
    monkeypatch.setattr("flannel.leases.acquisition.asyncio.sleep", made.sleep)
    return made


class TestForgottenLeases:
    """A store that was emptied does not end what is in use."""

    A, B, C = (net(f"10.5.{n}.0/24") for n in (7, 8, 9))
    THIRD = LeaseAttrs(IPv4Address("192.0.2.3"), "host-gw", node_id="n3")

    def following(self, *steps: Callable[[FakeStore], object], grace: float = 300) -> SubnetManager:
        """A manager with peers A and B, after ``steps`` in its store and their events."""
        store = FakeStore()
        manager = fresh(store, CONFIG, Random(7), grace=grace)

        async def main() -> None:
            store.put(self.A, OTHER, 50)
            store.put(self.B, self.THIRD, 50)
            await manager.acquire(ME, None, seen_since=LONG_AGO)
            feed = manager.follow()
            await anext(feed)
            for step in steps:
                step(store)
                await anext(feed)

        run(main())
        return manager

    @staticmethod
    def wipe(store: FakeStore) -> None:
        store.leases.clear()
        store.index = 0
        store.tell(Snapshot(()))

    def test_peers_of_a_wiped_store_stay(self) -> None:
        assert self.following(self.wipe).peers.keys() == {self.A, self.B}

    def test_peers_of_a_store_restored_from_an_older_state_stay(self) -> None:
        def restore(store: FakeStore) -> None:
            del store.leases[self.A]
            store.tell(Snapshot(tuple(store.leases.values()), rewound=True))

        assert self.following(restore).peers.keys() == {self.A, self.B}

    def test_a_peer_missing_in_a_store_that_did_not_rewind_is_removed_at_once(self) -> None:
        def miss(store: FakeStore) -> None:  # its history was too short for the event
            del store.leases[self.A]
            store.tell(Snapshot(tuple(store.leases.values())))

        assert self.following(miss).peers.keys() == {self.B}

    def test_a_peer_whose_lease_is_removed_is_removed_at_once(self) -> None:
        manager = self.following(lambda store: store.remove(self.A))
        assert manager.peers.keys() == {self.B}

    def test_forgotten_leases_are_removed_after_the_grace(self) -> None:
        manager = self.following(self.wipe, grace=0)
        assert manager.expire() == {self.A, self.B}
        assert manager.peers == {}

    def test_forgotten_leases_stay_until_the_end_of_the_grace(self) -> None:
        manager = self.following(self.wipe)
        assert manager.expire() == set()

    def test_a_peer_that_writes_its_lease_again_is_kept_after_the_grace(self) -> None:
        manager = self.following(self.wipe, lambda store: store.put(self.A, OTHER, 50), grace=0)
        assert manager.expire() == {self.B}
        assert manager.peers.keys() == {self.A}

    def test_a_peer_that_leases_another_subnet_has_left_the_old_one(self) -> None:
        manager = self.following(self.wipe, lambda store: store.put(self.C, OTHER, 50))
        assert manager.peers.keys() == {self.B, self.C}

    def test_a_host_that_has_the_address_of_a_forgotten_one_does_not_end_its_lease(self) -> None:
        """They have exchanged their addresses, and one was quicker to come back."""
        attrs = LeaseAttrs(OTHER.public_ip, "host-gw", node_id=self.THIRD.node_id)
        manager = self.following(self.wipe, lambda store: store.put(self.B, attrs, 50))
        assert manager.peers.keys() == {self.A, self.B}

    def test_a_lease_without_a_node_id_is_known_by_its_address(self) -> None:
        nameless = LeaseAttrs(OTHER.public_ip, "host-gw")
        manager = self.following(self.wipe, lambda store: store.put(self.C, nameless, 50))
        assert manager.peers.keys() == {self.B, self.C}

    def test_a_forgotten_subnet_that_another_host_leases_belongs_to_that_host(self) -> None:
        fourth = LeaseAttrs(IPv4Address("192.0.2.4"), "host-gw", node_id="n4")
        manager = self.following(self.wipe, lambda store: store.put(self.A, fourth, 50))
        assert manager.peers[self.A].attrs == fourth

    def test_a_subnet_in_use_is_not_chosen_though_the_store_has_lost_its_lease(self) -> None:
        store = FakeStore()
        known = [Lease(net(f"10.5.{n}.0/24"), OTHER) for n in (1, 3)]
        manager = fresh(store, SMALL, Random(1), table=LeaseTable(known))
        before = Lease(net("10.9.9.0/24"), ME, 50, index=17)
        lease = run(manager.acquire(ME, None, before=before, seen_since=LONG_AGO))
        assert lease.subnet == net("10.5.2.0/24")
        assert manager.peers.keys() == {each.subnet for each in known}

    def test_leases_lost_while_the_store_was_unreachable_end_after_the_grace(
        self, clock: Clock
    ) -> None:
        """Each life tries anew, with the same table, and what keeps it from a lease ends."""
        store = FakeStore()
        store.put(net("10.5.2.0/24"), OTHER, 50)
        table = LeaseTable([Lease(net(f"10.5.{n}.0/24"), self.THIRD) for n in (1, 3)])
        before = Lease(net("10.5.2.0/24"), ME, 50, index=17)

        def life(grace: float) -> Lease:
            manager = fresh(store, SMALL, Random(1), grace=grace, table=table)
            return run(manager.acquire(ME, None, before=before, seen_since=LONG_AGO))

        with pytest.raises(NoFreeSubnet):
            life(grace=300)
        clock.now += 300
        assert life(grace=1000).subnet in {net("10.5.1.0/24"), net("10.5.3.0/24")}

    def test_leases_that_the_store_lost_stay_over_the_next_run(self) -> None:
        store = FakeStore()
        table = LeaseTable([Lease(self.A, OTHER)])
        before: Lease | None = Lease(net("10.9.9.0/24"), ME, 50, index=17)
        for _ in range(2):
            manager = fresh(store, CONFIG, Random(1), table=table)
            before = run(manager.acquire(ME, None, before=before, seen_since=LONG_AGO))
            assert manager.peers.keys() == {self.A}

    def test_our_own_subnet_is_taken_again_in_a_store_that_has_forgotten_it(self) -> None:
        mine = Lease(net("10.5.2.0/24"), ME, 50, index=17)
        manager = fresh(FakeStore(), CONFIG, Random(1), table=LeaseTable([mine]))
        lease = run(manager.acquire(ME, mine.subnet, before=mine, seen_since=LONG_AGO))
        assert lease.subnet == mine.subnet

    def test_leases_removed_while_the_store_was_unreachable_are_reported(self) -> None:
        store = FakeStore()
        mine = store.put(net("10.5.2.0/24"), ME, 50)
        known = [Lease(net(f"10.5.{n}.0/24"), OTHER) for n in (1, 3)]
        manager = fresh(store, SMALL, Random(1), table=LeaseTable(known))
        run(manager.acquire(ME, None, before=mine))
        assert manager.peers == {}


class TestGarbled:
    """Somebody has written what is no lease over a key."""

    def test_garbage_over_our_served_lease_is_overwritten(self) -> None:
        cluster = Cluster()
        mine = cluster.acquire("10.5.1.0/24")

        async def main() -> None:
            feed = cluster.manager.follow()
            await anext(feed)
            cluster.store.garble(mine.subnet)
            cluster.store.tell(Snapshot((mine,), garbled=frozenset({mine.subnet})))
            await anext(feed)
            assert not cluster.manager.is_in_order
            await cluster.manager.keep()

        run(main())
        assert cluster.manager.is_in_order
        assert cluster.store.leases[mine.subnet].attrs == ME

    @pytest.mark.parametrize("ttl", [50, None])
    def test_garbage_written_over_our_lease_before_the_start_is_overwritten(
        self, ttl: int | None
    ) -> None:
        cluster = Cluster()
        mine = cluster.store.put(net("10.5.1.0/24"), ME, ttl)
        cluster.store.garble(mine.subnet)
        lease = run(cluster.manager.acquire(ME, mine.subnet, before=mine, seen_since=LONG_AGO))
        assert lease.subnet == mine.subnet
        assert cluster.store.leases[mine.subnet].attrs == ME
        assert (cluster.store.leases[mine.subnet].ttl is None) == (ttl is None)

    def test_garbage_over_another_hosts_lease_is_left_alone(self) -> None:
        cluster = Cluster()
        mine = Lease(net("10.5.1.0/24"), ME, 50, 17)
        cluster.store.put(mine.subnet, OTHER, 50)
        cluster.store.garble(mine.subnet)
        lease = run(cluster.manager.acquire(ME, mine.subnet, before=mine, seen_since=LONG_AGO))
        assert lease.subnet != mine.subnet
        assert cluster.store.garbled.keys() == {mine.subnet}

    def test_the_subnet_of_a_garbled_key_is_not_taken(self) -> None:
        cluster = Cluster(SMALL)
        for n in (1, 3):
            cluster.store.garble(net(f"10.5.{n}.0/24"))
        assert cluster.acquire("10.5.1.0/24").subnet == net("10.5.2.0/24")

    def test_a_lease_whose_key_cannot_be_overwritten_is_lost(self) -> None:
        cluster = Cluster()
        mine = cluster.acquire()
        cluster.store.garble(mine.subnet, index=0)
        with pytest.raises(LeaseLost, match="is garbage"):
            run(cluster.manager.keep())


class TestANewStore:
    """Where it may just have been emptied, those who use their subnets come first."""

    def wait(self, store: FakeStore, clock: Clock, *, seen_for: float = 0) -> float:
        """The seconds for which a newcomer waits before it has a lease."""
        began = clock.now
        manager = fresh(store, SMALL, Random(1))
        run(manager.acquire(ME, net("10.5.1.0/24"), seen_since=began - seen_for))
        return clock.now - began

    def test_a_new_host_waits_until_others_have_written_their_leases_again(self) -> None:
        store = FakeStore()

        async def main() -> Lease:
            manager = fresh(store, SMALL, Random(1))
            newcomer = asyncio.create_task(manager.acquire(ME, net("10.5.1.0/24")))
            await asyncio.sleep(1.5 * retry_pause(1))  # the longest pause of a host that serves
            store.put(net("10.5.1.0/24"), OTHER, TTL)
            return await newcomer

        assert run(main()).subnet != net("10.5.1.0/24")

    @pytest.mark.parametrize("ttl", [TTL, TTL - 4, 3600, None])
    def test_young_leases_do_not_show_that_the_store_is_old(
        self, clock: Clock, ttl: int | None
    ) -> None:
        store = FakeStore()
        store.put(net("10.5.3.0/24"), OTHER, ttl)
        assert self.wait(store, clock) > 1

    def test_in_an_older_store_no_host_waits(self, clock: Clock) -> None:
        store = FakeStore()
        store.put(net("10.5.2.0/24"), LeaseAttrs(IPv4Address("192.0.2.8")), TTL)
        store.put(net("10.5.3.0/24"), OTHER, TTL - 10)
        assert self.wait(store, clock) == 0

    def test_a_host_that_has_seen_the_store_for_long_enough_does_not_wait(
        self, clock: Clock
    ) -> None:
        assert self.wait(FakeStore(), clock, seen_for=2) == 0

    def test_a_host_that_finds_its_lease_does_not_wait(self, clock: Clock) -> None:
        store = FakeStore()
        store.put(net("10.5.2.0/24"), ME, TTL)
        assert self.wait(store, clock) == 0
