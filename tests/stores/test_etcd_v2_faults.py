"""The store and etcds that are unreachable, frozen, restarted, or not etcd at all."""

import asyncio
import http.server
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from etcd_leases import (
    ME,
    OTHER,
    A,
    B,
    add,
    run,
    store_at,
)
from etcd_server import PREFIX, EtcdServer
from hostile_server import TimeByPieces
from loopback import tcp_port

from flannel.errors import FlannelError, StoreUnavailable
from flannel.lease import Lease, LeaseAdded
from flannel.stores import Changes, Snapshot, bounded
from flannel.stores.etcd_v2 import EtcdV2Store

T = TypeVar("T")

# What no etcd says: the endpoint may be a proxy, or anything else.
STRANGE = [
    "", "null", "[]", "7", "<html>", '{"node":', "[" * 100_000, '{"node":null}', '{"node":[]}',
    '{"action":[],"node":{"modifiedIndex":6}}',
    *(f'{{"action":"set","node":{{"key":"{PREFIX}/subnets/10.5.1.0-24",{members}}}}}'
      for members in (
        '"modifiedIndex":null', '"modifiedIndex":"x"', '"modifiedIndex":1e999', '"value":""',
        '"modifiedIndex":6,"nodes":7', '"modifiedIndex":6,"nodes":[7]',
        '"modifiedIndex":6,"nodes":[{}]', '"modifiedIndex":6,"ttl":"x"',
        '"modifiedIndex":6,"value":[]', f'"modifiedIndex":{10**30}', '"modifiedIndex":-1',
    )),
    *(f'{{"errorCode":{code},"index":{index}}}' for code, index in (
        (100, "null"), (100, '"x"'), (100, 7), (101, "[]"), (105, 7), (401, 7), ("[]", 7),
    )),
]  # fmt: skip


def test_the_error_names_each_member_with_its_reason_where_none_answers() -> None:
    dead = [f"http://127.0.0.1:{tcp_port()}" for _ in range(2)]
    with pytest.raises(StoreUnavailable) as error:
        run(store_at(*dead).snapshot())
    assert str(error.value) == (
        f"cannot list {PREFIX}/subnets: {dead[0]}: connection refused; "
        f"{dead[1]}: connection refused"
    )


def test_a_dead_endpoint_is_passed_over(etcd: EtcdServer) -> None:
    store = store_at(f"http://127.0.0.1:{tcp_port()}", etcd.url)
    assert run(store.create(A, ME, 100)) == Lease(A, ME)


def test_a_server_that_is_not_etcd_is_reported_as_such() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(StoreUnavailable, match="does not serve the v2 API"):
            run(store_at(url).snapshot())
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [200, 404, 412])
@pytest.mark.parametrize("body", STRANGE)
def test_no_answer_makes_the_store_raise_another_kind_of_error(body: str, status: int) -> None:
    class Strange(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("X-Etcd-Index", "5")
            self.end_headers()
            self.wfile.write(body.encode())

        do_PUT = do_GET  # so it is called

    async def main(store: EtcdV2Store) -> None:
        ours = Lease(A, ME, 100, 1)
        for doing in (
            anext(store.follow_config()),
            anext(store.follow_leases()),
            store.snapshot(),
            store.find(A),
            store.create(A, ME, 100),
            store.replace(ours, OTHER, 100),
            store.renew(ours, 100),
            store.release(ours),
        ):
            with suppress(FlannelError):
                await doing
        with suppress(FlannelError):
            feed = store.follow_leases()
            await anext(feed)
            news = asyncio.ensure_future(anext(feed))
            await asyncio.wait([news], timeout=0.1)
            if news.done():
                await news
            news.cancel()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strange)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        run(main(store_at(f"http://127.0.0.1:{server.server_port}")))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"])
