"""The store on real etcd servers: events, faults and foreign writes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network

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
from etcd_server import PREFIX, EtcdServer

from flannel.errors import BadLease
from flannel.lease import Lease, LeaseAdded, LeaseRemoved
from flannel.stores import Changes, Snapshot


def follow(etcd: EtcdServer, *steps: Callable[[], object]) -> list[Snapshot | Changes]:
    """What the feed tells at first, and after each of ``steps``."""

    async def main() -> list[Snapshot | Changes]:
        feed = store_at(etcd.url).follow_leases()
        seen = [await anext(feed)]
        for step in steps:
            waiting = asyncio.ensure_future(anext(feed))
            await asyncio.sleep(0.1)  # let the poll reach etcd: most events come to a waiting one
            await asyncio.to_thread(step)
            seen.append(await waiting)
        return seen

    return run(main())


class TestConfig:
    def test_the_config_is_yielded_at_once_and_after_every_write(self, etcd: EtcdServer) -> None:
        async def main() -> list[str | None]:
            feed = store_at(etcd.url).follow_config()
            seen = []
            for text in (None, "one", "one", "two"):
                waiting = asyncio.ensure_future(anext(feed))
                await asyncio.sleep(0.1)
                if text is not None:
                    await asyncio.to_thread(etcd.put, "config", text)
                document = await waiting
                seen.append(document.text if document is not None else None)
            waiting = asyncio.ensure_future(anext(feed))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(etcd.delete, "config")
            assert await waiting is None
            return seen

        assert run(main()) == [None, "one", "one", "two"]


class TestFeed:
    def test_the_feed_begins_with_a_snapshot_even_of_an_empty_store(self, etcd: EtcdServer) -> None:
        assert follow(etcd) == [Snapshot(())]
        index = add(etcd, A, ttl=500)
        (snapshot,) = follow(etcd)
        assert snapshot == Snapshot((Lease(A, OTHER),))
        assert isinstance(snapshot, Snapshot)
        assert snapshot.leases[0].index == index
        assert 490 < (snapshot.leases[0].ttl or 0) <= 500

    def test_new_changed_and_removed_leases_are_reported_in_order(self, etcd: EtcdServer) -> None:
        assert follow(
            etcd,
            lambda: add(etcd, A),
            lambda: add(etcd, A, ME.to_json()),
            lambda: etcd.delete("subnets/10.5.1.0-24"),
        )[1:] == [
            Changes((LeaseAdded(Lease(A, OTHER)),)),
            Changes((LeaseAdded(Lease(A, ME)),)),
            Changes((LeaseRemoved(A),)),
        ]

    def test_a_lease_that_expires_is_removed(self, etcd: EtcdServer) -> None:
        assert follow(etcd, lambda: add(etcd, A, ttl=1), lambda: None)[1:] == [
            Changes((LeaseAdded(Lease(A, OTHER)),)),
            Changes((LeaseRemoved(A),)),
        ]

    @pytest.mark.parametrize("directory", ["subnets", ""])
    def test_a_directory_that_is_removed_takes_its_leases_along(
        self, etcd: EtcdServer, directory: str
    ) -> None:
        add(etcd, A)
        seen = follow(etcd, lambda: etcd.delete(directory), lambda: None, lambda: add(etcd, B))
        assert seen[1:] == [
            Changes((LeaseRemoved(A),)),
            Snapshot(()),
            Changes((LeaseAdded(Lease(B, OTHER)),)),
        ]

    def test_a_compare_and_delete_does_not_stop_the_feed(self, etcd: EtcdServer) -> None:
        index = add(etcd, A)
        key = f"{PREFIX}/subnets/10.5.1.0-24?prevIndex={index}"
        assert follow(etcd, lambda: etcd.request("DELETE", key), lambda: add(etcd, B))[1:] == [
            Changes((LeaseRemoved(A),)),
            Changes((LeaseAdded(Lease(B, OTHER)),)),
        ]

    def test_nothing_is_missed_between_two_polls(self, etcd: EtcdServer) -> None:
        async def main() -> set[IPv4Network]:
            feed = store_at(etcd.url).follow_leases()
            known: set[IPv4Network] = set()
            writing = asyncio.create_task(
                asyncio.to_thread(
                    lambda: [
                        add(etcd, IPv4Network((0x0A050000 + (n << 8), 24))) for n in range(200)
                    ]
                )
            )
            async for news in feed:
                match news:
                    case Snapshot(leases):
                        known = {lease.subnet for lease in leases}
                    case Changes(events):
                        known |= {event.lease.subnet for event in events}  # type: ignore[union-attr] # only additions are made here
                if len(known) == 200:
                    break
            await writing
            return known

        assert len(run(main())) == 200

    def test_a_lost_history_leads_to_a_snapshot(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            feed = store_at(etcd.url).follow_leases()
            await anext(feed)

            def much() -> None:
                add(etcd, A)
                for number in range(1100):
                    etcd.put("elsewhere", str(number))

            await asyncio.to_thread(much)  # nobody polls meanwhile
            assert await anext(feed) == Snapshot((Lease(A, OTHER),))

        run(main(), 250)

    def test_a_feed_that_is_far_behind_reads_all_leases_instead_of_catching_up(
        self, etcd: EtcdServer
    ) -> None:
        async def main() -> int:
            feed = store_at(etcd.url).follow_leases()
            await anext(feed)
            for n in range(100):
                await asyncio.to_thread(add, etcd, IPv4Network((0x0A050000 + (n << 8), 24)))
            await anext(feed)
            second = await anext(feed)
            assert isinstance(second, Snapshot)
            return len(second.leases)

        assert run(main()) == 100


POISON_VALUES = [
    "", "{", "null", "[]", "7", "\0", "[" * 50_000, "x" * 70_000, "{}", '{"PublicIP":"fe80::1"}',
    '{"PublicIP":"0.0.0.0"}', '{"PublicIP":"224.0.0.1"}', '{"PublicIP":7}',
]  # fmt: skip
POISON_KEYS = [
    "foo", "999.1.1.0-24", "10.5.1.0-33", "10.5.1.7-24", "x10.5.1.0-24", "10.5.1.0-24x",
    "%24%28id%29", "10.5.1.0-24%0A", "9" * 20, "::1", "0.0.0.0-99",
]  # fmt: skip


class TestPoison:
    def test_bad_values_are_named_once_and_stop_nothing(
        self, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        steps = [lambda value=value: (add(etcd, A, value), add(etcd, B)) for value in POISON_VALUES]
        seen = follow(etcd, *steps)
        assert seen[1:] == [Changes((LeaseAdded(Lease(B, OTHER)),))] * len(POISON_VALUES)
        assert caplog.text.count("skipping") == len(POISON_VALUES)

    def test_bad_keys_are_named_once_and_stop_nothing(
        self, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        steps = [
            lambda key=key: (etcd.put(f"subnets/{key}", VALUE), add(etcd, B)) for key in POISON_KEYS
        ]
        seen = follow(etcd, *steps)
        assert seen[1:] == [Changes((LeaseAdded(Lease(B, OTHER)),))] * len(POISON_KEYS)
        assert caplog.text.count("skipping") == len(POISON_KEYS)
        caplog.clear()
        assert follow(etcd) == [Snapshot((Lease(B, OTHER),))]
        assert "\n\n" not in caplog.text

    def test_a_bad_key_is_named_again_after_it_was_removed_or_repaired(
        self, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        good = Changes((LeaseAdded(Lease(B, OTHER)),))
        gone = Changes((LeaseRemoved(B),))

        def repair(by: Callable[[], object]) -> Callable[[], object]:
            def both() -> None:
                by()
                etcd.delete("subnets/10.5.2.0-24")

            return both

        def spoil() -> None:
            add(etcd, A, "garbage")
            add(etcd, B)

        removed = repair(lambda: etcd.delete("subnets/10.5.1.0-24"))
        assert follow(etcd, spoil, removed, spoil)[1:] == [good, gone, good]
        assert caplog.text.count("skipping") == 2

    def test_a_directory_among_the_leases_stops_nothing(self, etcd: EtcdServer) -> None:
        def step() -> None:
            etcd.put("subnets/10.5.1.0-24/inner", "x")
            add(etcd, B)

        assert follow(etcd, step)[1] == Changes((LeaseAdded(Lease(B, OTHER)),))
        assert follow(etcd) == [Snapshot((Lease(B, OTHER),), garbled=frozenset({A}))]
        with pytest.raises(BadLease, match="directory") as caught:
            run(store_at(etcd.url).find(A))
        assert caught.value.index == 0

    def test_an_unreadable_lease_keeps_its_last_good_value_until_it_is_repaired(
        self, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            add(etcd, A)
            good = Snapshot((Lease(A, OTHER),))
            assert await store.snapshot() == good
            add(etcd, A, "garbage")
            for _ in range(3):
                assert await store.snapshot() == replace(good, garbled=frozenset({A}))
            add(etcd, A, ME.to_json())
            assert await store.snapshot() == Snapshot((Lease(A, ME),))

        run(main())
        assert caplog.text.count("keeping its last good lease") == 1
