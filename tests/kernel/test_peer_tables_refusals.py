"""Leases that cannot be served in full: conflicts, bad leases, entries that the kernel refuses."""

import errno
import logging
from ipaddress import IPv4Address

import pytest
from tables_host import Host, peer, subnet

from flannel.kernel.entries import Fdb, Nexthop, Route, key
from flannel.lease import Lease, LeaseAttrs


@pytest.fixture(params=[True, False], ids=["nexthop objects", "classic routes"])
def host(request: pytest.FixtureRequest) -> Host:
    return Host(has_nexthops=request.param)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog


class TestConflicts:
    """Two leases that want different entries at one key."""

    def test_the_first_lease_keeps_the_entry_and_the_second_is_named_once(
        self, host: Host, warnings: pytest.LogCaptureFixture
    ) -> None:
        host.apply(peer(2))
        for _ in range(2):
            host.apply(peer(2), peer(3, mac=2))
        assert host.kernel.of_kind(Fdb) == [next(iter(host.plan(peer(2))))]
        assert warnings.text.count("cannot serve lease 10.5.3.0/24 of 192.0.2.3 in full") == 1
        assert "belongs to lease 10.5.2.0/24 of 192.0.2.2" in warnings.text

    def test_the_second_lease_gets_the_entry_when_the_first_leaves(self, host: Host) -> None:
        host.apply(peer(2), peer(3, mac=2))
        host.apply(peer(3, mac=2), changed=[2])
        assert host.has(peer(3, mac=2))

    def test_the_first_lease_keeps_the_entry_when_the_second_leaves(self, host: Host) -> None:
        host.apply(peer(2), peer(3, mac=2))
        host.apply(peer(2), changed=[3])
        assert host.has(peer(2))

    def test_equal_claims_are_not_a_conflict(self, warnings: pytest.LogCaptureFixture) -> None:
        host = Host()
        host.apply(peer(2), peer(3, host=2, mac=2))  # one host with two leases
        assert warnings.text == ""
        host.apply(peer(2), changed=[3])
        assert host.has(peer(2))

    def test_a_conflict_that_comes_back_is_named_again(
        self, host: Host, warnings: pytest.LogCaptureFixture
    ) -> None:
        host.apply(peer(2), peer(3, mac=2))
        host.apply(peer(2))
        host.apply(peer(2), peer(3, mac=2))
        assert warnings.text.count("in full") == 2


class TestBadLeases:
    """A lease that cannot be planned."""

    BAD = Lease(subnet(3), LeaseAttrs(IPv4Address("192.0.2.3"), "vxlan"))

    def test_a_bad_lease_is_named_once_and_leaves_the_others_served(
        self, host: Host, warnings: pytest.LogCaptureFixture
    ) -> None:
        host.apply(self.BAD, peer(2))
        host.apply(self.BAD, peer(2), changed=[3])
        host.apply(self.BAD, peer(2))
        assert host.has(peer(2))
        text = "cannot use lease 10.5.3.0/24 of 192.0.2.3: it publishes no MAC"
        assert [record.message for record in warnings.records] == [text]

    def test_a_lease_that_becomes_bad_loses_its_entries(self, host: Host) -> None:
        host.apply(peer(2), peer(3))
        host.apply(peer(2), self.BAD, changed=[3])
        assert host.has(peer(2))

    @pytest.mark.parametrize("between", [[], [peer(3)]], ids=["it left", "it was right"])
    def test_a_bad_lease_is_named_again_when_it_returns(
        self, host: Host, warnings: pytest.LogCaptureFixture, between: list[Lease]
    ) -> None:
        host.apply(self.BAD)
        host.apply(*between)
        host.apply(self.BAD)
        assert warnings.text.count("cannot use lease") == 2


