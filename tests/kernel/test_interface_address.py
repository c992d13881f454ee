"""Which address of the chosen interface is published: on values."""

import re
from ipaddress import IPv4Address

import pytest
from surrounding_values import (
    ADDRESSES,
    ETH0,
    ETH1,
    LINK,
    LO,
    address,
    chosen,
    default,
    host,
    ips,
    link,
)  # fmt: skip

from flannel.kernel.interface import InterfaceChoice
from flannel.kernel.interface_choice import Overlay, Past, choose, pick
from flannel.kernel.links import Address, Way

NOTHING = Overlay()


class TestTheAddress:
    """Which of several is published: the rules, each against all that come after it."""

    def test_the_published_address_is_used_first(self) -> None:
        addresses = [address(ETH0, "192.0.2.7/24"), address(ETH0, "192.0.2.9/32", deprecated=True)]
        found = pick(addresses, default(ETH0, source="192.0.2.7"), None, ips("192.0.2.9"))
        assert str(found) == "192.0.2.9"

    def test_a_published_address_that_the_link_does_not_have_is_ignored(self) -> None:
        addresses = [address(ETH0, "192.0.2.100/32"), address(ETH0, "192.0.2.7/24")]
        assert str(pick(addresses, published=ips("192.0.2.8"))) == "192.0.2.7"

    def test_a_global_address_is_preferred_to_a_published_link_local_one(self) -> None:
        addresses = [address(ETH0, "169.254.1.2/16"), address(ETH0, "192.0.2.7/24")]
        assert str(pick(addresses, published=ips("169.254.1.2"))) == "192.0.2.7"
        alone = [*addresses[:1], address(ETH0, "169.254.1.3/16")]
        assert str(pick(alone[::-1], published=ips("169.254.1.2"))) == "169.254.1.2"

    def test_the_source_of_the_route_is_used_second(self) -> None:
        addresses = [address(ETH0, "192.0.2.7/24"), address(ETH0, "192.0.2.8/32", deprecated=True)]
        assert str(pick(addresses, default(ETH0, source="192.0.2.8"))) == "192.0.2.8"
        assert str(pick(addresses, default(ETH0), IPv4Address("192.0.2.8"))) == "192.0.2.8"

    def test_an_address_in_the_network_of_the_gateway_is_used_without_a_source(self) -> None:
        addresses = [address(ETH0, "10.9.0.7/24"), address(ETH0, "192.0.2.7/24")]
        assert str(pick(addresses, default(ETH0))) == "192.0.2.7"

    def test_a_gateway_that_is_link_local_does_not_make_that_address_better(self) -> None:
        addresses = [address(ETH0, "169.254.7.7/16"), address(ETH0, "192.0.2.7/32")]
        assert str(pick(addresses, default(ETH0, via="169.254.0.1"))) == "192.0.2.7"

    def test_an_address_that_is_not_deprecated_is_preferred(self) -> None:
        addresses = [address(ETH0, "192.0.2.7/24", deprecated=True), address(ETH0, "192.0.2.8/24")]
        assert str(pick(addresses)) == "192.0.2.8"

    @pytest.mark.parametrize(
        "poor", [address(ETH0, "169.254.1.11/16"), address(ETH0, "203.0.113.9/24", LINK)]
    )
    def test_a_global_address_is_preferred_to_a_link_local_one(self, poor: Address) -> None:
        assert str(pick([poor, address(ETH0, "192.0.2.7/32")])) == "192.0.2.7"
        assert pick([poor]) == poor.interface.ip

    def test_then_one_that_does_not_float(self) -> None:
        addresses = [address(ETH0, "192.0.2.100/32"), address(ETH0, "192.0.2.7/24")]
        assert str(pick(addresses)) == "192.0.2.7"

    def test_the_only_one_may_have_a_prefix_of_32(self) -> None:
        # As clouds give it: the gateway is reached by a route of its own.
        cloud = host([], [address(ETH0, "10.128.0.2/32")], [default(ETH0, via="10.128.0.1")])
        assert chosen(choose(cloud, InterfaceChoice())) == ("eth0", "10.128.0.2")

    def test_the_kernel_s_first_address_is_used_last(self) -> None:
        addresses = [address(ETH0, "192.0.2.8/24"), address(ETH0, "192.0.2.7/24")]
        assert str(pick(addresses)) == "192.0.2.8"

    def test_the_published_one_of_the_addresses_that_match_a_pattern_is_chosen(self) -> None:
        addresses = [address(ETH0, "192.0.2.100/32"), address(ETH0, "192.0.2.7/24")]
        choice = InterfaceChoice(patterns=[re.compile(r"^192\.0")])
        assert str(choose(host([], addresses), choice).address) == "192.0.2.7"
        past = Past(published=ips("192.0.2.100"))
        assert str(choose(host([], addresses), choice, NOTHING, past).address) == "192.0.2.100"

    def test_the_default_route_over_a_named_link_gives_its_source(self) -> None:
        addresses = [address(ETH1, "198.51.100.7/24"), address(ETH1, "198.51.100.8/24")]
        routes = [default(ETH0), default(ETH1, 900, source="198.51.100.8")]
        choice = InterfaceChoice(names=["eth1"])
        assert chosen(choose(host([], addresses, routes), choice)) == ("eth1", "198.51.100.8")


