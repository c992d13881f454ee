"""Echoes and questions to ports: on a socket that answers at once, and on loopback."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address
from threading import Thread

import loopback
import pytest
from fake_context import Wire

from flannel.cli import probe
from flannel.cli.probe import Pinger, PortAnswer, ask_peers, ask_port
from flannel.errors import KernelError
from flannel.health import peer_probe

NEAR, FAR, DEAD = (IPv4Address(f"192.0.2.{number}") for number in (1, 2, 3))
LOOPBACK = IPv4Address("127.0.0.1")


def ping(
    reach: Mapping[IPv4Address, int], *addresses: IPv4Address, size: int = 64
) -> dict[IPv4Address, float]:
    with Pinger(Wire(reach), patience=0) as pinger:
        return asyncio.run(pinger.ping(addresses, size))


class TestPinger:
    def test_addresses_that_answer_have_a_time_and_others_are_left_out(self) -> None:
        found = ping({NEAR: 1500, FAR: 1500}, NEAR, FAR, DEAD)
        assert found.keys() == {NEAR, FAR}
        assert all(seconds >= 0 for seconds in found.values())

    def test_a_packet_has_the_size_that_was_asked_for(self) -> None:
        assert ping({NEAR: 1450}, NEAR, size=1450).keys() == {NEAR}
        assert ping({NEAR: 1450}, NEAR, size=1451) == {}

    def test_a_packet_that_the_link_refuses_has_no_answer(self) -> None:
        assert ping({NEAR: 9000}, NEAR, size=1501) == {}

    def test_a_checksum_is_right(self) -> None:
        sent: list[bytes] = []

        class Recorder(Wire):
            def sendto(self, data: bytes, address: tuple[str, int]) -> int:  # type: ignore[override]
                sent.append(data)
                return super().sendto(data, address)

        with Pinger(Recorder({NEAR: 1500}), patience=0) as pinger:
            asyncio.run(pinger.ping([NEAR], 101))  # an odd number of bytes
        total = sum(struct.unpack(f"!{len(sent[0] + b'0') // 2}H", sent[0] + b"\0"))
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF  # RFC 1071

    def test_packets_that_are_not_answers_are_ignored(self) -> None:
        wire = Wire({NEAR: 1500})
        wire.receive(b"", str(FAR))  # too short
        wire.receive(struct.pack("!BBHHH", 0, 0, 0, 0, 1), str(FAR))  # of another program
        wire.receive(struct.pack("!BBHHH", 3, 1, 0, 0, 1), str(FAR))  # unreachable
        with Pinger(wire, patience=0) as pinger:
            assert asyncio.run(pinger.ping([NEAR])).keys() == {NEAR}

    def test_an_answer_from_an_address_that_was_not_asked_is_ignored(self) -> None:
        class Liar(Wire):
            def receive(self, icmp: bytes, source: str) -> None:
                super().receive(icmp, str(FAR))

        with Pinger(Liar({NEAR: 1500}), patience=0) as pinger:
            assert asyncio.run(pinger.ping([NEAR])) == {}

    @pytest.mark.parametrize("largest", [576, 577, 1000, 1399, 1449, 1450])
    def test_the_path_mtu_is_found_to_the_byte(self, largest: int) -> None:
        with Pinger(Wire({NEAR: largest}), patience=0) as pinger:
            assert asyncio.run(pinger.path_mtu(NEAR, 576, 1450)) == largest

    def test_where_nothing_answers_the_path_mtu_is_the_least(self) -> None:
        with Pinger(Wire({}), patience=0) as pinger:
            assert asyncio.run(pinger.path_mtu(NEAR, 576, 1450)) == 576

    def test_answers_that_come_later_are_waited_for(self) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.setblocking(False)

        async def wait() -> float:
            loop = asyncio.get_running_loop()
            loop.call_soon(far.send, b"x")
            began = loop.time()
            await probe._wait_readable(near, 60)
            return loop.time() - began

        with near, far:
            assert asyncio.run(wait()) < 60
            assert near.recv(10) == b"x"

    def test_without_the_right_to_a_raw_socket_that_is_the_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> socket.socket:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(socket, "socket", refuse)
        with pytest.raises(KernelError, match="cannot open a raw socket: Operation not permitted"):
            Pinger()


@contextmanager
def flanneld(answer: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """The port of something on loopback that answers each datagram once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((str(LOOPBACK), 0))

        def serve() -> None:
            while True:
                data, source = sock.recvfrom(100)
                if data == b"end":
                    return
                reply = answer(data)
                if reply is not None:
                    sock.sendto(reply, source)

        serving = Thread(target=serve)
        serving.start()
        port = sock.getsockname()[1]
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"end", (str(LOOPBACK), port))
            serving.join()


class TestPorts:
    @pytest.mark.parametrize(("word", "ready"), [(b"flannel!", True), (b"flannel-", False)])
    def test_flanneld_answers_whether_it_is_ready(
        self, word: bytes, ready: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probe, "PATIENCE", 100.0)
        with flanneld(lambda data: word + data[8:]) as port:
            assert asyncio.run(ask_peers([LOOPBACK], port)) == {LOOPBACK: PortAnswer(ready)}

    def test_a_closed_port_is_known_by_the_kernel_s_answer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probe, "PATIENCE", 100.0)
        with loopback.udp_holder() as holder:
            port = holder.getsockname()[1]
            found = asyncio.run(ask_port(loopback.address(1), port, 0))
        assert found == PortAnswer(refused=True)

    def test_silence_and_garbage_do_not_count_as_answers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probe, "PATIENCE", 0.05)
        asked: list[bytes] = []

        def answer(data: bytes) -> bytes | None:
            asked.append(data)
            return b"flannel!01234567" if len(asked) == 1 else None

        with flanneld(answer) as port:
            assert asyncio.run(ask_peers([LOOPBACK], port)) == {LOOPBACK: PortAnswer()}
        assert len(asked) == 2
        assert all(each.startswith(peer_probe.question(b"")) for each in asked)

    def test_no_peer_is_asked_without_a_port(self) -> None:
        assert asyncio.run(ask_peers([LOOPBACK], 0)) == {}

    def test_an_address_that_nothing_leads_to_is_silent(self) -> None:
        assert asyncio.run(ask_port(IPv4Address("255.255.255.255"), 9, 0)) == PortAnswer()
