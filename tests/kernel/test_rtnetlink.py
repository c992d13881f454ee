"""The socket for bulk work: batches, acknowledgements, dumps, errors. A kernel in memory."""

import errno
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network
from typing import Any

import pytest
from fake_rtnetlink import Kernel, error, payload

from flannel.errors import KernelError
from flannel.kernel import rtlayout as rt
from flannel.kernel import rtnetlink as module
from flannel.kernel.entries import PROTOCOL, Fdb, Neighbour, Nexthop, Route
from flannel.kernel.rtnetlink import Failure, RtNetlink, open_socket

NETWORK = IPv4Network("10.5.0.0/16")
ARP = [Neighbour(bytes((10, 5, n, 0)), 7, bytes((2, 0, 0, 0, 0, n))) for n in range(9)]


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


class TestWrites:
    """put and delete."""

    def test_only_the_last_of_a_batch_is_acknowledged(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.batches.clear()
        assert tables.put(ARP) == []
        assert kernel.batches == [len(ARP)]
        kinds = [kind for kind, _ in kernel.requests[-len(ARP) :]]
        assert kinds == [rt.RTM_NEWNEIGH] * len(ARP)

    def test_many_entries_go_in_several_batches(
        self, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_BATCH", 4)
        tables = kernel.tables()
        kernel.batches.clear()
        kernel.refuses = {3: errno.EPERM}
        failures = tables.put(ARP)
        assert kernel.batches == [4, 4, 1]
        assert failures == [Failure(ARP[2], errno.EPERM), Failure(ARP[6], errno.EPERM)]

    def test_the_last_of_a_batch_may_be_the_refused_one(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.refuses = {2: errno.ENOBUFS}
        assert tables.put(ARP[:2]) == [Failure(ARP[1], errno.ENOBUFS)]

    @pytest.mark.parametrize("echoed", [b"", b"abcde"], ids=["capped", "with the request"])
    def test_the_kernels_own_words_are_kept(self, kernel: Kernel, echoed: bytes) -> None:
        tables = kernel.tables()
        kernel.refuses, kernel.words, kernel.echoed = {2: errno.EINVAL}, b"Invalid \xff", echoed
        (failure,) = tables.put(ARP[:2])
        assert failure == Failure(ARP[1], errno.EINVAL, "Invalid \ufffd")
        assert failure.why == "Invalid argument (Invalid \ufffd)"
        kernel.refuses = {1: errno.EINVAL}
        with pytest.raises(KernelError) as raised:
            tables.request(rt.RTM_DELLINK, "delete link x")
        assert str(raised.value) == "cannot delete link x: Invalid argument (Invalid \ufffd)"

    def test_no_entries_make_no_message(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.batches.clear()
        assert tables.put([]) == tables.delete([]) == []
        assert kernel.batches == []

    @pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH, errno.ENODEV])
    def test_an_entry_that_is_absent_is_deleted(self, kernel: Kernel, number: int) -> None:
        tables = kernel.tables()
        kernel.refuses = {1: number}
        assert tables.delete(ARP[:2]) == []

    def test_an_entry_that_the_kernel_keeps_is_a_failure(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.refuses = {1: errno.EPERM, 2: errno.ESRCH}
        assert tables.delete(ARP[:3]) == [Failure(ARP[0], errno.EPERM)]

    def test_late_answers_to_an_earlier_request_are_passed_over(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.sockets[0].waiting += [error(0, errno.EINVAL), rt.message(rt.NLMSG_DONE, 1, 0)]
        assert tables.put(ARP) == []


class TestDumps:
    """list_*."""

    def test_entries_are_read_from_all_datagrams(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.dumps[rt.RTM_GETNEIGH] = [payload(entry) for entry in ARP]
        assert tables.list_neighbours(7) == ARP
        assert tables.list_neighbours(8) == []

    def test_several_messages_may_be_in_one_datagram(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        answers = kernel._dump

        def together(kind: int, sequence: int) -> Iterable[bytes]:
            return [b"".join(answers(kind, sequence))]

        kernel._dump = together  # type: ignore[method-assign] # one datagram instead of several
        fdb = [Fdb(bytes((2, 0, 0, 0, 0, n)), 7, bytes((192, 0, 2, n))) for n in (1, 2)]
        kernel.dumps[rt.RTM_GETNEIGH] = [payload(entry) for entry in fdb]
        assert tables.list_fdb(7) == fdb

    def test_a_dump_that_changed_meanwhile_is_taken_again(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.dumps[rt.RTM_GETNEIGH] = [payload(entry) for entry in ARP]
        kernel.interrupted = 4
        assert tables.list_neighbours(7) == ARP

    def test_a_dump_that_changes_all_the_time_is_given_up(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.dumps[rt.RTM_GETNEIGH] = [payload(ARP[0])]
        kernel.interrupted = 5
        with pytest.raises(KernelError, match="cannot list neighbours: Interrupted"):
            tables.list_neighbours(7)

    def test_a_refused_dump_names_the_operation(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.dump_errors[rt.RTM_GETROUTE] = errno.EPERM
        with pytest.raises(KernelError, match="cannot list routes: Operation not permitted"):
            tables.list_foreign_routes()
        assert len(kernel.sockets) == 1  # the socket is in order

    def test_our_routes_and_nexthops_are_those_of_the_network_or_over_the_device(
        self, kernel: Kernel
    ) -> None:
        hop = Nexthop(0x0A050200, bytes((10, 5, 2, 0)), 7, onlink=True)
        far_hop = Nexthop(0x0A060200, bytes((10, 6, 2, 0)), 3)
        ours = Route(bytes((10, 5, 2, 0)), 24, hop.via, 7, True, hop.id)
        over_device = Route(bytes((10, 9, 0, 0)), 16, bytes((10, 9, 0, 0)), 7, protocol=3)
        first = Route(bytes((10, 5, 0, 0)), 24, bytes((192, 0, 2, 9)), 3)
        last = Route(bytes((10, 5, 255, 255)), 32, bytes((192, 0, 2, 9)), 3)
        elsewhere = Route(bytes((10, 6, 0, 0)), 24, bytes((192, 0, 2, 9)), 3)
        others = Route(bytes((10, 5, 9, 0)), 24, bytes((192, 0, 2, 9)), 3, protocol=3)
        tables = kernel.tables()
        kernel.dumps[rt.RTM_GETROUTE] = [
            payload(each) for each in (ours, over_device, first, last, elsewhere, others)
        ]
        theirs = rt.NHMSG.pack(2, 0, 3, 0, rt.RTNH_F_ONLINK) + payload(hop)[rt.NHMSG.size :]
        kernel.dumps[rt.RTM_GETNEXTHOP] = [payload(hop), payload(far_hop)]
        assert tables.list_own(NETWORK, 7) == [ours, over_device, first, last, hop]
        assert tables.list_own(NETWORK) == [ours, first, last, hop]
        kernel.dumps[rt.RTM_GETNEXTHOP] = [theirs]
        assert tables.list_own(NETWORK) == [ours, first, last]

    def test_foreign_routes_and_blackholes_are_distinguished(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.dumps[rt.RTM_GETROUTE] = [
            payload(Route(bytes((10, 9, 0, 0)), 16, bytes((192, 0, 2, 9)), 3, protocol=3)),
            payload(Route(bytes((10, 5, 2, 0)), 24, bytes((192, 0, 2, 9)), 3)),
            rt.RTMSG.pack(2, 24, 0, 0, rt.RT_TABLE_MAIN, PROTOCOL, 0, rt.RTN_BLACKHOLE, 0)
            + rt.address_attribute(rt.RTA_DST, bytes((10, 5, 1, 0)))
            + rt.number_attribute(rt.RTA_PRIORITY, rt.LAST_METRIC),
        ]
        assert [str(each.dst) for each in tables.list_foreign_routes()] == ["10.9.0.0/16"]
        assert tables.list_blackholes() == {IPv4Network("10.5.1.0/24")}


class TestNexthops:
    """Which Linux has since 5.3."""

    def test_a_kernel_that_lists_them_has_them(self, kernel: Kernel) -> None:
        assert kernel.tables().has_nexthops

    def test_a_kernel_without_them_is_asked_once(self, kernel: Kernel) -> None:
        kernel.dump_errors[rt.RTM_GETNEXTHOP] = errno.EOPNOTSUPP
        tables = kernel.tables()
        assert not tables.has_nexthops
        kernel.requests.clear()
        assert tables.list_nexthops() == []
        assert kernel.requests == []

    def test_another_error_is_not_an_answer_about_nexthops(self, kernel: Kernel) -> None:
        kernel.dump_errors[rt.RTM_GETNEXTHOP] = errno.EPERM
        with pytest.raises(KernelError, match="list nexthops"):
            kernel.tables()


class TestRequests:
    """request."""

    def test_a_request_returns_when_the_kernel_has_done_it(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        tables.request(rt.RTM_DELLINK, "delete link x", rt.IFINFOMSG.pack(0, 0, 9, 0, 0))
        assert kernel.requests[-1] == (rt.RTM_DELLINK, rt.IFINFOMSG.pack(0, 0, 9, 0, 0))

    def test_a_refusal_names_the_operation(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.refuses = {1: errno.ENODEV}
        with pytest.raises(KernelError, match="cannot delete link x: No such device"):
            tables.request(rt.RTM_DELLINK, "delete link x", rt.IFINFOMSG.pack(0, 0, 9, 0, 0))


class TestBrokenSockets:
    """Replies are lost: the next call finds a new socket with nothing of the old one in it."""

    @pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
    @pytest.mark.parametrize(
        "call",
        [
            lambda tables: tables.put(ARP),
            lambda tables: tables.delete(ARP),
            lambda tables: tables.list_neighbours(7),
        ],
        ids=["put", "delete", "list"],
    )
    def test_an_error_of_the_socket_is_over_at_the_next_call(
        self, kernel: Kernel, number: int, call: Callable[[RtNetlink], Any]
    ) -> None:
        tables = kernel.tables()
        kernel.errors = [number]
        with pytest.raises(KernelError, match="read from netlink") as raised:
            call(tables)
        assert raised.value.errno == number
        assert not kernel.sockets[0].is_open
        call(tables)
        assert len(kernel.sockets) == 2

    def test_an_error_in_the_middle_of_a_dump_spoils_no_later_one(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.dumps[rt.RTM_GETNEIGH] = [payload(entry) for entry in ARP]
        kernel.errors = [0, 0, errno.ENOBUFS]
        with pytest.raises(KernelError):
            tables.list_neighbours(7)
        assert tables.list_neighbours(7) == ARP

    def test_an_error_while_sending_is_raised_and_over_at_the_next_call(
        self, kernel: Kernel
    ) -> None:
        tables = kernel.tables()
        kernel.send_errors = [errno.ENOBUFS]
        with pytest.raises(KernelError, match="write to netlink: No buffer space"):
            tables.put(ARP)
        assert tables.put(ARP) == []
        assert len(kernel.sockets) == 2

    def test_a_missing_answer_is_a_timeout(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        kernel.answer = lambda data: ()  # type: ignore[method-assign] # it was lost
        with pytest.raises(KernelError) as raised:
            tables.put(ARP)
        assert raised.value.errno == errno.ETIMEDOUT
        assert not kernel.sockets[0].is_open

    def test_the_new_socket_gets_the_old_port(self, kernel: Kernel) -> None:
        tables = kernel.tables()
        port = tables.port
        kernel.errors = [errno.ENOBUFS]
        with pytest.raises(KernelError):
            tables.put(ARP)
        tables.put(ARP)
        assert [each.port for each in kernel.sockets] == [port, port]

    def test_a_socket_that_cannot_be_opened_is_opened_by_the_next_call(
        self, kernel: Kernel
    ) -> None:
        tables = kernel.tables()
        kernel.errors, kernel.open_errors = [errno.ENOBUFS], [errno.EMFILE]
        with pytest.raises(KernelError):
            tables.put(ARP)
        with pytest.raises(KernelError, match="open a netlink socket: Too many open files"):
            tables.put(ARP)
        assert tables.put(ARP) == []

    def test_without_a_socket_there_are_no_tables(self, kernel: Kernel) -> None:
        kernel.open_errors = [errno.EAFNOSUPPORT]
        with pytest.raises(KernelError, match="open a netlink socket: Address family"):
            kernel.tables()

    def test_the_socket_is_closed_at_the_end(self, kernel: Kernel) -> None:
        with kernel.tables() as tables:
            assert tables.port == 4711
        assert not kernel.sockets[0].is_open
        with kernel.tables() as tables:
            kernel.errors = [errno.ENOBUFS]
            with pytest.raises(KernelError):
                tables.put(ARP)


class TestTheRealSocket:
    """Which anybody may open, and read with."""

    def test_a_real_socket_takes_the_port_that_is_asked_for_if_it_is_free(self) -> None:
        with open_socket(0) as first:
            port = first.getsockname()[0]
            with open_socket(port) as second:
                assert second.getsockname()[0] not in (0, port)
        with open_socket(port) as third:
            assert third.getsockname()[0] == port

    def test_a_real_socket_reads_the_tables_of_this_host(self) -> None:
        with RtNetlink() as tables:
            assert tables.port > 0
            assert isinstance(tables.list_foreign_routes(), list)
            assert {type(each) for each in tables.list_neighbours(1)} <= {Neighbour}
            assert tables.list_own(IPv4Network("240.0.0.0/28")) == []

    def test_a_socket_that_cannot_be_set_up_is_closed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "SO_RCVTIMEO", -1)
        with pytest.raises(OSError, match="Protocol not available"):
            open_socket(0)