class TestLoopback:
    """An address of lo or of a dummy link: another link carries the packets."""

    LINKS = (link(LO, "lo", mtu=65536), link(8, "dummy0", "dummy", mtu=1500))

    @pytest.mark.parametrize("index", [LO, 8])
    def test_link_and_mtu_are_those_of_the_default_route(self, index: int) -> None:
        addresses = [*ADDRESSES, address(index, "203.0.113.1/32")]
        surroundings = host(self.LINKS, addresses, [default(ETH1)])
        found = choose(surroundings, InterfaceChoice(names=["203.0.113.1"]))
        assert (chosen(found), found.mtu) == (("eth1", "203.0.113.1"), 9000)
        assert found.is_on_link(IPv4Address("198.51.100.200"))

    def test_the_least_mtu_of_several_hops_counts(self) -> None:
        addresses = [*ADDRESSES, address(LO, "203.0.113.1/32")]
        surroundings = host(self.LINKS, addresses, [default(ETH1, more=(ETH0,))])
        found = choose(surroundings, InterfaceChoice(names=["lo"]))
        assert (found.name, found.mtu) == ("eth1", 1500)

    def test_a_host_without_another_link_is_served_alone(self) -> None:
        addresses = [address(LO, "203.0.113.1/32")]
        assert choose(host(self.LINKS, addresses), InterfaceChoice(names=["lo"])).name == "lo"

    def test_the_source_of_the_default_route_may_be_there(self) -> None:
        addresses = [address(LO, "203.0.113.1/32"), address(ETH0, "10.9.0.1/31")]
        routes = [default(ETH0, source="203.0.113.1", more=(ETH1,))]
        found = choose(host(self.LINKS, addresses, routes), InterfaceChoice())
        assert (chosen(found), found.mtu) == (("eth0", "203.0.113.1"), 1500)

    def test_links_without_addresses_send_from_loopback_s(self) -> None:
        addresses = [address(LO, "203.0.113.1/32")]
        found = choose(host(self.LINKS, addresses, [default(ETH1)]), InterfaceChoice())
        assert (chosen(found), found.mtu) == (("eth1", "203.0.113.1"), 9000)

    def test_an_own_address_that_can_be_reached_may_be_there(self) -> None:
        own = IPv4Address("203.0.113.1")
        surroundings = host(
            self.LINKS, [*ADDRESSES, address(LO, f"{own}/32")], [default(ETH0)],
            Way(LO, None, own, local=True),
        )  # fmt: skip
        found = choose(surroundings, InterfaceChoice(can_reach=own))
        assert chosen(found) == ("eth0", "203.0.113.1")

    def test_the_link_follows_the_default_route_and_no_other_does(self) -> None:
        addresses = [*ADDRESSES, address(LO, "203.0.113.1/32")]
        choice = InterfaceChoice(names=["203.0.113.1"])
        used = choose(host(self.LINKS, addresses, [default(ETH0)]), choice)
        both = host(self.LINKS, addresses, [default(ETH0, 600), default(ETH1, 50)])
        assert choose(both, choice, NOTHING, Past(used=used)).name == "eth0"
        moved = host(self.LINKS, addresses, [default(ETH1, 50)])
        assert choose(moved, choice, NOTHING, Past(used=used)).name == "eth1"
