"""Who gets which subnet, on a store that is real but kept in memory."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv4Network
from random import Random
from time import monotonic
from typing import Any, TypeVar

import pytest
from fake_store import FakeStore
from hypothesis import given
from hypothesis import strategies as st

from flannel.errors import AddressTaken, IdentityTaken, LeaseLost, NoFreeSubnet
from flannel.lease import Lease, LeaseAttrs, LeaseTable
from flannel.network_config import NetworkConfig
from flannel.stores import Snapshot
from flannel.subnet_choice import choose_free, is_free
from flannel.subnets import LEASE_TTL, SubnetManager, retry_pause

T = TypeVar("T")
CONFIG = NetworkConfig.from_json('{"Network":"10.5.0.0/16"}')
SMALL = NetworkConfig.from_json('{"Network":"10.5.0.0/22","SubnetLen":24}')  # .1 to .3
ME, OTHER = (LeaseAttrs(IPv4Address(f"192.0.2.{n}"), "host-gw", node_id=f"n{n}") for n in (1, 2))
UPSTREAMS = LeaseAttrs(ME.public_ip, "host-gw")
LONG_AGO = 0.0
"""A store that has been answering since then has nothing to put back."""


def net(text: str) -> IPv4Network:
    return IPv4Network(text)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 10))


class TestChoosing:
    """Every free subnet with the same chance, no other ever."""

    def test_all_free_subnets_come_up_about_equally_often(self) -> None:
        config = NetworkConfig.from_json('{"Network":"10.5.0.0/20"}')  # .1 to .15
        taken = [net("10.5.1.0/24"), net("10.5.7.0/24"), net("10.5.15.0/24")]
        random = Random(1)
        counts = Counter(choose_free(config, taken, random) for _ in range(12_000))
        assert len(counts) == 12
        assert not counts.keys() & set(taken)
        assert min(counts.values()) > 850
        assert max(counts.values()) < 1150

    def test_the_last_free_subnet_is_found(self) -> None:
        taken = [net("10.5.1.0/24"), net("10.5.3.0/24")]
        assert choose_free(SMALL, taken, Random()) == net("10.5.2.0/24")

    def test_when_all_are_leased_it_says_how_many_and_where(self) -> None:
        taken = [net(f"10.5.{n}.0/24") for n in (1, 2, 3)]
        with pytest.raises(NoFreeSubnet, match=r"all 3 between 10\.5\.1\.0 and 10\.5\.3\.0"):
            choose_free(SMALL, taken, Random())

    def test_leases_of_another_length_keep_what_they_cover(self) -> None:
        config = NetworkConfig.from_json('{"Network":"10.5.0.0/16","SubnetLen":26}')
        taken = [net("10.5.1.0/24"), net("10.5.2.0/28")]
        for address in ("10.5.1.0", "10.5.1.192", "10.5.2.0"):
            assert not is_free(config, net(f"{address}/26"), taken)
        assert is_free(config, net("10.5.2.64/26"), taken)

    @pytest.mark.parametrize("poison", ["0.0.0.0/0", "10.0.0.0/8", "10.5.0.0/22", "10.5.0.0/23"])
    def test_a_key_for_most_of_the_network_keeps_nobody_from_a_lease(self, poison: str) -> None:
        assert choose_free(SMALL, [net(poison)], Random()) in {
            net(f"10.5.{n}.0/24") for n in (1, 2, 3)
        }

    @given(st.data())
    def test_a_chosen_subnet_fits_and_overlaps_nothing(self, data: st.DataObject) -> None:
        config = NetworkConfig.from_json('{"Network":"10.5.0.0/21","SubnetLen":25}')
        low, high = int(config.network.network_address) - 512, 4096
        prefixes = st.tuples(st.integers(0, high), st.integers(23, 32))
        taken = [
            IPv4Network((low + offset, length), strict=False)
            for offset, length in data.draw(st.lists(prefixes, max_size=12))
        ]
        free = [
            subnet
            for subnet in config.network.subnets(new_prefix=25)
            if config.fits(subnet) and not any(subnet.overlaps(each) for each in taken)
        ]
        random = Random(data.draw(st.integers()))
        if free:
            assert choose_free(config, taken, random) in free
        else:
            with pytest.raises(NoFreeSubnet):
                choose_free(config, taken, random)


class Cluster:
    """A store and a manager for this host."""

    def __init__(self, config: NetworkConfig = CONFIG) -> None:
        self.store = FakeStore()
        self.config = config
        self.manager = SubnetManager(self.store, config, Random(7))

    def acquire(self, previous: str = "", attrs: LeaseAttrs = ME) -> Lease:
        subnet = net(previous) if previous else None
        return run(self.manager.acquire(attrs, subnet, seen_since=LONG_AGO))


class TestAcquiring:
    """Our own lease, else the previous subnet if it is free, else any that is free."""

    def test_a_new_host_gets_a_free_subnet_for_a_day(self) -> None:
        cluster = Cluster()
        lease = cluster.acquire()
        assert CONFIG.fits(lease.subnet)
        assert (lease.attrs, lease.ttl) == (ME, LEASE_TTL)
        assert cluster.store.leases[lease.subnet] == lease

    def test_a_host_gets_its_own_lease_back_with_what_is_true_now(self) -> None:
        cluster = Cluster()
        old = LeaseAttrs(ME.public_ip, "vxlan", {"VtepMAC": "02:00:00:00:00:01"})
        cluster.store.put(net("10.5.9.0/24"), old, 50)
        lease = cluster.acquire("10.5.4.0/24")
        assert (lease.subnet, lease.attrs, lease.ttl) == (net("10.5.9.0/24"), ME, LEASE_TTL)
        assert len(cluster.store.leases) == 1

    def test_an_own_lease_that_is_still_true_is_renewed_without_waking_anybody(self) -> None:
        cluster = Cluster()
        cluster.store.put(net("10.5.9.0/24"), ME, 50)
        assert cluster.acquire().ttl == LEASE_TTL
        assert cluster.store.renewals == 1

    def test_of_several_own_leases_the_previous_subnet_is_taken(self) -> None:
        cluster = Cluster()
        for subnet in ("10.5.9.0/24", "10.5.4.0/24"):
            cluster.store.put(net(subnet), ME, 50)
        assert cluster.acquire("10.5.4.0/24").subnet == net("10.5.4.0/24")

    def test_of_several_own_leases_the_first_listed_is_taken(self) -> None:
        cluster = Cluster()
        for subnet in ("10.5.9.0/24", "10.5.4.0/24"):
            cluster.store.put(net(subnet), ME, 50)
        assert cluster.acquire().subnet == net("10.5.9.0/24")

    def test_the_previous_subnet_is_taken_again_if_it_is_free(self) -> None:
        assert Cluster().acquire("10.5.77.0/24").subnet == net("10.5.77.0/24")

    def test_the_previous_subnet_is_never_taken_from_another(self) -> None:
        cluster = Cluster()
        theirs = cluster.store.put(net("10.5.77.0/24"), OTHER, 50)
        assert cluster.acquire("10.5.77.0/24").subnet != theirs.subnet
        assert cluster.store.leases[theirs.subnet] is theirs

    @pytest.mark.parametrize("previous", ["10.5.0.0/24", "10.6.1.0/24", "10.5.1.0/25"])
    def test_a_previous_subnet_that_does_not_fit_the_config_is_not_taken(
        self, previous: str
    ) -> None:
        assert Cluster().acquire(previous).subnet != net(previous)

    def test_an_own_lease_that_does_not_fit_the_config_is_given_up(self) -> None:
        cluster = Cluster()
        cluster.store.put(net("10.6.1.0/24"), ME, 50)
        lease = cluster.acquire()
        assert cluster.store.leases.keys() == {lease.subnet}
        assert CONFIG.fits(lease.subnet)

    def test_a_reservation_is_used_and_stays_one(self) -> None:
        cluster = Cluster()
        cluster.store.put(net("10.5.9.0/24"), ME, None)
        lease = cluster.acquire()
        assert (lease.subnet, lease.ttl) == (net("10.5.9.0/24"), None)
        assert cluster.manager.renewal_delay(3600) is None

    def test_a_reservation_that_does_not_fit_is_left_alone(self) -> None:
        cluster = Cluster()
        reserved = cluster.store.put(net("10.6.1.0/24"), ME, None)
        assert CONFIG.fits(cluster.acquire().subnet)
        assert cluster.store.leases[reserved.subnet] is reserved

    def test_a_subnet_lost_to_a_quicker_host_makes_it_choose_again(self) -> None:
        cluster = Cluster(SMALL)
        taken = [cluster.store.put(net(f"10.5.{n}.0/24"), OTHER, 50) for n in (1, 3)]
        cluster.store.stale = [Snapshot(())] * 3  # what it lists is from before they came
        assert cluster.acquire("10.5.1.0/24").subnet == net("10.5.2.0/24")
        assert all(cluster.store.leases[each.subnet] is each for each in taken)

    def test_when_nothing_is_free_it_says_so(self) -> None:
        cluster = Cluster(SMALL)
        for n in (1, 2, 3):
            cluster.store.put(net(f"10.5.{n}.0/24"), OTHER, 50)
        with pytest.raises(NoFreeSubnet):
            cluster.acquire()

    def test_hosts_that_start_together_get_different_subnets(self) -> None:
        store = FakeStore()

        async def one(number: int) -> Lease:
            attrs = LeaseAttrs(IPv4Address(f"192.0.2.{number}"), "host-gw")
            manager = SubnetManager(store, CONFIG, Random(number % 3))
            return await manager.acquire(attrs, None, seen_since=LONG_AGO)

        async def together() -> list[Lease]:
            return await asyncio.gather(*(one(number) for number in range(1, 101)))

        assert len({lease.subnet for lease in run(together())}) == 100


class TestWhoseItIs:
    """A host is known by its NodeID, and where there is none, by its public address."""

    @pytest.mark.parametrize(
        "written",
        [
            LeaseAttrs(IPv4Address("192.0.2.77"), "host-gw", node_id=ME.node_id),
            UPSTREAMS,
            LeaseAttrs(ME.public_ip, "vxlan", {"VtepMAC": "02:00:00:00:00:01"}),
        ],
        ids=["before its address changed", "by upstream", "by upstream, another backend"],
    )
    def test_what_this_host_has_leased_before_is_updated_in_place(
        self, written: LeaseAttrs
    ) -> None:
        cluster = Cluster()
        before = cluster.store.put(net("10.5.9.0/24"), written, 50)
        lease = cluster.acquire()
        assert (lease.subnet, lease.attrs) == (before.subnet, ME)
        assert len(cluster.store.leases) == 1

    @pytest.mark.parametrize("node_id", [ME.node_id, ""])
    def test_a_second_host_with_the_same_address_is_refused_and_told_what_to_do(
        self, node_id: str
    ) -> None:
        cluster = Cluster()
        first = LeaseAttrs(ME.public_ip, "host-gw", node_id="first")
        theirs = cluster.store.put(net("10.5.9.0/24"), first, 50)
        with pytest.raises(AddressTaken) as refusal:
            cluster.acquire("10.5.9.0/24", LeaseAttrs(ME.public_ip, "host-gw", node_id=node_id))
        for part in ("192.0.2.1", "10.5.9.0/24", "NodeID first", "-public-ip", "release"):
            assert part in str(refusal.value)
        assert cluster.store.leases == {theirs.subnet: theirs}

    def test_a_host_with_a_copied_subnet_env_gets_another_subnet(self) -> None:
        cluster = Cluster()
        theirs = cluster.store.put(net("10.5.9.0/24"), OTHER, 50)
        assert cluster.acquire("10.5.9.0/24").subnet != theirs.subnet


class TestForgottenLeases:
    """A store that was emptied does not end what is in use."""

    A, B, C = (net(f"10.5.{n}.0/24") for n in (7, 8, 9))
    THIRD = LeaseAttrs(IPv4Address("192.0.2.3"), "host-gw", node_id="n3")

    def following(self, *steps: Callable[[FakeStore], object], grace: float = 300) -> SubnetManager:
        """A manager with peers A and B, after its store has done ``steps`` and told of it."""
        store = FakeStore()
        manager = SubnetManager(store, CONFIG, Random(7), grace=grace)

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

    def test_a_peer_that_a_store_in_good_memory_does_not_have_any_more_goes_at_once(self) -> None:
        def miss(store: FakeStore) -> None:  # its history was too short for the event
            del store.leases[self.A]
            store.tell(Snapshot(tuple(store.leases.values())))

        assert self.following(miss).peers.keys() == {self.B}

    def test_a_peer_that_is_removed_goes_at_once(self) -> None:
        manager = self.following(lambda store: store.remove(self.A))
        assert manager.peers.keys() == {self.B}

    def test_after_the_grace_they_go(self) -> None:
        manager = self.following(self.wipe, grace=0)
        assert manager.expire() == {self.A, self.B}
        assert manager.peers == {}

    def test_before_its_end_they_do_not(self) -> None:
        manager = self.following(self.wipe)
        assert manager.expire() == set()

    def test_a_peer_that_puts_its_lease_back_is_an_ordinary_one_again(self) -> None:
        manager = self.following(self.wipe, lambda store: store.put(self.A, OTHER, 50), grace=0)
        assert manager.expire() == {self.B}
        assert manager.peers.keys() == {self.A}

    def test_a_peer_that_leases_another_subnet_has_left_the_old_one(self) -> None:
        manager = self.following(self.wipe, lambda store: store.put(self.C, OTHER, 50))
        assert manager.peers.keys() == {self.B, self.C}

    def test_a_subnet_that_another_host_leases_is_that_ones(self) -> None:
        fourth = LeaseAttrs(IPv4Address("192.0.2.4"), "host-gw", node_id="n4")
        manager = self.following(self.wipe, lambda store: store.put(self.A, fourth, 50))
        assert manager.peers[self.A].attrs == fourth

    def test_what_is_in_use_is_not_chosen_though_the_store_has_forgotten_it(self) -> None:
        store = FakeStore()
        known = [Lease(net(f"10.5.{n}.0/24"), OTHER) for n in (1, 3)]
        manager = SubnetManager(store, SMALL, Random(1), table=LeaseTable(known))
        before = Lease(net("10.9.9.0/24"), ME, 50, index=17)
        lease = run(manager.acquire(ME, None, before=before, seen_since=LONG_AGO))
        assert lease.subnet == net("10.5.2.0/24")
        assert manager.peers.keys() == {each.subnet for each in known}

    def test_what_went_while_we_were_away_is_over_after_the_grace_whatever_comes(self) -> None:
        """Each life tries anew, with the same table, and what keeps it from a lease ends."""
        store = FakeStore()
        store.put(net("10.5.2.0/24"), OTHER, 50)
        table = LeaseTable([Lease(net(f"10.5.{n}.0/24"), self.THIRD) for n in (1, 3)])
        before = Lease(net("10.5.2.0/24"), ME, 50, index=17)

        def life(grace: float) -> Lease:
            manager = SubnetManager(store, SMALL, Random(1), grace=grace, table=table)
            return run(manager.acquire(ME, None, before=before, seen_since=LONG_AGO))

        with pytest.raises(NoFreeSubnet):
            life(grace=0.1)
        time.sleep(0.1)
        assert life(grace=1000).subnet in {net("10.5.1.0/24"), net("10.5.3.0/24")}

    def test_what_the_store_has_forgotten_stays_over_another_life(self) -> None:
        store = FakeStore()
        table = LeaseTable([Lease(self.A, OTHER)])
        before: Lease | None = Lease(net("10.9.9.0/24"), ME, 50, index=17)
        for _ in range(2):
            manager = SubnetManager(store, CONFIG, Random(1), table=table)
            before = run(manager.acquire(ME, None, before=before, seen_since=LONG_AGO))
            assert manager.peers.keys() == {self.A}

    def test_our_own_subnet_is_taken_again_in_a_store_that_has_forgotten_it(self) -> None:
        mine = Lease(net("10.5.2.0/24"), ME, 50, index=17)
        manager = SubnetManager(FakeStore(), CONFIG, Random(1), table=LeaseTable([mine]))
        lease = run(manager.acquire(ME, mine.subnet, before=mine, seen_since=LONG_AGO))
        assert lease.subnet == mine.subnet

    def test_leases_that_went_while_we_were_away_are_not_missed(self) -> None:
        store = FakeStore()
        mine = store.put(net("10.5.2.0/24"), ME, 50)
        known = [Lease(net(f"10.5.{n}.0/24"), OTHER) for n in (1, 3)]
        manager = SubnetManager(store, SMALL, Random(1), table=LeaseTable(known))
        run(manager.acquire(ME, None, before=mine))
        assert manager.peers == {}


class TestGarbled:
    """Somebody has written what is no lease over a key."""

    def test_over_ours_while_we_serve_it_is_written_again_however_we_hear_of_it(self) -> None:
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
    def test_over_ours_while_we_were_away_it_is_written_again(self, ttl: int | None) -> None:
        cluster = Cluster()
        mine = cluster.store.put(net("10.5.1.0/24"), ME, ttl)
        cluster.store.garble(mine.subnet)
        lease = run(cluster.manager.acquire(ME, mine.subnet, before=mine, seen_since=LONG_AGO))
        assert lease.subnet == mine.subnet
        assert cluster.store.leases[mine.subnet].attrs == ME
        assert (cluster.store.leases[mine.subnet].ttl is None) == (ttl is None)

    def test_over_what_another_host_had_taken_meanwhile_it_is_left_alone(self) -> None:
        cluster = Cluster()
        mine = Lease(net("10.5.1.0/24"), ME, 50, 17)
        cluster.store.put(mine.subnet, OTHER, 50)
        cluster.store.garble(mine.subnet)
        lease = run(cluster.manager.acquire(ME, mine.subnet, before=mine, seen_since=LONG_AGO))
        assert lease.subnet != mine.subnet
        assert cluster.store.garbled.keys() == {mine.subnet}

    def test_a_garbled_key_is_nobodys_to_take(self) -> None:
        cluster = Cluster(SMALL)
        for n in (1, 3):
            cluster.store.garble(net(f"10.5.{n}.0/24"))
        assert cluster.acquire("10.5.1.0/24").subnet == net("10.5.2.0/24")

    def test_what_cannot_be_written_over_is_given_up(self) -> None:
        cluster = Cluster()
        mine = cluster.acquire()
        cluster.store.garble(mine.subnet, index=0)
        with pytest.raises(LeaseLost, match="is garbage"):
            run(cluster.manager.keep())


class TestANewStore:
    """Where it may just have been emptied, those who use their subnets come first."""

    def acquire(self, store: FakeStore, *, seen_for: float = 0) -> tuple[Lease, float]:
        """The lease of a newcomer and the seconds it took."""

        async def main() -> tuple[Lease, float]:
            began = monotonic()
            manager = SubnetManager(store, SMALL, Random(1))
            lease = await manager.acquire(ME, net("10.5.1.0/24"), seen_since=began - seen_for)
            return lease, monotonic() - began

        return run(main())

    def test_a_newcomer_leaves_time_to_those_who_put_their_leases_back(self) -> None:
        store = FakeStore()

        async def main() -> Lease:
            manager = SubnetManager(store, SMALL, Random(1))
            newcomer = asyncio.create_task(manager.acquire(ME, net("10.5.1.0/24")))
            await asyncio.sleep(1.5 * retry_pause(1))  # the longest pause of a host that serves
            store.put(net("10.5.1.0/24"), OTHER, LEASE_TTL)
            return await newcomer

        assert run(main()).subnet != net("10.5.1.0/24")

    @pytest.mark.parametrize("ttl", [LEASE_TTL, LEASE_TTL - 4, 3600, None])
    def test_young_leases_say_nothing_of_the_age_of_a_store(self, ttl: int | None) -> None:
        store = FakeStore()
        store.put(net("10.5.3.0/24"), OTHER, ttl)
        assert self.acquire(store)[1] > 1

    def test_in_an_older_store_nobody_waits(self) -> None:
        store = FakeStore()
        store.put(net("10.5.2.0/24"), LeaseAttrs(IPv4Address("192.0.2.8")), LEASE_TTL)
        store.put(net("10.5.3.0/24"), OTHER, LEASE_TTL - 10)
        assert self.acquire(store)[1] < 0.5

    def test_who_has_seen_the_store_for_a_while_does_not_wait(self) -> None:
        assert self.acquire(FakeStore(), seen_for=2)[1] < 0.5

    def test_who_finds_its_lease_does_not_wait(self) -> None:
        store = FakeStore()
        store.put(net("10.5.2.0/24"), ME, LEASE_TTL)
        assert self.acquire(store)[1] < 0.5


class TestResuming:
    """To serve what was served before, while the store is away."""

    def test_it_serves_at_once_and_puts_its_lease_back_if_it_is_gone(self) -> None:
        store = FakeStore()
        peer = Lease(net("10.5.3.0/24"), OTHER)
        manager = SubnetManager(store, CONFIG, Random(1), table=LeaseTable([peer]))
        lease = manager.resume(ME, Lease(net("10.5.2.0/24"), UPSTREAMS, 50, index=17))
        assert (lease.subnet, lease.attrs) == (net("10.5.2.0/24"), ME)
        assert manager.peers == {peer.subnet: peer}

        async def main() -> None:
            await anext(manager.follow())
            assert not manager.is_in_order
            await manager.keep()

        run(main())
        assert store.leases[lease.subnet].attrs == ME
        assert manager.peers == {peer.subnet: peer}  # of a store that has forgotten us as well

    def test_a_lease_that_another_has_by_now_is_lost(self) -> None:
        store = FakeStore()
        manager = SubnetManager(store, CONFIG, Random(1))
        manager.resume(ME, Lease(net("10.5.2.0/24"), ME, 50, index=17))
        store.index = 20
        store.put(net("10.5.2.0/24"), OTHER, 50)
        with pytest.raises(LeaseLost, match="NodeID n2"):
            run(anext(manager.follow()))

    def test_an_address_that_has_changed_meanwhile_is_published(self) -> None:
        store = FakeStore()
        before = store.put(net("10.5.2.0/24"), LeaseAttrs(OTHER.public_ip, node_id="n1"), 50)
        manager = SubnetManager(store, CONFIG, Random(1))
        manager.resume(ME, before)

        async def main() -> None:
            await anext(manager.follow())
            await manager.keep()

        run(main())
        assert store.leases[before.subnet].attrs == ME


class TestFollowing:
    """What other hosts hold, and whether ours is still ours."""

    def follow(self, cluster: Cluster, *steps: Any) -> list[set[IPv4Network]]:
        """What is yielded: at first, and after each of ``steps`` has been done to the store."""

        async def main() -> list[set[IPv4Network]]:
            await cluster.manager.acquire(ME, net("10.5.1.0/24"), seen_since=LONG_AGO)
            feed = cluster.manager.follow()
            seen = [await anext(feed)]
            for step in steps:
                step()
                seen.append(await anext(feed))
            return seen

        return run(main())

    def test_peers_are_the_leases_of_others(self) -> None:
        cluster = Cluster()
        a, b = net("10.5.7.0/24"), net("10.5.8.0/24")
        cluster.store.put(a, OTHER, 50)
        seen = self.follow(
            cluster,
            lambda: cluster.store.put(b, OTHER, 50),
            lambda: cluster.store.remove(a),
        )
        assert seen == [set(), {b}, {a}]
        assert cluster.manager.peers.keys() == {b}

    def test_a_rewritten_but_equal_lease_is_no_change(self) -> None:
        cluster = Cluster()
        a = net("10.5.7.0/24")
        cluster.store.put(a, OTHER, 50)
        assert self.follow(cluster, lambda: cluster.store.put(a, OTHER, 90)) == [set(), set()]

    def test_after_lost_history_only_what_differs_is_reported(self) -> None:
        cluster = Cluster()
        a, b, c = (net(f"10.5.{n}.0/24") for n in (7, 8, 9))
        for each in (a, b):
            cluster.store.put(each, OTHER, 50)

        def jump() -> None:
            own = cluster.store.leases[net("10.5.1.0/24")]
            third = LeaseAttrs(IPv4Address("192.0.2.3"), "host-gw")
            leases = (own, Lease(a, OTHER), Lease(c, third))
            cluster.store.tell(Snapshot(leases))

        assert self.follow(cluster, jump) == [set(), {b, c}]
        assert cluster.manager.peers.keys() == {a, c}

    @pytest.mark.parametrize(
        ("subnet", "host", "why"),
        [
            ("10.6.1.0/24", "192.0.2.2", "no /24 of 10.5.0.0/16"),
            ("10.5.0.0/16", "192.0.2.2", "no /24 of 10.5.0.0/16"),
            ("10.5.7.0/25", "192.0.2.2", "no /24 of 10.5.0.0/16"),
            ("0.0.0.0/0", "192.0.2.2", "no /24 of 10.5.0.0/16"),
            ("192.0.2.0/24", "192.0.2.2", "no /24 of 10.5.0.0/16"),
            ("10.5.7.0/24", "10.5.7.1", "its host's address is inside 10.5.0.0/16"),
        ],
    )
    def test_a_lease_that_would_do_harm_is_ignored_and_named_once(
        self, caplog: pytest.LogCaptureFixture, subnet: str, host: str, why: str
    ) -> None:
        cluster = Cluster()
        attrs = LeaseAttrs(IPv4Address(host), "host-gw")
        cluster.store.put(net(subnet), attrs, 50)
        other = LeaseAttrs(IPv4Address(host), "vxlan")
        self.follow(cluster, lambda: cluster.store.put(net(subnet), other, 50))
        assert cluster.manager.peers == {}
        assert caplog.text.count(why) == 1

    def test_leases_of_this_host_are_no_peers(self) -> None:
        cluster = Cluster()
        self.follow(cluster, lambda: cluster.store.put(net("10.5.7.0/24"), ME, 50))
        assert cluster.manager.peers == {}

    def test_a_lease_that_another_host_wrote_over_is_lost_and_the_host_is_named(self) -> None:
        cluster = Cluster()
        with pytest.raises(LeaseLost, match=r"10\.5\.1\.0/24: 192\.0\.2\.2 \(NodeID n2\) holds"):
            self.follow(cluster, lambda: cluster.store.put(net("10.5.1.0/24"), OTHER, 50))

    def test_a_copy_of_this_host_is_told_from_it(self) -> None:
        cluster = Cluster()
        copy = LeaseAttrs(OTHER.public_ip, "host-gw", node_id=ME.node_id)
        with pytest.raises(IdentityTaken, match="copy of the other"):
            self.follow(cluster, lambda: cluster.store.put(net("10.5.1.0/24"), copy, 50))

    @pytest.mark.parametrize(
        "loss",
        [
            lambda store: store.remove(net("10.5.1.0/24")),
            lambda store: (store.leases.clear(), store.tell(Snapshot(()))),
            lambda store: store.put(net("10.5.1.0/24"), UPSTREAMS, 50),
        ],
        ids=["removed", "wiped", "written by another daemon on this host"],
    )
    def test_a_lease_that_is_gone_or_says_something_else_is_put_back(
        self, loss: Callable[[FakeStore], object]
    ) -> None:
        cluster = Cluster()
        assert cluster.manager.is_in_order
        self.follow(cluster, lambda: loss(cluster.store))
        assert not cluster.manager.is_in_order
        run(cluster.manager.keep())
        assert cluster.manager.is_in_order
        assert cluster.store.leases[net("10.5.1.0/24")].attrs == ME

    def test_a_lease_that_is_gone_and_taken_by_another_is_not_taken_back(self) -> None:
        cluster = Cluster()
        self.follow(cluster, lambda: cluster.store.remove(net("10.5.1.0/24")))
        theirs = cluster.store.put(net("10.5.1.0/24"), OTHER, 50)
        with pytest.raises(LeaseLost, match="NodeID n2"):
            run(cluster.manager.keep())
        assert cluster.store.leases[theirs.subnet] is theirs

    def test_news_from_before_our_renewal_is_not_taken_for_a_change(self) -> None:
        cluster = Cluster()

        async def main() -> None:
            first = await cluster.manager.acquire(ME, net("10.5.1.0/24"), seen_since=LONG_AGO)
            feed = cluster.manager.follow()
            await anext(feed)
            await cluster.manager.keep()
            cluster.store.tell(Snapshot((first,)))
            await anext(feed)
            assert cluster.manager.own.index > first.index

        run(main())

    def test_another_lifetime_of_our_lease_is_noticed(self) -> None:
        cluster = Cluster()

        async def main() -> None:
            await cluster.manager.acquire(ME, net("10.5.1.0/24"), seen_since=LONG_AGO)
            feed = cluster.manager.follow()
            await anext(feed)
            cluster.store.put(net("10.5.1.0/24"), ME, 4)
            await anext(feed)
            await asyncio.wait_for(cluster.manager.own_changed(), 1)
            assert cluster.manager.own.ttl == 4

        run(main())


class TestRenewing:
    """In time, not all at once, by compare-and-swap."""

    def delays(self, ttl: int, margin: float) -> list[float]:
        cluster = Cluster()
        cluster.store.put(net("10.5.1.0/24"), ME, 50)
        cluster.acquire()
        cluster.manager._own = Lease(net("10.5.1.0/24"), ME, ttl)
        found = [cluster.manager.renewal_delay(margin) for _ in range(1000)]
        return [each for each in found if each is not None]

    @pytest.mark.parametrize(
        ("ttl", "margin", "low", "high"),
        [
            (86400, 3600, 0.5 * 82800, 0.9 * 82800),
            (86400, 1439 * 60, 30, 54),
            (4, 3600, 0.5, 0.9),
            (0, 3600, 0, 0),
        ],
    )
    def test_the_moment_is_spread_and_leaves_the_margin(
        self, ttl: int, margin: float, low: float, high: float
    ) -> None:
        delays = self.delays(ttl, margin)
        assert low <= min(delays)
        assert max(delays) <= high
        assert max(delays) - min(delays) >= 0.9 * (high - low)

    def test_renewal_gives_the_full_time_again(self) -> None:
        cluster = Cluster()
        cluster.acquire()
        run(cluster.manager.keep())
        assert cluster.store.renewals == 1
        assert cluster.manager.own.ttl == LEASE_TTL

    def test_a_lease_that_is_not_ours_any_more_is_not_renewed(self) -> None:
        cluster = Cluster()
        lease = cluster.acquire()
        theirs = cluster.store.put(lease.subnet, OTHER, 50)
        with pytest.raises(LeaseLost):
            run(cluster.manager.keep())
        assert cluster.store.leases[lease.subnet] is theirs
