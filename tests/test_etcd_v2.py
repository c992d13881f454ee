"""The store on real etcd servers: what it does with events, faults and foreign hands."""

import asyncio
import http.server
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
from etcd_server import PREFIX, EtcdServer, free_port, losing_answers

from flannel.errors import BadLease, LeaseChanged, LeaseTaken, StoreDenied, StoreUnavailable
from flannel.lease import Lease, LeaseAdded, LeaseAttrs, LeaseRemoved
from flannel.stores import Changes, Snapshot
from flannel.stores.etcd_members import Members
from flannel.stores.etcd_v2 import EtcdV2Store

T = TypeVar("T")
A, B, C = (IPv4Network(f"10.5.{n}.0/24") for n in (1, 2, 3))
ME, OTHER = (LeaseAttrs(IPv4Address(f"192.0.2.{n}"), "host-gw") for n in (1, 2))
VALUE = OTHER.to_json()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    made = EtcdServer(tmp_path_factory.mktemp("etcd"))
    made.start()
    made.wait_ready()
    yield made
    made.stop()


@pytest.fixture
def etcd(server: EtcdServer) -> Iterator[EtcdServer]:
    """An etcd without our keys."""
    yield server
    server.delete("")


def store_at(*urls: str, **options: Any) -> EtcdV2Store:
    return EtcdV2Store(Members(urls, **options), PREFIX)


def run(work: Coroutine[Any, Any, T], seconds: float = 20) -> T:
    return asyncio.run(asyncio.wait_for(work, seconds))


def add(etcd: EtcdServer, subnet: IPv4Network, value: str = VALUE, **params: object) -> int:
    """Another host's lease; returns its index."""
    key = f"subnets/{subnet.network_address}-{subnet.prefixlen}"
    index: int = etcd.put(key, value, **params)["node"]["modifiedIndex"]
    return index


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
        add(etcd, A, ttl=1)
        assert follow(etcd, lambda: None)[1] == Changes((LeaseRemoved(A),))

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

        run(main(), 60)

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


