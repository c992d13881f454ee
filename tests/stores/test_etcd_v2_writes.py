"""Writes of the store to a real etcd: compare-and-swap, with a TTL, exactly once."""

import asyncio
from dataclasses import replace

import pytest
from etcd_leases import (
    ME,
    OTHER,
    VALUE,
    A,
    B,
    add,
    run,
    store_at,
)
from etcd_server import PREFIX, EtcdServer, losing_answers, without_refresh

from flannel.errors import BadLease, LeaseChanged, LeaseTaken
from flannel.lease import Lease, LeaseAdded
from flannel.stores import Changes, Snapshot


def is_left_of(ttl: int, left: int | None) -> bool:
    """Whether a lease written a moment ago has this lifetime: etcd counts from the request on."""
    return left is not None and ttl - 60 < left <= ttl


class TestWrites:
    def test_a_lease_is_made_with_its_ttl_and_no_other_is_touched(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            lease = await store.create(A, ME, 86400)
            assert lease == Lease(A, ME)
            assert is_left_of(86400, lease.ttl)
            node = etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]
            assert node["value"] == '{"PublicIP":"192.0.2.1","BackendType":"host-gw"}'
            with pytest.raises(LeaseTaken, match=r"10\.5\.1\.0/24: it is held by 192\.0\.2\.1"):
                await store.create(A, OTHER, 86400)
            now = etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]
            assert now == {**node, "ttl": now["ttl"]}

        run(main())

    def test_a_renewal_extends_the_lease_and_wakes_no_watcher(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            lease = await store.create(A, ME, 100)
            feed = store_at(etcd.url).follow_leases()
            await anext(feed)
            waiting = asyncio.ensure_future(anext(feed))
            await asyncio.sleep(0.1)
            renewed = await store.renew(lease, 5000)
            assert renewed == lease
            assert is_left_of(5000, renewed.ttl)
            renewed = await store.renew(renewed, 6000)
            add(etcd, B)
            assert await waiting == Changes((LeaseAdded(Lease(B, OTHER)),))
            assert etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]["ttl"] > 5900

        run(main())

    def test_an_etcd_without_refresh_keeps_the_lease_at_a_renewal(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            with without_refresh(etcd) as url:
                store = store_at(url)
                lease = await store.create(A, ME, 100)
                for ttl in (5000, 6000):
                    lease = await store.renew(lease, ttl)
                    node = etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]
                    assert node["value"] == ME.to_json()
                    assert is_left_of(ttl, node["ttl"])
                    assert is_left_of(ttl, lease.ttl)
                    assert lease.index == node["modifiedIndex"]

        run(main())

    def test_a_lease_that_has_become_a_reservation_stays_one(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            lease = await store.create(A, ME, 100)
            add(etcd, A, ME.to_json())
            for write in (store.renew(lease, 500), store.replace(lease, OTHER, 500)):
                with pytest.raises(LeaseChanged):
                    await write
            with pytest.raises(LeaseChanged):
                await store.release(lease)
            assert await store.find(A) == lease
            assert "ttl" not in etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]

        run(main())

    def test_a_lease_at_its_very_end_is_not_taken_for_a_reservation(self, etcd: EtcdServer) -> None:
        async def main() -> set[int | None]:
            store = store_at(etcd.url)
            seen: set[int | None] = set()
            while not seen:  # a machine that stands still may miss all of it
                add(etcd, A, ttl=1)
                while lease := await store.find(A):
                    seen.add(lease.ttl)
            return seen

        # 0 from its end until the next sweep, every half a second: seldom that is at once.
        assert run(main()) <= {1, 0}

    def test_a_lease_that_another_has_written_is_not_written_over(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            lease = await store.create(A, ME, 100)
            add(etcd, A)
            for write in (
                store.renew(lease, 100),
                store.replace(lease, ME, 100),
                store.release(lease),
            ):
                with pytest.raises(LeaseChanged, match=r"held by 192\.0\.2\.2"):
                    await write
            assert etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]["value"] == VALUE

        run(main())

    def test_a_lease_that_its_holder_has_renewed_is_not_overwritten(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store, holder = store_at(etcd.url), store_at(etcd.url)
            lease = await holder.create(A, ME, 100)
            question = replace(ME, asked_by="n2-1234")
            asked = await store.overwrite(lease, question, 90)
            assert asked == lease
            assert is_left_of(90, asked.ttl)
            node = etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]
            assert node["value"] == question.to_json()
            await holder.renew(asked, 100)
            with pytest.raises(LeaseChanged, match=r"held by 192\.0\.2\.1"):
                await store.overwrite(asked, OTHER, 100)
            etcd.delete("subnets/10.5.1.0-24")
            with pytest.raises(LeaseChanged, match="not there any more"):
                await store.overwrite(asked, OTHER, 100)

        run(main())

    def test_a_lost_answer_to_an_overwrite_is_recovered(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            lease = await store_at(etcd.url).create(A, ME, 100)
            with losing_answers(etcd, 1) as (proxy, puts):
                written = await store_at(proxy, etcd.url).overwrite(lease, OTHER, 5000)
            assert len(puts) == 1
            assert written == await store_at(etcd.url).find(A)
            assert written.index > lease.index

        run(main())

    def test_a_lease_that_is_gone_is_not_made_again_by_a_renewal(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            lease = await store.create(A, ME, 100)
            etcd.delete("subnets/10.5.1.0-24")
            with pytest.raises(LeaseChanged, match="not there any more"):
                await store.renew(lease, 100)
            await store.release(lease)
            assert await store.snapshot() == Snapshot(())

        run(main())

    def test_the_ttl_of_a_lease_that_lasts_nearly_for_ever_is_cut_to_31_bits(
        self, etcd: EtcdServer
    ) -> None:
        async def main() -> None:
            add(etcd, A, ttl=3_000_000_000)
            lease = await store_at(etcd.url).find(A)
            assert lease is not None
            assert lease.ttl == 2**31 - 1

        run(main())

    def test_a_replaced_reservation_has_no_end(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            add(etcd, A, ME.to_json())
            (lease,) = (await store.snapshot()).leases
            assert lease.ttl is None
            assert (await store.replace(lease, OTHER, None)).ttl is None
            assert "ttl" not in etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]

        run(main())

    def test_a_release_sends_an_event_that_old_watchers_survive(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            lease = await store.create(A, ME, 100)
            await store.release(lease)
            actions: list[str] = []
            index = lease.index
            while actions[-1:] != ["expire"]:
                key = f"{PREFIX}/subnets?wait=true&recursive=true&waitIndex={index + 1}"
                event = await asyncio.to_thread(etcd.request, "GET", key)
                actions.append(event["action"])
                index = event["node"]["modifiedIndex"]
            assert actions == ["compareAndSwap", "expire"]

        run(main())

    @pytest.mark.parametrize("lost", [1, 2])
    def test_a_lost_answer_to_a_new_lease_leaves_exactly_that_lease(
        self, etcd: EtcdServer, lost: int
    ) -> None:
        async def main() -> list[bytes]:
            with losing_answers(etcd, lost) as (proxy, puts):
                store = store_at(*[proxy] * lost, etcd.url)
                lease = await store.create(A, ME, 100)
                assert (
                    lease.index
                    == etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]["modifiedIndex"]
                )
                assert await store.snapshot() == Snapshot((lease,))
            return puts

        assert len(run(main())) == lost  # none was sent again behind our back

    def test_a_lost_answer_to_a_renewal_is_recovered(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            lease = await store_at(etcd.url).create(A, ME, 100)
            with losing_answers(etcd, 1) as (proxy, _):
                renewed = await store_at(proxy, etcd.url).renew(lease, 5000)
            assert is_left_of(5000, renewed.ttl)
            await store_at(etcd.url).renew(renewed, 6000)

        run(main())

    def test_a_lease_is_found_by_its_subnet(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            assert await store.find(A) is None
            assert await store.create(A, ME, 100) == await store.find(A)
            index = add(etcd, A, "garbage")
            with pytest.raises(BadLease) as bad:
                await store.find(A)
            assert bad.value.index == index
            stray = Lease(A, ME, 100, index)
            assert await store.replace(stray, ME, 100) == await store.find(A)

        run(main())
