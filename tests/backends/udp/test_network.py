"""UdpNetwork without root: the driver of tests/helpers for the TUN device, loopback for the net."""

import asyncio
import errno
import gc
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Network

import loopback
import pytest
from fake_kernel import FakeNetlink, FakeTables
from fake_tun import FakeTun
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw
from waiting import running, until

from flannel.backends.udp import network as module
from flannel.backends.udp import sockets, threads
from flannel.backends.udp.dataplane import DROPS, Settings
from flannel.backends.udp.network import Tunnel, UdpNetwork
from flannel.errors import KernelError
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Way
from flannel.lease import Lease, LeaseAttrs, Peers

NETWORK, SUBNET, PEER = map(IPv4Network, ("10.1.0.0/16", "10.1.15.0/24", "10.1.16.0/24"))
HOST, PEER_HOST, THIRD = (loopback.address(n) for n in (1, 2, 3))
PEERS: Peers = {PEER: Lease(PEER, LeaseAttrs(PEER_HOST))}
OUT = bytes(10) + bytes(IP(src="10.1.15.2", dst="10.1.16.2") / UDP() / Raw(b"a packet"))
STRANGE = bytes(IP(src="10.1.17.2", dst="10.1.15.2"))
NOT_RUNNING = "the packet loop is not running"


