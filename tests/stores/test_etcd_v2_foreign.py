"""Foreign writes to etcd at any rate: no lease is missed, and not all are read each time."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from etcd_leases import ME, OTHER, A, B, add, run, store_at
from etcd_server import EtcdServer

from flannel.lease import Lease, LeaseAdded, LeaseTable
from flannel.stores import Changes, Snapshot, etcd_v2
from flannel.stores.etcd_v2 import EtcdV2Store


class CountingStore(EtcdV2Store):
    """Counts how often all leases are read, polls, and those that have proved a newer index."""

    lists = polls = silences = 0

    async def _list(self, before):  # type: ignore[no-untyped-def] # as it is there
        self.lists += 1
        return await super()._list(before)

    async def _await_event(self, index):  # type: ignore[no-untyped-def]
        found = await super()._await_event(index)
        self.polls += 1
        self.silences += isinstance(found, etcd_v2._Silence) and found.until > index
        return found


def counting_store(url: str) -> CountingStore:
    store = store_at(url)
    store.__class__ = CountingStore
    assert isinstance(store, CountingStore)
    return store


@contextmanager
def foreign_writes(etcd: EtcdServer) -> Iterator[None]:
    """Keys that are none of flannel's are written, up to 100 in a second.

    So etcd's history, of 1,000 events, lasts for ten, however long this machine has other things
    to do.
    """
    is_over = threading.Event()

    def write() -> None:
        while not is_over.wait(0.01):
            etcd.request("PUT", "/foreign", value="x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        is_over.set()
        writer.join()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls of a second, after which the history is taken for short."""
    monkeypatch.setattr(etcd_v2, "_POLL", 1.0)
    monkeypatch.setattr(etcd_v2, "_LEAD", 0.3)
    monkeypatch.setattr(etcd_v2, "_HISTORY", 20)


@pytest.mark.usefixtures("often")
def test_under_foreign_writes_leases_are_followed_without_reading_all_again(
    etcd: EtcdServer,
) -> None:
    async def main() -> tuple[int, int]:
        store = counting_store(etcd.url)
        feed = store.follow_leases()
        assert await anext(feed) == Snapshot(())
        news = asyncio.ensure_future(anext(feed))
        with foreign_writes(etcd):
            while store.silences < 4:
                await asyncio.sleep(0.05)
                assert not news.done(), news.result()
        add(etcd, A)
        assert await news == Changes((LeaseAdded(Lease(A, OTHER)),))
        return store.lists, store.silences

    lists, silences = run(main())
    assert lists == 1
    assert silences >= 4


@pytest.mark.usefixtures("often")
def test_every_lease_made_during_foreign_writes_is_reported(etcd: EtcdServer) -> None:
    async def main() -> None:
        store = counting_store(etcd.url)
        feed = store.follow_leases()
        table = LeaseTable()
        with foreign_writes(etcd):
            for _ in range(8):
                for subnet, attrs in ((A, ME), (B, OTHER)):
                    await asyncio.sleep(0.4)
                    await asyncio.to_thread(add, etcd, subnet, attrs.to_json())
                    while table.leases.keys() != {subnet}:
                        news = await anext(feed)
                        if isinstance(news, Snapshot):
                            table.reset(news.leases)
                        else:
                            table.update(news.events)
                    await asyncio.to_thread(etcd.delete, f"subnets/{subnet.network_address}-24")

    run(main())


@pytest.mark.usefixtures("often")
def test_all_leases_are_read_now_and_then_where_silence_was_relied_on(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_v2, "_RELIST", 0.1)

    async def main() -> None:
        store = counting_store(etcd.url)
        feed = store.follow_leases()
        await anext(feed)
        with foreign_writes(etcd):
            assert await anext(feed) == Snapshot(())
        assert store.silences > 0

    run(main())


@pytest.mark.usefixtures("often")
def test_without_foreign_writes_the_watch_begins_where_the_last_event_was(
    etcd: EtcdServer,
) -> None:
    """Which any member of the cluster can answer, however far it is behind."""

    async def main() -> None:
        store = counting_store(etcd.url)
        feed = store.follow_leases()
        await anext(feed)
        news = asyncio.ensure_future(anext(feed))
        while store.polls < 3:
            await asyncio.sleep(0.05)
            assert not news.done()
        etcd.request("PUT", "/foreign", value="x")
        assert (store.silences, store.lists) == (0, 1)
        add(etcd, A)
        assert await news == Changes((LeaseAdded(Lease(A, OTHER)),))

    run(main())