class TestWrites:
    def test_a_lease_is_made_for_its_time_and_nobody_elses_is_touched(
        self, etcd: EtcdServer
    ) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            lease = await store.create(A, ME, 86400)
            assert (lease, lease.ttl) == (Lease(A, ME), 86400)
            node = etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]
            assert node["value"] == '{"PublicIP":"192.0.2.1","BackendType":"host-gw"}'
            with pytest.raises(LeaseTaken, match=r"10\.5\.1\.0/24: it is held by 192\.0\.2\.1"):
                await store.create(A, OTHER, 86400)
            assert etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"] == {**node, "ttl": node["ttl"]}

        run(main())

    def test_renewal_moves_the_end_and_wakes_no_watcher(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            lease = await store.create(A, ME, 100)
            feed = store_at(etcd.url).follow_leases()
            await anext(feed)
            waiting = asyncio.ensure_future(anext(feed))
            await asyncio.sleep(0.1)
            renewed = await store.renew(lease, 5000)
            assert (renewed, renewed.ttl) == (lease, 5000)
            renewed = await store.renew(renewed, 6000)
            add(etcd, B)
            assert await waiting == Changes((LeaseAdded(Lease(B, OTHER)),))
            assert etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]["ttl"] > 5900

        run(main())

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

    def test_a_replaced_reservation_has_no_end(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            add(etcd, A, ME.to_json())
            (lease,) = (await store.snapshot()).leases
            assert lease.ttl is None
            assert (await store.replace(lease, OTHER, None)).ttl is None
            assert "ttl" not in etcd.get(f"{PREFIX}/subnets/10.5.1.0-24")["node"]

        run(main())

    def test_a_released_lease_goes_by_an_event_that_old_watchers_survive(
        self, etcd: EtcdServer
    ) -> None:
        async def main() -> None:
            store = store_at(etcd.url)
            await store.release(await store.create(A, ME, 100))
            index = etcd.get(f"{PREFIX}/subnets")["node"]["nodes"][0]["modifiedIndex"]
            key = f"{PREFIX}/subnets?wait=true&recursive=true&waitIndex={index + 1}"
            event = await asyncio.to_thread(etcd.request, "GET", key)
            assert event["action"] == "expire"

        run(main())

    @pytest.mark.parametrize("lost", [1, 2])
    def test_a_lost_answer_leaves_exactly_one_lease_and_it_is_known(
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

    def test_a_lost_answer_to_a_renewal_is_made_good(self, etcd: EtcdServer) -> None:
        async def main() -> None:
            lease = await store_at(etcd.url).create(A, ME, 100)
            with losing_answers(etcd, 1) as (proxy, _):
                renewed = await store_at(proxy, etcd.url).renew(lease, 5000)
            assert renewed.ttl == 5000
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
            run(main(), 60)
        finally:
            for member in members:
                member.stop()

    def test_a_poll_that_is_waiting_does_not_hold_up_the_end_of_the_process(
        self, etcd: EtcdServer
    ) -> None:
        script = (
            "import asyncio, sys\n"
            "from flannel.stores.etcd_members import Members\n"
            "from flannel.stores.etcd_v2 import EtcdV2Store\n"
            "async def main():\n"
            "    feed = EtcdV2Store(Members([sys.argv[1]]), sys.argv[2]).follow_leases()\n"
            "    await anext(feed)\n"
            "    try:\n"
            "        await asyncio.wait_for(anext(feed), 0.3)\n"
            "    except TimeoutError:\n"
            "        print('cancelled')\n"
            "asyncio.run(main())\n"
        )
        began = time.monotonic()
        command = [sys.executable, "-c", script, etcd.url, PREFIX]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.stdout, done.stderr) == ("cancelled\n", "")
        assert time.monotonic() - began < 8  # a poll lasts 10 s


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    good, bad = trustme.CA(), trustme.CA()
    good.cert_pem.write_to_path(str(directory / "ca.pem"))
    bad.cert_pem.write_to_path(str(directory / "bad-ca.pem"))
    for name, issued in (
        ("server", good.issue_cert("127.0.0.1")),
        ("client", good.issue_cert("client.example")),
        ("bad", bad.issue_cert("client.example")),
    ):
        issued.private_key_pem.write_to_path(str(directory / f"{name}-key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(directory / f"{name}.pem"))
    return directory


@pytest.fixture(params=["server", "mutual"])
def tls(request: pytest.FixtureRequest, certificates: Path, tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path, scheme="https")
    flags = [
        f"--cert-file={certificates / 'server.pem'}",
        f"--key-file={certificates / 'server-key.pem'}",
    ]
    if request.param == "mutual":
        flags += ["--client-cert-auth", f"--trusted-ca-file={certificates / 'ca.pem'}"]
    server.name = f"tls-{request.param}"
    server.start(flags=flags)
    server.wait_ready()
    yield server
    server.stop()


class TestWhoIsWho:
    def client(self, server: EtcdServer, certificates: Path, ca: str, name: str) -> EtcdV2Store:
        return store_at(
            server.url,
            cafile=certificates / ca if ca else None,
            certfile=certificates / f"{name}.pem" if name else None,
            keyfile=certificates / f"{name}-key.pem" if name else None,
        )

    def create(self, store: EtcdV2Store) -> Lease:
        async def main() -> Lease:
            for _ in range(50):
                try:
                    return await store.create(A, ME, 100)
                except StoreUnavailable:  # it listens, but has no leader yet
                    await asyncio.sleep(0.1)
            raise AssertionError("etcd had no leader for 5 s")

        return run(main())

    def test_the_right_certificates_are_enough(self, tls: EtcdServer, certificates: Path) -> None:
        name = "client" if tls.name == "tls-mutual" else ""  # a CA alone checks the server
        assert self.create(self.client(tls, certificates, "ca.pem", name)) == Lease(A, ME)

    @pytest.mark.parametrize(("ca", "name"), [("bad-ca.pem", "client"), ("", "client")])
    def test_a_server_that_cannot_be_trusted_is_refused_and_the_reason_said(
        self, tls: EtcdServer, certificates: Path, ca: str, name: str
    ) -> None:
        with pytest.raises(StoreDenied, match=r"TLS: .*(self-signed|unable to get)"):
            run(self.client(tls, certificates, ca, name).snapshot())

    @pytest.mark.parametrize("name", ["", "bad"])
    def test_a_client_that_the_server_does_not_know_gets_nowhere(
        self, tls: EtcdServer, certificates: Path, name: str
    ) -> None:
        if tls.name != "tls-mutual":
            assert self.create(self.client(tls, certificates, "ca.pem", name)) == Lease(A, ME)
            return
        with pytest.raises((StoreDenied, StoreUnavailable)) as error:
            run(self.client(tls, certificates, "ca.pem", name).snapshot())
        assert "certificate" in str(error.value)

    def test_a_password_opens_and_is_never_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = EtcdServer(tmp_path)
        server.start()
        server.wait_ready()
        caplog.set_level(logging.DEBUG)
        secret = "s3cret-w0rd"

        def etcdctl(*arguments: str) -> None:
            subprocess.run(
                ["etcdctl", f"--endpoints={server.url}", *arguments],
                env={**os.environ, "ETCDCTL_API": "2"},
                check=True,
                capture_output=True,
            )

        try:
            etcdctl("user", "add", f"root:{secret}")
            etcdctl("auth", "enable")
            etcdctl("-u", f"root:{secret}", "role", "revoke", "guest", "-path", "/*", "-readwrite")
            right = store_at(server.url, username="root", password=secret)
            assert run(right.create(A, ME, 100)) == Lease(A, ME)
            for wrong in (
                store_at(server.url, username="root", password=secret + "x"),
                store_at(server.url),
            ):
                with pytest.raises(StoreDenied, match="user name or password refused") as error:
                    run(wrong.create(B, ME, 100))
                assert secret not in str(error.value)
            assert secret not in caplog.text
        finally:
            server.stop()
