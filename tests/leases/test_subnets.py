"""SubnetManager on a store in memory: our lease and the peers' leases."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from random import Random
from typing import Any

import pytest
from fake_store import FakeStore
from managers import CONFIG, LONG_AGO, ME, OTHER, SMALL, TTL, UPSTREAMS, Cluster, fresh, net, run

from flannel.errors import AddressTaken, IdentityTaken, LeaseLost, NoFreeSubnet
from flannel.lease import Lease, LeaseAttrs, LeaseTable
from flannel.stores import Snapshot


async def first_of(feed: AsyncIterator[set[IPv4Network]]) -> set[IPv4Network]:
    return await anext(feed)


class TestAcquiring:
    """Our own lease, else the previous subnet if it is free, else any that is free."""

    def test_a_new_host_gets_a_free_subnet_for_a_day(self) -> None:
        cluster = Cluster()
        lease = cluster.acquire()
        assert CONFIG.fits(lease.subnet)
        assert (lease.attrs, lease.ttl) == (ME, TTL)
        assert cluster.store.leases[lease.subnet] == lease

    def test_a_host_gets_its_own_lease_back_with_its_present_attributes(self) -> None:
        cluster = Cluster()
        old = LeaseAttrs(ME.public_ip, "vxlan", {"VtepMAC": "02:00:00:00:00:01"})
        cluster.store.put(net("10.5.9.0/24"), old, 50)
        lease = cluster.acquire("10.5.4.0/24")
        assert (lease.subnet, lease.attrs, lease.ttl) == (net("10.5.9.0/24"), ME, TTL)
        assert len(cluster.store.leases) == 1

    def test_an_own_lease_that_is_still_true_is_renewed_without_waking_anybody(self) -> None:
        cluster = Cluster()
        cluster.store.put(net("10.5.9.0/24"), ME, 50)
        assert cluster.acquire().ttl == TTL
        assert cluster.store.renewals == 1

    def test_the_previous_subnet_of_several_own_leases_is_taken(self) -> None:
        cluster = Cluster()
        for subnet in ("10.5.9.0/24", "10.5.4.0/24"):
            cluster.store.put(net(subnet), ME, 50)
        assert cluster.acquire("10.5.4.0/24").subnet == net("10.5.4.0/24")

    def test_the_first_listed_of_several_own_leases_is_taken(self) -> None:
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

    def test_a_host_chooses_again_where_a_quicker_host_took_the_subnet(self) -> None:
        cluster = Cluster(SMALL)
        taken = [cluster.store.put(net(f"10.5.{n}.0/24"), OTHER, 50) for n in (1, 3)]
        cluster.store.stale = [Snapshot(())] * 3  # what it lists is from before they came
        assert cluster.acquire("10.5.1.0/24").subnet == net("10.5.2.0/24")
        assert all(cluster.store.leases[each.subnet] is each for each in taken)

    def test_without_a_free_subnet_the_reservation_is_refused(self) -> None:
        cluster = Cluster(SMALL)
        for n in (1, 2, 3):
            cluster.store.put(net(f"10.5.{n}.0/24"), OTHER, 50)
        with pytest.raises(NoFreeSubnet):
            cluster.acquire()

    def test_hosts_that_start_together_get_different_subnets(self) -> None:
        store = FakeStore()

        async def one(number: int) -> Lease:
            attrs = LeaseAttrs(IPv4Address(f"192.0.2.{number}"), "host-gw")
            manager = fresh(store, CONFIG, Random(number % 3))
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
    def test_a_lease_of_this_host_is_updated_in_place(self, written: LeaseAttrs) -> None:
        cluster = Cluster()
        before = cluster.store.put(net("10.5.9.0/24"), written, 50)
        lease = cluster.acquire()
        assert (lease.subnet, lease.attrs) == (before.subnet, ME)
        assert len(cluster.store.leases) == 1

    @pytest.mark.parametrize("node_id", [ME.node_id, ""])
    def test_a_second_host_with_the_same_address_is_refused_with_the_cure(
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

    @pytest.mark.parametrize("others", [1, 2], ids=["two that swap", "three that rotate"])
    def test_a_host_with_a_lease_writes_it_though_another_lease_has_its_address(
        self, others: int
    ) -> None:
        """Their addresses have changed hands, and none has written its lease yet."""
        cluster = Cluster()
        addresses = [IPv4Address(f"192.0.2.{n}") for n in range(1, 2 + others)]
        for n, address in enumerate([*addresses[1:], addresses[0]]):
            was = LeaseAttrs(address, "host-gw", node_id=f"n{n + 1}")
            cluster.store.put(net(f"10.5.{n + 1}.0/24"), was, 50)
        for n, address in enumerate(addresses):
            now = LeaseAttrs(address, "host-gw", node_id=f"n{n + 1}")
            assert cluster.acquire("", now).subnet == net(f"10.5.{n + 1}.0/24")
        found = {each.attrs.public_ip: each.attrs.node_id for each in cluster.store.leases.values()}
        assert found == {each: f"n{n + 1}" for n, each in enumerate(addresses)}

    def test_the_lease_with_our_node_id_comes_before_a_lease_with_our_address(self) -> None:
        cluster = Cluster()
        cluster.store.put(net("10.5.3.0/24"), UPSTREAMS, None)
        was = LeaseAttrs(IPv4Address("192.0.2.77"), "host-gw", node_id=ME.node_id)
        own = cluster.store.put(net("10.5.9.0/24"), was, 50)
        assert cluster.acquire().subnet == own.subnet

    def test_a_peer_is_followed_as_soon_as_it_no_longer_names_our_address(self) -> None:
        cluster = Cluster()
        theirs = net("10.5.7.0/24")
        cluster.store.put(theirs, LeaseAttrs(ME.public_ip, "host-gw", node_id="n2"), 50)
        cluster.store.put(net("10.5.9.0/24"), LeaseAttrs(OTHER.public_ip, node_id="n1"), 50)

        async def main() -> None:
            await cluster.manager.acquire(ME, None, seen_since=LONG_AGO)
            feed = cluster.manager.follow()
            await anext(feed)
            assert cluster.manager.peers == {}
            cluster.store.put(theirs, OTHER, 50)
            assert await anext(feed) == {theirs}

        run(main())

    def test_a_host_with_a_copied_subnet_env_gets_another_subnet(self) -> None:
        cluster = Cluster()
        theirs = cluster.store.put(net("10.5.9.0/24"), OTHER, 50)
        assert cluster.acquire("10.5.9.0/24").subnet != theirs.subnet


class TestResuming:
    """A saved lease is served while the store is unreachable."""

    def test_a_resumed_lease_is_served_at_once_and_written_again_if_it_is_missing(self) -> None:
        store = FakeStore()
        peer = Lease(net("10.5.3.0/24"), OTHER)
        manager = fresh(store, CONFIG, Random(1), table=LeaseTable([peer]))
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
        manager = fresh(store, CONFIG, Random(1))
        manager.resume(ME, Lease(net("10.5.2.0/24"), ME, 50, index=17))
        store.index = 20
        store.put(net("10.5.2.0/24"), OTHER, 50)
        with pytest.raises(LeaseLost, match="NodeID n2"):
            run(first_of(manager.follow()))

    def test_an_address_that_has_changed_meanwhile_is_published(self) -> None:
        store = FakeStore()
        before = store.put(net("10.5.2.0/24"), LeaseAttrs(OTHER.public_ip, node_id="n1"), 50)
        manager = fresh(store, CONFIG, Random(1))
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

    def test_a_rewritten_but_equal_lease_is_not_a_change(self) -> None:
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
            ("10.6.1.0/24", "192.0.2.2", "not a /24 of 10.5.0.0/16"),
            ("10.5.0.0/16", "192.0.2.2", "not a /24 of 10.5.0.0/16"),
            ("10.5.7.0/25", "192.0.2.2", "not a /24 of 10.5.0.0/16"),
            ("0.0.0.0/0", "192.0.2.2", "not a /24 of 10.5.0.0/16"),
            ("192.0.2.0/24", "192.0.2.2", "not a /24 of 10.5.0.0/16"),
            ("10.5.7.0/24", "10.5.7.1", "its host's address is inside 10.5.0.0/16, where a"),
            ("10.5.7.0/24", "10.5.200.1", "its host's address is inside 10.5.0.0/16, where a"),
            ("10.5.0.0/24", "10.5.0.7", "its host's address is inside 10.5.0.0/16, where a"),
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

    def test_a_host_inside_the_network_outside_the_leasable_range_is_a_peer(self) -> None:
        cluster = Cluster()  # its first subnet, 10.5.0.0/24, is never leased
        beside = LeaseAttrs(IPv4Address("10.5.0.7"), "host-gw", node_id="n7")
        self.follow(cluster, lambda: cluster.store.put(net("10.5.7.0/24"), beside, 50))
        assert cluster.manager.peers.keys() == {net("10.5.7.0/24")}

    @pytest.mark.parametrize(("backend", "is_peer"), [("host-gw", False), ("", True)])
    def test_a_blank_reservation_is_only_upstream_s_udp(self, backend: str, is_peer: bool) -> None:
        cluster = Cluster()
        cluster.store.put(net("10.5.7.0/24"), LeaseAttrs(OTHER.public_ip), None)
        cluster.acquire(attrs=replace(ME, backend_type=backend))
        assert bool(cluster.manager.peers) == is_peer

    def test_leases_of_this_host_are_not_peers(self) -> None:
        cluster = Cluster()
        self.follow(cluster, lambda: cluster.store.put(net("10.5.7.0/24"), ME, 50))
        assert cluster.manager.peers == {}

    def test_a_lease_that_another_host_wrote_over_is_lost_and_the_host_is_named(self) -> None:
        cluster = Cluster()
        with pytest.raises(LeaseLost, match=r"10\.5\.1\.0/24: 192\.0\.2\.2 \(NodeID n2\) holds"):
            self.follow(cluster, lambda: cluster.store.put(net("10.5.1.0/24"), OTHER, 50))

    def test_a_copy_of_this_host_is_distinguished_from_it(self) -> None:
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
    def test_a_missing_or_changed_lease_is_written_again(
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
            await cluster.manager.own_changed()
            assert cluster.manager.own.ttl == 4

        run(main())
