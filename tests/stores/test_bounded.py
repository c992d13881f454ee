"""Any answer at an endpoint of etcd costs bounded memory and time, and leaves nothing behind."""

import gc
import resource
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from etcd_leases import ME, A, run, store_at
from etcd_server import PREFIX, EtcdServer
from hostile_server import (
    KINDS,
    OK,
    TRICKLING,
    Client,
    HostileServer,
    TimeByPieces,
    hostile_server,
)
from waiting import wait_for

from flannel.errors import StoreUnavailable
from flannel.lease import Lease
from flannel.stores import Snapshot, bounded, etcd_endpoints
from flannel.stores.bounded import Bounds

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers may take half a second and some megabytes; in earnest, more of both."""
    monkeypatch.setattr(etcd_endpoints, "_ANSWER", Bounds(0.5, 1 << 20))
    monkeypatch.setattr(etcd_endpoints, "_LISTING", Bounds(0.5, 4 << 20))


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Afterwards there are no more threads than before."""
    yield
    wait_for(
        lambda: not [each for each in threading.enumerate() if each.name == "etcd"],
        "end of the threads",
    )


def peak() -> int:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refusals(server: HostileServer) -> list[str]:
    """Why each of several requests has failed."""

    async def main() -> list[str]:
        store, reasons = store_at(server.url), []
        for doing in (store.snapshot(), store.find(A), store.create(A, ME, 100)):
            with pytest.raises(StoreUnavailable) as why:
                await doing
            reasons.append(str(why.value))
        store.close()
        return reasons

    return run(main())


@each_kind
@pytest.mark.usefixtures("soon", "nothing_left")
def test_an_answer_without_an_end_is_given_up(kind: Callable[[Client], None]) -> None:
    with hostile_server(kind) as server:
        gc.collect()
        before = peak()
        for reason in refusals(server):
            assert server.url in reason
            assert reason.isprintable()
            assert len(reason) < 300
        assert peak() - before < 60_000_000
        wait_for(lambda: server.open == 0, "end of the connections")
        assert server.accepted <= 3  # nothing was redirected, or tried again behind our back


@pytest.mark.parametrize(
    "kind",
    # Of those that take all the time there is, one.
    [kind for kind in KINDS if kind not in TRICKLING[1:]],
    ids=lambda kind: kind.__name__,
)
@pytest.mark.usefixtures("nothing_left")
def test_the_next_member_is_asked_in_place_of_a_hostile_one(
    etcd: EtcdServer, kind: Callable[[Client], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in TRICKLING:
        monkeypatch.setattr(bounded, "monotonic", TimeByPieces())

    async def main(url: str) -> None:
        store = store_at(url, etcd.url)
        lease = await store.create(A, ME, 100)
        assert await store.snapshot() == Snapshot((Lease(A, ME),))
        assert await store.find(A) == lease

    with hostile_server(kind) as server:
        run(main(server.url))


@each_kind
@pytest.mark.usefixtures("soon", "nothing_left")
def test_a_poll_without_an_end_ends(kind: Callable[[Client], None]) -> None:
    with hostile_server(kind) as server:
        members = etcd_endpoints.Endpoints([server.url])
        with pytest.raises(StoreUnavailable, match=rf"cannot watch: {server.url}: "):
            members.poll("watch", f"{PREFIX}/subnets", {"waitIndex": "1"}, 0.3)
        members.close()
        wait_for(lambda: server.open == 0, "end of the connections")


def test_an_answer_of_the_largest_network_fits(etcd: EtcdServer) -> None:
    """60,000 leases of 300 bytes, here as fewer and longer ones."""
    data = {"VtepMAC": "02:00:00:00:00:01", "x": "y" * 50_000}
    attrs = replace(ME, backend_type="vxlan", backend_data=data)
    for n in range(1, 201):
        etcd.put(f"subnets/10.5.{n}.0-24", attrs.to_json())
    assert len(run(store_at(etcd.url).snapshot()).leases) == 200


def test_a_connection_is_used_again_after_an_answer(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bounds the reading of one answer leaves the next request its own time."""
    now = 0.0
    monkeypatch.setattr(bounded, "monotonic", lambda: now)

    async def main() -> None:
        nonlocal now
        store = store_at(etcd.url)
        for _ in range(20):
            await store.snapshot()
            now += 3600.0
        (client,) = store._members._clients
        (pool,) = map(client.http.pools.get, client.http.pools.keys())
        assert pool.num_connections == 1
        assert pool.num_requests == 20

    run(main())


def test_a_bad_answer_ends_the_connection_on_which_it_came() -> None:
    """A load balancer keeps a connection at one server behind it; another server may be well."""
    seen: list[Client] = []

    def answer(client: Client) -> None:
        seen.append(client)
        if client is seen[0]:
            client.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
            return
        document = b'{"action":"get","node":{"key":"/x","value":"","modifiedIndex":5}}'
        client.send(OK + b"Content-Length: %d\r\n\r\n" % len(document) + document)

    with hostile_server(answer) as server:
        members = etcd_endpoints.Endpoints([server.url])
        with pytest.raises(StoreUnavailable, match="cannot read"):
            members.ask("read", "GET", "/x", {})
        assert members.ask("read", "GET", "/x", {}).etcd_index == 5
        members.close()