class TestRefusals:
    """Entries that the kernel does not take."""

    def test_a_refused_entry_is_named_once_and_tried_at_each_comparison(
        self, host: Host, warnings: pytest.LogCaptureFixture
    ) -> None:
        arp = list(host.plan(peer(2)))[1]
        host.kernel.refuses[key(arp)] = errno.ENOBUFS
        host.apply(peer(2))
        host.apply(peer(2))
        text = "cannot add neighbour 10.5.2.0 link 7 is 02:00:00:00:00:02: No buffer space"
        assert warnings.text.count(text) == 1
        assert host.tables.holds(key(arp)) is None
        del host.kernel.refuses[key(arp)]
        host.apply(peer(2))
        assert host.has(peer(2))
        assert host.tables.holds(key(arp)) == arp

    def test_a_refusal_for_another_reason_is_named_again(
        self, host: Host, warnings: pytest.LogCaptureFixture
    ) -> None:
        arp = list(host.plan(peer(2)))[1]
        for number in (errno.ENOBUFS, errno.EPERM):
            host.kernel.refuses[key(arp)] = number
            host.apply(peer(2))
        assert [record.message.rpartition(": ")[2] for record in warnings.records] == [
            "No buffer space available",
            "Operation not permitted",
        ]

    def test_a_refusal_that_ended_is_named_again_when_it_returns(
        self, host: Host, warnings: pytest.LogCaptureFixture
    ) -> None:
        arp = list(host.plan(peer(2)))[1]
        for is_refused in (True, False, True):
            host.kernel.refuses = {key(arp): errno.EPERM} if is_refused else {}
            host.kernel.damage(arp)
            host.apply(peer(2))
        assert warnings.text.count("cannot add neighbour") == 2

    def test_a_refusal_of_a_lease_that_left_and_returned_is_named_again(
        self, host: Host, warnings: pytest.LogCaptureFixture
    ) -> None:
        arp = list(host.plan(peer(2)))[1]
        host.kernel.refuses[key(arp)] = errno.EPERM
        for leases in ((peer(2),), (), (peer(2),)):
            host.apply(*leases)
        assert warnings.text.count("cannot add neighbour") == 2

    def test_many_refusals_for_one_reason_are_one_line(
        self, host: Host, warnings: pytest.LogCaptureFixture
    ) -> None:
        for number in (2, 3, 4):
            host.kernel.refuses[key(list(host.plan(peer(number)))[1])] = errno.EPERM
        host.apply(peer(2), peer(3), peer(4))
        lines = [record.message for record in warnings.records]
        assert len(lines) == 1
        assert lines[0].endswith("and 2 more: Operation not permitted")

    def test_where_another_program_has_the_nexthop_the_route_has_its_own_gateway(self) -> None:
        host = Host()
        number = int(subnet(2).network_address)
        host.kernel.others[number] = Nexthop(number, bytes((192, 0, 2, 9)), 3)
        host.apply(peer(2), peer(3))
        (one, other) = host.kernel.of_kind(Route)
        assert {each.nexthop for each in (one, other) if isinstance(each, Route)} == {
            0,
            int(subnet(3).network_address),
        }

    def test_a_route_whose_nexthop_the_kernel_refused_is_not_written(
        self, warnings: pytest.LogCaptureFixture
    ) -> None:
        host = Host()
        hop = list(host.plan(peer(2)))[2]
        host.kernel.refuses[key(hop)] = errno.ENETUNREACH
        host.apply(peer(2), peer(3))
        routes = [each.dst for each in host.kernel.of_kind(Route) if isinstance(each, Route)]
        assert routes == [subnet(3).network_address.packed]
        assert warnings.text.count("cannot add") == 1

    def test_an_entry_that_the_kernel_keeps_is_named(
        self, host: Host, warnings: pytest.LogCaptureFixture
    ) -> None:
        host.apply(peer(2))
        arp = list(host.plan(peer(2)))[1]
        host.kernel.keeps[key(arp)] = errno.EPERM
        host.apply()
        text = "cannot remove neighbour 10.5.2.0 link 7 is 02:00:00:00:00:02: Operation not"
        assert text in warnings.text