def test_after_an_endless_answer_the_next_member_is_asked(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    class Dribbling(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.request.sendall(head)
                while True:
                    self.request.sendall(b"H")
                    time.sleep(0.03)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    async def main(url: str) -> None:
        # Whoever asks at the same time finds out by itself, and none goes on to a third.
        with monkeypatch.context() as patch:
            patch.setattr(bounded, "monotonic", TimeByPieces())
            with pytest.raises(StoreUnavailable, match=rf"{url}: its answer has no end"):
                await store_at(url).snapshot()
            store = store_at(url, etcd.url)
            both = tuple(await asyncio.gather(store.snapshot(), store.find(A)))
        assert both == (Snapshot(()), None)
        assert store._members.first == 1

    with Server(("127.0.0.1", 0), Dribbling) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        run(main(url))
        server.shutdown()


@pytest.mark.usefixtures("patience")
def test_the_store_answers_again_after_a_restart_of_etcd(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path)
    server.start()
    server.wait_ready()

    async def main() -> None:
        store = store_at(server.url)
        feed = store.follow_leases()
        await anext(feed)
        waiting = asyncio.ensure_future(anext(feed))
        await asyncio.sleep(0.2)
        server.stop()
        with pytest.raises(StoreUnavailable):
            await waiting
        server.start()
        await asyncio.to_thread(server.wait_ready)
        add(server, A)
        assert await anext(store.follow_leases()) == Snapshot((Lease(A, OTHER),))

    try:
        run(main())
    finally:
        server.stop()


async def in_the_end(ask: Callable[[], Awaitable[T]]) -> T:
    """What is answered once the cluster has a leader: a busy machine has it elect one any time."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await asyncio.sleep(0.1)


def test_after_a_frozen_or_dead_member_the_next_one_is_asked(tmp_path: Path) -> None:
    members = [EtcdServer(tmp_path, f"m{n}") for n in (1, 2, 3)]
    for member in members:
        member.start(members)
    for member in members:
        member.wait_ready()

    async def main() -> None:
        store = store_at(*(member.url for member in members))
        feeds = []

        def listed() -> Awaitable[Snapshot | Changes]:
            feeds.append(store.follow_leases())
            return anext(feeds[-1])

        await in_the_end(listed)
        waiting = asyncio.ensure_future(anext(feeds[-1]))
        await asyncio.sleep(0.2)
        members[0].signal(signal.SIGSTOP)
        # The poll hangs there; it comes back by itself, and nothing is missed.
        await in_the_end(lambda: store.create(A, ME, 100))
        try:
            news = await waiting
        except StoreUnavailable:  # of an election
            news = await in_the_end(listed)
        assert news in (Snapshot((Lease(A, ME),)), Changes((LeaseAdded(Lease(A, ME)),)))
        members[0].stop()
        await in_the_end(lambda: store.create(B, ME, 100))

    try:
        run(main())
    finally:
        for member in members:
            member.stop()


def test_a_poll_that_is_waiting_does_not_hold_up_the_end_of_the_process(etcd: EtcdServer) -> None:
    script = (
        "import asyncio, sys\n"
        "from flannel.stores import bounded, etcd_endpoints, etcd_v2\n"
        "from flannel.stores.etcd_endpoints import Endpoints\n"
        "from flannel.stores.etcd_v2 import EtcdV2Store\n"
        "etcd_v2._POLL = 200.0\n"
        "etcd_endpoints._REQUEST_TIMEOUT = 100.0\n"
        "etcd_endpoints._LISTING = bounded.Bounds(100.0, 1 << 20)\n"
        "async def main():\n"
        "    feed = EtcdV2Store(Endpoints([sys.argv[1]]), sys.argv[2]).follow_leases()\n"
        "    await anext(feed)\n"
        "    try:\n"
        "        await asyncio.wait_for(anext(feed), 0.3)\n"
        "    except TimeoutError:\n"
        "        print('cancelled')\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, etcd.url, PREFIX]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert (done.stdout, done.stderr) == ("cancelled\n", "")
