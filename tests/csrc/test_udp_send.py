"""lanes.c and udp_send.c: packets that find a full socket, that wait, and that are refused.

The hosts are addresses of loopback. tests/helpers/fake_syscalls.c fills buffers, lets packets wait
and time pass.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import loopback
import pytest
from internals import Internals

OWN, *PEERS = (str(loopback.address(n)) for n in range(1, 5))
MANY, FEW = 200_000, 1000
"""Bytes that wait: more and less than is taken for a stall."""


class Queue:
    """A queue on a socket of its own, and the sockets of `PEERS`."""

    def __init__(self, internals: Internals, stack: ExitStack) -> None:
        self.ffi, self.lib = internals.ffi, internals.lib
        self.fake = self.lib.fake
        self.reset()
        self.fake.now_ms = 1_000_000
        self.shared = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.shared.bind((OWN, 0))
        self.port = self.shared.getsockname()[1]
        self.peers = []
        for address in PEERS:
            peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            peer.bind((address, self.port))
            peer.settimeout(100)
            self.peers.append(peer)
        self.queue = self.ffi.new("struct udp_queue *")
        self.stats = self.ffi.new("struct flannel_stats *")
        self.lib.udp_queue_init(self.queue, self.shared.fileno(), True)
        self.queue.port = self.port
        stack.callback(self.reset)
        stack.callback(self.lib.udp_queue_close, self.queue)

    def reset(self) -> None:
        """Let the kernel answer again."""
        self.ffi.buffer(self.ffi.addressof(self.lib, "fake"))[:] = bytes(
            self.ffi.sizeof("struct fake_syscalls")
        )

    def send(self, *addresses: str, data: bytes = b"a packet", tos: int = 0) -> None:
        """Send a packet to each, in one flush."""
        kept = self.ffi.from_buffer(data)
        for address in addresses:
            parts = [(kept, len(data)), (self.ffi.NULL, 0)]
            assert self.lib.udp_queue_add(self.queue, int(IPv4Address(address)), tos, parts) == 0
        self.lib.udp_queue_flush(self.queue, self.stats)
        assert self.queue.n == 0

    def fill(self, fd: int | None = None) -> None:
        """The buffer of a socket, the shared one's by default, is full from now on."""
        self.fake.send_errors[self.shared.fileno() if fd is None else fd] = errno.EAGAIN

    def lane(self, address: str) -> int:
        """The descriptor of a peer's lane."""
        lanes = self.queue.lanes
        (fd,) = (
            int(lanes.lanes[i].fd)
            for i in range(lanes.n)
            if lanes.hosts[i] == int(IPv4Address(address))
        )
        return fd

    def counts(self) -> dict[str, int]:
        """What was sent and dropped, where it is not 0."""
        drops = {name: getattr(self.stats.drops, name) for name in dir(self.stats.drops)}
        counts = {"tx_packets": self.stats.tx_packets, **drops}
        return {name: count for name, count in counts.items() if count}