class Host:
    """A host with one peer.

    :ivar peer: the socket of that.
    :ivar port: of all hosts.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n_threads: int = 1) -> None:
        self.netlink = FakeNetlink()
        self.driver = FakeTun(self.netlink, monkeypatch)
        self.kernel = Kernel(self.netlink, FakeTables())
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind((str(PEER_HOST), 0))
        self.peer.settimeout(100)
        self.port = self.peer.getsockname()[1]
        settings = Settings(NETWORK, SUBNET, 1472, self.port)
        interface = ExternalInterface(2, "eth0", 1500, HOST, HOST, ())
        self.tunnel = Tunnel(settings, interface, n_threads)
        self.netlink.ways[settings.error_source] = Way(1, None, SUBNET[0])
        monkeypatch.setattr(module, "_WATCH", 0.01)
        # To ask the kernel for a socket's namespace needs CAP_NET_ADMIN.
        monkeypatch.setattr(sockets, "ioctl", lambda *_: os.open("/proc/self/ns/net", os.O_RDONLY))

    def network(self) -> UdpNetwork:
        return UdpNetwork(self.kernel, self.tunnel)

    def send(self, data: bytes = OUT) -> None:
        """A packet of a container, on the device."""
        self.driver.ends_of()[0].send(data)

    def close(self) -> None:
        for name in ("flannel0/queue", "flannel0/udp"):
            self.kernel.descriptors.retain(name, lambda _fd: False)
        self.driver.close()
        self.peer.close()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(monkeypatch)
    yield made
    made.close()


class TestRunning:
    def test_packets_wait_until_the_peers_are_known(self, host: Host) -> None:
        async def main() -> None:
            network = host.network()
            async with running(network.run()):
                await until(host.driver.ends_of, "device")
                host.send()
                await asyncio.sleep(0.05)
                assert network.stats()["tx_packets"] == 0
                assert network.trouble() == ""  # not yet: it has just begun
                await network.apply(PEERS)
                await until(lambda: network.stats()["tx_packets"] == 1, "packet")
                assert network.trouble() == ""

        asyncio.run(main())
        assert host.peer.recv(2000)[-8:] == b"a packet"

    def test_packets_that_arrive_between_two_runs_are_carried_by_the_second(
        self, host: Host
    ) -> None:
        async def main() -> None:
            first, second = host.network(), host.network()
            async with running(first.run()):
                await first.apply(PEERS)
            assert first.trouble() == NOT_RUNNING
            host.send()
            async with running(second.run()):
                await second.apply(PEERS)
                await until(lambda: second.stats()["tx_packets"] == 1, "packet")
            assert first.stats()["tx_packets"] == 0

        asyncio.run(main())
        assert host.peer.recv(2000)[-8:] == b"a packet"

    def test_a_deleted_device_is_made_again(self, host: Host) -> None:
        async def main() -> None:
            network = host.network()
            async with running(network.run()):
                await network.apply(PEERS)
                host.driver.delete()
                await until(host.driver.ends_of, "new device")
                await network.apply(PEERS)
                host.send()
                await until(lambda: network.stats()["tx_packets"] == 1, "packet")

        asyncio.run(main())

    def test_all_threads_notice_a_deleted_device_and_no_exception_is_left_over(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = Host(monkeypatch, n_threads=3)
        left_over: list[object] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, why: left_over.append(why))
            network = host.network()
            async with running(network.run()):
                await network.apply(PEERS)
                host.driver.delete()
                await until(lambda: len(host.driver.ends_of()) == 3, "new device")
                await network.apply(PEERS)
            gc.collect()

        asyncio.run(main())
        host.close()
        assert left_over == []

    def test_a_device_that_was_moved_to_another_namespace_is_made_again(self, host: Host) -> None:
        async def main() -> None:
            network = host.network()
            async with running(network.run()):
                await network.apply(PEERS)
                host.driver.move_away()
                await network.apply(PEERS)  # this notices it
                assert len(host.driver.ends_of()) == 1
                host.send()
                await until(lambda: network.stats()["tx_packets"] == 1, "packet")

        asyncio.run(main())

    def test_an_entry_that_the_kernel_refuses_is_logged_once_and_tried_again(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        refused = "cannot carry packets: cannot open /dev/net/tun: Permission denied; trying again"

        async def main() -> None:
            network = host.network()
            host.driver.refuses["/dev/net/tun"] = errno.EACCES
            async with running(network.run()):
                await until(network.trouble, "trouble")
                assert network.trouble() == refused
                await asyncio.sleep(0.1)
                host.driver.refuses.clear()
                await network.apply(PEERS)
                await until(lambda: not network._warned.message_of("run"), "end of the trouble")
                assert network.trouble() == ""

        asyncio.run(main())
        assert [r.getMessage() for r in caplog.records if "cannot" in r.getMessage()] == [refused]

    def test_too_many_open_files_do_not_end_the_packet_loop(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_value: int, _flags: int) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        async def main() -> None:
            network = host.network()
            with monkeypatch.context() as patches:
                patches.setattr(os, "eventfd", refuse)
                applied = asyncio.create_task(network.apply(PEERS))
                async with running(network.run()):
                    await until(network.trouble, "trouble")
                    await until(lambda: "Too many open files" in network.trouble(), "reason")
                    patches.undo()
                    await applied

        asyncio.run(main())

    def test_a_process_at_its_limit_of_threads_carries_packets_again_in_the_thread_it_has(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> int:
            raise RuntimeError("can't start new thread")

        async def main() -> None:
            network = host.network()
            async with running(network.run()):
                await network.apply(PEERS)
                monkeypatch.setattr("_thread.start_new_thread", refuse)
                host.driver.delete()
                await until(host.driver.ends_of, "new device")
                await network.apply(PEERS)
            network = host.network()  # as when the network config has changed
            async with running(network.run()):
                await network.apply(PEERS)
                host.send()
                await until(lambda: network.stats()["tx_packets"] == 1, "packet")

        asyncio.run(main())

    def test_the_packet_loop_is_started_again_where_no_thread_could_be_started(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> int:
            raise RuntimeError("can't start new thread")

        async def main() -> None:
            network = host.network()
            monkeypatch.setattr(threads, "parked", threads.ParkedThreads())
            with monkeypatch.context() as patches:
                patches.setattr("_thread.start_new_thread", refuse)
                applied = asyncio.create_task(network.apply(PEERS))
                async with running(network.run()):
                    await until(lambda: "cannot start a thread" in network.trouble(), "trouble")
                    patches.undo()
                    await applied

        asyncio.run(main())

    def test_an_unknown_end_of_the_loop_is_a_bug(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            network = host.network()
            monkeypatch.setattr(network._dataplane, "run", lambda *_: None)
            task = asyncio.create_task(network.run())
            await network.apply(PEERS)
            with pytest.raises(RuntimeError, match="the packet loop has ended by itself"):
                await task

        asyncio.run(main())

    def test_each_thread_has_a_queue_and_a_socket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        host = Host(monkeypatch, n_threads=3)

        async def main() -> None:
            network = host.network()
            async with running(network.run()):
                await network.apply(PEERS)
                for end in host.driver.ends_of():
                    end.send(OUT)
                await until(lambda: network.stats()["tx_packets"] == 3, "packets")

        asyncio.run(main())
        assert len(host.kernel.descriptors.held("flannel0/udp")) == 3
        host.close()


class TestPeers:
    def test_only_changed_subnets_are_looked_at(self, host: Host) -> None:
        other = IPv4Network("10.1.17.0/24")
        moved = Lease(PEER, LeaseAttrs(THIRD))

        async def main() -> None:
            network = host.network()
            await network.apply(PEERS, [PEER])
            await network.apply({PEER: moved, other: Lease(other, moved.attrs)}, [other])
            assert network._routes == {
                PEER: network.plan(PEERS[PEER]),
                other: network.plan(Lease(other, moved.attrs)),
            }
            await network.apply({}, [PEER, other])
            assert network._routes == network._routes_of_loop == {}

        asyncio.run(main())

    def test_a_lease_with_this_hosts_address_is_named_once_and_again_after_it_was_right(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        wrong = {PEER: Lease(PEER, LeaseAttrs(HOST))}

        async def main() -> None:
            network = host.network()
            for peers in (wrong, wrong, PEERS, wrong, {}, wrong):
                await network.apply(peers, [PEER])
                assert set(network._routes_of_loop) == ({PEER} if peers is PEERS else set())

        asyncio.run(main())
        assert caplog.text.count(f"cannot use lease {wrong[PEER]}") == 3

    def test_peers_that_could_not_be_handed_over_are_handed_over_at_the_next_call(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_routes: object) -> None:
            raise OSError(errno.ENOMEM, "no memory")

        async def main() -> None:
            network = host.network()
            with monkeypatch.context() as patches:
                patches.setattr(network._dataplane, "set_routes", refuse)
                with pytest.raises(KernelError, match="cannot hand the peers to the packet loop"):
                    await network.apply(PEERS, [PEER])
            async with running(network.run()):
                await network.apply(PEERS)
                host.send()
                await until(lambda: network.stats()["tx_packets"] == 1, "packet")

        asyncio.run(main())

    def test_udp_writes_no_entries_of_peers_to_the_kernel(self, host: Host) -> None:
        assert host.network().holds(("route", b"", 0)) is None  # type: ignore[arg-type]


class TestCounters:
    def test_drops_are_counted_by_name_and_logged_at_the_end(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            network = host.network()
            assert network.counters() == dict.fromkeys(DROPS, 0)
            async with running(network.run()):
                await network.apply(PEERS)
                host.peer.sendto(STRANGE, (str(HOST), host.port))
                await until(lambda: network.counters()["rx_spoofed"] == 1, "drop")
                host.send()
                await until(lambda: network.stats()["tx_packets"] == 1, "packet")
            assert network.counters() == {**dict.fromkeys(DROPS, 0), "rx_spoofed": 1}

        asyncio.run(main())
        assert "packets dropped since the last such line: rx_spoofed 1" in caplog.messages

    def test_drops_are_logged_once_a_minute_each_once(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        network = host.network()
        stats, now = dict.fromkeys((*DROPS, "given_up"), 0), 0.0
        monkeypatch.setattr(network, "stats", lambda: dict(stats))
        monkeypatch.setattr(module, "monotonic", lambda: now)
        network._logged_at = now
        for now in range(0, 240, 10):
            stats["tx_stalled"] += now < 100
            network._log()
        assert caplog.messages == [
            "packets dropped since the last such line: tx_stalled 7",
            "packets dropped since the last such line: tx_stalled 3",
        ]

    def test_features_that_the_kernel_lacks_are_named_once(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        network = host.network()
        stats = {**network.stats(), "given_up": 3}
        monkeypatch.setattr(network, "stats", lambda: stats)
        for _ in range(3):
            network._log()
        assert caplog.messages == [
            "this kernel or the link has no UDP_SEGMENT, packets are sent one by one",
            "this kernel or the link has no UDP_GRO, packets are received one by one",
        ]
