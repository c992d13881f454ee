"""The store on real etcd servers: what it does with events, faults and foreign hands."""

import asyncio
import http.server
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import cast

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
from etcd_server import PREFIX, EtcdServer, free_port

from flannel.errors import BadLease, FlannelError, StoreUnavailable
from flannel.lease import Lease, LeaseAdded, LeaseRemoved
from flannel.stores import Changes, Snapshot, etcd_v2
from flannel.stores.etcd_v2 import EtcdV2Store


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
    def test_it_is_told_at_once_and_at_every_write(self, etcd: EtcdServer) -> None:
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
    def test_it_begins_with_what_is_there_even_if_that_is_nothing(self, etcd: EtcdServer) -> None:
        assert follow(etcd) == [Snapshot(())]
        index = add(etcd, A, ttl=500)
        (snapshot,) = follow(etcd)
        assert snapshot == Snapshot((Lease(A, OTHER),))
        assert isinstance(snapshot, Snapshot)
        assert snapshot.leases[0].index == index
        assert 490 < (snapshot.leases[0].ttl or 0) <= 500

    def test_leases_that_come_change_and_go_are_told_in_order(self, etcd: EtcdServer) -> None:
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

    def test_a_compare_and_delete_does_not_stop_it(self, etcd: EtcdServer) -> None:
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

    def test_far_behind_it_reads_all_instead_of_catching_up(self, etcd: EtcdServer) -> None:
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

    def test_what_was_removed_or_mended_is_named_again(
        self, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        good = Changes((LeaseAdded(Lease(B, OTHER)),))
        gone = Changes((LeaseRemoved(B),))

        def mend(by: Callable[[], object]) -> Callable[[], object]:
            return lambda: (by(), etcd.delete("subnets/10.5.2.0-24"))

        def spoil() -> None:
            add(etcd, A, "garbage")
            add(etcd, B)

        removed = mend(lambda: etcd.delete("subnets/10.5.1.0-24"))
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

    def test_a_lease_that_turns_unreadable_stays_what_it_was_until_it_is_mended(
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
        assert caplog.text.count("keeping what it was") == 1


# What no etcd says: the endpoint may be a proxy, or anything else.
STRANGE = [
    "", "null", "[]", "7", "<html>", '{"node":', "[" * 100_000, '{"node":null}', '{"node":[]}',
    '{"action":[],"node":{"modifiedIndex":6}}',
    *(f'{{"action":"set","node":{{"key":"{PREFIX}/subnets/10.5.1.0-24",{members}}}}}'
      for members in (
        '"modifiedIndex":null', '"modifiedIndex":"x"', '"modifiedIndex":1e999', '"value":""',
        '"modifiedIndex":6,"nodes":7', '"modifiedIndex":6,"nodes":[7]',
        '"modifiedIndex":6,"nodes":[{}]', '"modifiedIndex":6,"ttl":"x"',
        '"modifiedIndex":6,"value":[]',
    )),
    *(f'{{"errorCode":{code},"index":{index}}}' for code, index in (
        (100, "null"), (100, '"x"'), (100, 7), (101, "[]"), (105, 7), (401, 7), ("[]", 7),
    )),
]  # fmt: skip


class TestFaults:
    def test_without_any_member_it_says_which_and_why(self) -> None:
        dead = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        with pytest.raises(StoreUnavailable) as error:
            run(store_at(*dead).snapshot())
        assert str(error.value) == (
            f"cannot list {PREFIX}/subnets: {dead[0]}: connection refused; "
            f"{dead[1]}: connection refused"
        )

    def test_a_dead_endpoint_is_passed_over(self, etcd: EtcdServer) -> None:
        store = store_at(f"http://127.0.0.1:{free_port()}", etcd.url)
        assert run(store.create(A, ME, 100)) == Lease(A, ME)

    def test_something_that_is_not_etcd_is_said_to_be_none(self) -> None:
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
    def test_no_answer_makes_it_raise_anything_else(self, body: str, status: int) -> None:
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
                await asyncio.wait_for(anext(feed), 0.1)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strange)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            run(main(store_at(f"http://127.0.0.1:{server.server_port}")))
        finally:
            server.shutdown()
            server.server_close()

    @pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"])
    def test_a_member_whose_answer_has_no_end_is_left_for_another(
        self, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch, head: bytes
    ) -> None:
        class Dribbling(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    self.request.sendall(head)
                    while True:
                        self.request.sendall(b"H")
                        time.sleep(0.1)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        async def main(store: EtcdV2Store, url: str) -> None:
            # Whoever asks at the same time finds out by itself, and none goes on to a third.
            with monkeypatch.context() as patch:
                patch.setattr(etcd_v2, "_LONGEST_ANSWER", 0.5)
                both = await asyncio.gather(store.snapshot(), store.find(A), return_exceptions=True)
            for each in both:
                with pytest.raises(StoreUnavailable, match=rf"{url}: its answer has no end"):
                    raise cast(Exception, each)
            assert await store.snapshot() == Snapshot(())

        with Server(("127.0.0.1", 0), Dribbling) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            url = f"http://127.0.0.1:{server.server_address[1]}"
            run(main(store_at(url, etcd.url), url))
            server.shutdown()

    @pytest.mark.usefixtures("patience")
    def test_it_waits_through_a_restart_of_etcd(self, tmp_path: Path) -> None:
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

    def test_a_frozen_or_dead_member_of_three_is_left_for_another(self, tmp_path: Path) -> None:
        members = [EtcdServer(tmp_path, f"m{n}") for n in (1, 2, 3)]
        for member in members:
            member.start(members)
        for member in members:
            member.wait_ready()

        async def main() -> None:
            store = store_at(*(member.url for member in members))
            feed = store.follow_leases()
            await anext(feed)
            waiting = asyncio.ensure_future(anext(feed))
            await asyncio.sleep(0.2)
            members[0].signal(signal.SIGSTOP)
            # The poll hangs there; it comes back by itself, and nothing is missed.
            while True:
                try:
                    await store.create(A, ME, 100)
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.3)  # a new leader is being elected
            assert await waiting in (
                Snapshot((Lease(A, ME),)),
                Changes((LeaseAdded(Lease(A, ME)),)),
            )
            members[0].stop()
            await store.create(B, ME, 100)

        try:
            run(main())
        finally:
            for member in members:
                member.stop()

    def test_a_poll_that_is_waiting_does_not_hold_up_the_end_of_the_process(
        self, etcd: EtcdServer
    ) -> None:
        script = (
            "import asyncio, sys\n"
            "from flannel.stores import etcd_v2\n"
            "from flannel.stores.etcd_members import Members\n"
            "from flannel.stores.etcd_v2 import EtcdV2Store\n"
            "etcd_v2._POLL = 200.0\n"
            "async def main():\n"
            "    feed = EtcdV2Store(Members([sys.argv[1]]), sys.argv[2]).follow_leases()\n"
            "    await anext(feed)\n"
            "    try:\n"
            "        await asyncio.wait_for(anext(feed), 0.3)\n"
            "    except TimeoutError:\n"
            "        print('cancelled')\n"
            "asyncio.run(main())\n"
        )
        command = [sys.executable, "-c", script, etcd.url, PREFIX]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert (done.stdout, done.stderr) == ("cancelled\n", "")