def n_sockets(port: int) -> int:
    """Descriptors of this process that are sockets of this port; others come and go."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if each.readlink().name.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(each.name))) as sock:
                    found += sock.family == socket.AF_INET and sock.getsockname()[1] == port
    return found


@pytest.fixture
def queue(internals: Internals) -> Iterator[Queue]:
    with ExitStack() as stack:
        yield Queue(internals, stack)


def test_there_are_no_lanes_while_the_shared_socket_has_room(queue: Queue) -> None:
    queue.send(*PEERS)
    for peer in queue.peers:
        assert peer.recvfrom(100) == (b"a packet", (OWN, queue.port))
    assert queue.queue.lanes.n == 0
    assert queue.fake.n_sends == 1


def test_a_full_shared_socket_costs_no_packet_and_the_peers_see_no_difference(
    queue: Queue,
) -> None:
    queue.fill()
    queue.send(*PEERS)
    queue.send(*PEERS)
    for peer in queue.peers:
        for _ in range(2):
            assert peer.recvfrom(100) == (b"a packet", (OWN, queue.port))
    assert queue.queue.lanes.n == len(PEERS)
    assert queue.counts() == {"tx_packets": 2 * len(PEERS)}
    assert queue.fake.n_polls == 0  # nobody waited for the shared socket


def test_lanes_carry_segments_and_the_tos(queue: Queue) -> None:
    queue.fill()
    queue.peers[0].setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    queue.send(*4 * PEERS[:1], tos=2)
    for _ in range(4):
        data, control, _, source = queue.peers[0].recvmsg(100, 100)
        assert (data, source) == (b"a packet", (OWN, queue.port))
        assert [value[0] for _, kind, value in control if kind == socket.IP_TOS] == [2]
    assert queue.stats.tx_batches == 1


def test_a_peer_whose_packets_do_not_leave_is_left_out_and_the_others_are_served(
    queue: Queue,
) -> None:
    dead, healthy, _ = PEERS
    queue.fill()
    queue.send(dead, healthy)
    queue.fake.waiting[queue.lane(dead)] = MANY
    queue.send(dead, healthy)  # it might leave in a moment
    queue.fake.now_ms += 200
    queue.send(dead, healthy, dead)
    assert queue.counts() == {"tx_packets": 5, "tx_stalled": 2}
    assert len([queue.peers[1].recv(100) for _ in range(3)]) == 3
    assert queue.fake.n_polls == 0


@pytest.mark.parametrize("left", [FEW, MANY - 1], ids=["all but a few", "one"])
def test_a_peer_is_served_again_when_packets_have_left(queue: Queue, left: int) -> None:
    dead = PEERS[0]
    queue.fill()
    queue.send(dead)
    queue.fake.waiting[queue.lane(dead)] = MANY
    queue.send(dead)
    queue.fake.now_ms += 200
    queue.send(dead)
    assert queue.counts() == {"tx_packets": 2, "tx_stalled": 1}
    queue.fake.waiting[queue.lane(dead)] = left
    queue.send(dead)
    assert queue.counts() == {"tx_packets": 3, "tx_stalled": 1}


def test_any_number_of_packets_that_wait_and_leave_is_not_a_stall(queue: Queue) -> None:
    slow = PEERS[0]
    queue.fill()
    queue.send(slow)
    for n in range(20):
        queue.fake.waiting[queue.lane(slow)] = 50 * MANY - n
        queue.fake.now_ms += 90
        queue.send(slow)
    assert queue.counts() == {"tx_packets": 21}


def test_lanes_are_closed_after_some_seconds_and_opened_again_when_needed(
    queue: Queue,
) -> None:
    queue.fill()
    queue.send(*PEERS)
    fds = [queue.lane(peer) for peer in PEERS]
    queue.fake.send_errors[queue.shared.fileno()] = 0
    queue.fake.now_ms += 11_000
    queue.send(*PEERS)
    assert queue.queue.lanes.n == 0
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    queue.fill()
    queue.send(*PEERS)
    assert queue.queue.lanes.n == len(PEERS)
    assert queue.counts() == {"tx_packets": 3 * len(PEERS)}


def test_lanes_stay_open_while_a_peer_is_left_out(queue: Queue) -> None:
    dead, healthy, _ = PEERS
    queue.fill()
    queue.send(dead)
    queue.fake.waiting[queue.lane(dead)] = MANY
    queue.send(dead)
    for _ in range(5):
        queue.fake.now_ms += 9000
        queue.send(dead, healthy)
    assert queue.queue.lanes.n == 2
    assert queue.counts() == {"tx_packets": 7, "tx_stalled": 5}


def test_a_flush_waits_in_vain_once_however_many_lanes_are_full(queue: Queue) -> None:
    queue.fill()
    queue.send(*PEERS)
    for peer in PEERS:
        queue.fill(queue.lane(peer))
    queue.send(*PEERS)
    assert queue.fake.n_polls == 1
    assert queue.counts() == {"tx_packets": 3, "tx_congested": 3}
    queue.send(PEERS[0])  # it was in vain, and nothing has left since
    assert queue.fake.n_polls == 1


def test_more_peers_than_lanes_are_all_served(queue: Queue) -> None:
    queue.fill()
    most = int(queue.lib.LANES_MAX)
    addresses = [str(IPv4Address("127.0.1.0") + n) for n in range(most)]
    for start in range(0, most, 50):
        queue.send(*addresses[start : start + 50])
    assert queue.queue.lanes.n == most
    n_open = n_sockets(queue.port)
    assert n_open == 1 + len(PEERS) + most
    for _ in range(2):
        queue.send(*PEERS)
    for peer in queue.peers:
        assert len([peer.recv(100) for _ in range(2)]) == 2
    assert queue.queue.lanes.n == most
    assert n_sockets(queue.port) == n_open
    assert queue.counts() == {"tx_packets": most + 6}


def test_without_a_descriptor_another_peers_lane_makes_room(queue: Queue) -> None:
    queue.fill()
    queue.send(PEERS[0])
    queue.fake.socket_error = errno.EMFILE
    queue.send(PEERS[1])
    assert queue.queue.lanes.n == 0
    assert queue.counts() == {"tx_packets": 1, "tx_congested": 1}
    queue.fake.socket_error = 0
    queue.send(PEERS[1])
    assert queue.counts() == {"tx_packets": 2, "tx_congested": 1}


def test_a_full_socket_drops_packets_as_congested_where_no_lane_can_be_opened(queue: Queue) -> None:
    queue.fake.socket_error = errno.EMFILE
    queue.fill()
    queue.send(*PEERS)
    assert queue.counts() == {"tx_congested": 3}
    assert queue.fake.n_polls == 1
    queue.fake.send_errors[queue.shared.fileno()] = 0
    queue.send(*PEERS)
    assert queue.counts() == {"tx_packets": 3, "tx_congested": 3}


def test_a_lane_has_the_buffer_priority_and_mark_of_the_shared_socket(queue: Queue) -> None:
    queue.fake.mark = 0x40000000
    queue.shared.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
    queue.shared.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 5)
    queue.fill()
    queue.send(PEERS[0])
    with socket.socket(fileno=os.dup(queue.lane(PEERS[0]))) as lane:
        for option in (socket.SO_SNDBUF, socket.SO_PRIORITY):
            of_shared = queue.shared.getsockopt(socket.SOL_SOCKET, option)
            assert lane.getsockopt(socket.SOL_SOCKET, option) == of_shared
        assert queue.fake.set_mark == 0x40000000
        address, port = lane.getsockname()
        assert port == queue.port
        assert IPv4Address(address).is_loopback


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENETUNREACH, errno.ENOBUFS])
@pytest.mark.parametrize("has_lanes", [False, True])
def test_a_refused_message_is_counted_and_no_lane_is_opened_for_it(
    queue: Queue, error: int, has_lanes: bool
) -> None:
    if has_lanes:
        queue.fill()
        queue.send(PEERS[0])
        queue.fake.send_errors[queue.lane(PEERS[0])] = error
    else:
        queue.fake.send_errors[queue.shared.fileno()] = error
    queue.send(PEERS[0])
    assert queue.counts()["tx_refused"] == 1
    assert queue.queue.lanes.n == has_lanes


def test_messages_before_and_behind_a_refused_one_are_sent(queue: Queue) -> None:
    """The kernel refuses to broadcast: EACCES."""
    addresses: list[Any] = [PEERS[0], "255.255.255.255", PEERS[1], "255.255.255.255", PEERS[2]]
    queue.send(*addresses)
    assert [peer.recv(100) for peer in queue.peers] == 3 * [b"a packet"]
    assert queue.counts() == {"tx_packets": 3, "tx_refused": 2}
