"""Which interface is chosen: on values."""

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from surrounding_values import (
    ADDRESSES,
    DOCKER0,
    ETH0,
    ETH1,
    LO,
    address,
    chosen,
    default,
    host,
    ips,
    link,
    route,
)

from flannel.errors import NoInterface
from flannel.kernel.interface import ExternalInterface, InterfaceChoice
from flannel.kernel.interface_choice import Overlay, Past, choose
from flannel.kernel.links import Address, Link, VxlanSettings, Way
from flannel.network_config import NetworkConfig

CONFIG = NetworkConfig.from_json('{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}')
NOTHING = Overlay()
OVERLAY = Overlay(CONFIG, [IPv4Network("10.1.7.0/24")])


class TestWhatTheOperatorAsksFor:
    """Names in order, then patterns against addresses and names, then the way to an address."""

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            (InterfaceChoice(names=["eth1"]), ("eth1", "198.51.100.7")),
            (InterfaceChoice(names=["198.51.100.8"]), ("eth1", "198.51.100.8")),
            (InterfaceChoice(names=["eth9", "eth0"]), ("eth0", "192.0.2.7")),
            (InterfaceChoice(names=["eth9"], patterns=[re.compile("^eth1")]),
             ("eth1", "198.51.100.7")),
            (InterfaceChoice(patterns=[re.compile(r"^198\.51\.")]), ("eth1", "198.51.100.7")),
            (InterfaceChoice(patterns=[re.compile(r"100\.8$")]), ("eth1", "198.51.100.8")),
            (InterfaceChoice(patterns=[re.compile("nothing"), re.compile("eth")]),
             ("eth0", "192.0.2.7")),
        ],
    )  # fmt: skip
    def test_addresses_are_preferred_to_names_and_names_to_patterns(
        self, choice: InterfaceChoice, expected: tuple[str, str]
    ) -> None:
        assert chosen(choose(host(), choice)) == expected

    def test_a_name_is_not_a_part_of_a_name(self) -> None:
        with pytest.raises(NoInterface, match="none is called or has address eth "):
            choose(host(), InterfaceChoice(names=["eth"]))

    def test_the_next_name_is_used_while_the_first_is_down_or_without_a_carrier(self) -> None:
        choice = InterfaceChoice(names=["eth0", "eth1"])
        assert choose(host([link(ETH0, "eth0", up=False)]), choice).name == "eth1"
        assert choose(host([link(ETH0, "eth0", carrier=False)]), choice).name == "eth1"

    def test_a_link_without_a_carrier_is_used_where_there_is_no_other(self) -> None:
        found = choose(host([link(ETH0, "eth0", carrier=False)]), InterfaceChoice(names=["eth0"]))
        assert found.name == "eth0"

    def test_the_way_to_an_address_gives_link_and_source(self) -> None:
        way = Way(ETH1, IPv4Address("198.51.100.1"), IPv4Address("198.51.100.8"))
        choice = InterfaceChoice(can_reach=IPv4Address("203.0.113.1"))
        assert chosen(choose(host(way=way), choice)) == ("eth1", "198.51.100.8")

    def test_the_way_to_an_own_address_is_the_link_that_has_it(self) -> None:
        own = IPv4Address("198.51.100.8")
        found = choose(host(way=Way(LO, None, own, local=True)), InterfaceChoice(can_reach=own))
        assert chosen(found) == ("eth1", "198.51.100.8")

    def test_without_a_way_nothing_is_found(self) -> None:
        choice = InterfaceChoice(can_reach=IPv4Address("203.0.113.1"))
        with pytest.raises(NoInterface, match=r"reaches 203\.0\.113\.1"):
            choose(host(routes=[default(ETH0)]), choice)

    def test_the_public_address_may_be_a_router_s(self) -> None:
        choice = InterfaceChoice(names=["eth0"], public_ip=IPv4Address("203.0.113.5"))
        found = choose(host(), choice)
        assert (str(found.address), str(found.public_ip)) == ("192.0.2.7", "203.0.113.5")

    @pytest.mark.parametrize(
        ("links", "addresses", "reason"),
        [
            ([link(ETH0, "eth0", up=False)], ADDRESSES, "cannot use interface eth0: it is down"),
            ([], [address(ETH1, "198.51.100.7/24")], "interface eth0: it has no IPv4 address$"),
            ([link(ETH0, "eth0", master=9), link(9, "br0", "bridge")],
             [address(9, "192.0.2.7/24")], "it has no IPv4 address; it is a port of br0"),
        ],
    )  # fmt: skip
    def test_the_reason_against_a_link_is_named(
        self, links: list[Link], addresses: list[Address], reason: str
    ) -> None:
        with pytest.raises(NoInterface, match=reason):
            choose(host(links, addresses), InterfaceChoice(names=["eth0"]))


class TestTheDefaultRoute:
    """It decides where the operator asks for nothing."""

    def test_the_lowest_metric_decides(self) -> None:
        routes = [default(ETH0, 600), default(ETH1, 100), route("10.0.0.0/8", DOCKER0)]
        assert choose(host(routes=routes), InterfaceChoice()).name == "eth1"

    def test_among_equal_metrics_the_kernels_first_route_decides(self) -> None:
        routes = [default(ETH1, 100), default(ETH0, 100)]
        assert choose(host(routes=routes), InterfaceChoice()).name == "eth1"

    def test_without_one_there_is_nothing_to_choose(self) -> None:
        with pytest.raises(NoInterface, match="no default route"):
            choose(host(routes=[route("10.0.0.0/8", ETH0)]), InterfaceChoice())

    def test_routes_to_the_two_halves_of_all_addresses_are_not_a_default_route(self) -> None:
        halves = [route("0.0.0.0/1", ETH1), route("128.0.0.0/1", ETH1)]
        assert choose(host(routes=[*halves, default(ETH0, 600)]), InterfaceChoice()).name == "eth0"

    def test_the_next_best_is_used_while_the_best_link_has_no_address(self) -> None:
        only_ipv6 = [address(ETH0, "192.0.2.7/24")]
        routes = [default(ETH1, 100), default(ETH0, 600)]
        assert choose(host(addresses=only_ipv6, routes=routes), InterfaceChoice()).name == "eth0"

    def test_the_hop_that_is_up_is_used_of_several(self) -> None:
        routes = [default(ETH0, more=(ETH1,))]
        assert choose(host(routes=routes), InterfaceChoice()).name == "eth0"
        down = host([link(ETH0, "eth0", up=False)], routes=routes)
        assert choose(down, InterfaceChoice()).name == "eth1"

    @pytest.mark.parametrize(
        ("addresses", "expected"),
        [
            ([address(ETH1, "192.0.2.8/24"), address(DOCKER0, "172.17.0.1/16")], ("eth1",)),
            ([address(ETH1, "192.0.2.8/32")], ("eth1",)),
            ([address(ETH1, "198.51.100.7/24")], ()),
            ([address(DOCKER0, "192.0.2.8/24")], ()),
        ],
        ids=["same network", "floating", "other network", "bridge for containers"],
    )
    def test_links_to_the_same_network_are_its_siblings(
        self, addresses: list[Address], expected: tuple[str, ...]
    ) -> None:
        here = host(addresses=[address(ETH0, "192.0.2.7/24"), *addresses], routes=[default(ETH0)])
        found = choose(here, InterfaceChoice())
        assert found.uplinks == ("eth0", *expected)

    def test_to_an_address_of_loopback_every_default_route_s_link_leads(self) -> None:
        addresses = [*ADDRESSES, address(LO, "203.0.113.1/32")]
        routes = [default(ETH0, source="203.0.113.1"), default(ETH1, 900)]
        found = choose(host(addresses=addresses, routes=routes), InterfaceChoice())
        assert (str(found.address), found.uplinks) == ("203.0.113.1", ("eth0", "eth1"))

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("br0", "bridge"), ("bond0", "bond"), ("eth0.7", "vlan"), ("wg0", "wireguard"),
         ("tun0", "tun"), ("ppp0", "ppp"), ("virbr0", "bridge"), ("vxlan7", "vxlan")],
    )  # fmt: skip
    def test_links_of_other_makers_carry_the_overlay(self, name: str, kind: str) -> None:
        surroundings = host([link(9, name, kind)], [address(9, "192.0.2.9/24")], [default(9)])
        assert chosen(choose(surroundings, InterfaceChoice(), OVERLAY)) == (name, "192.0.2.9")


class TestTheOverlay:
    """What flanneld or a container engine made never carries the overlay."""

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("flannel.1", "vxlan"), ("flannel.0", "vxlan"), ("flannel.4096", "vxlan"),
            ("flannel0", "tun"), ("flannel1", "tun"), ("flannel.ipip", "ipip"),
            ("flannel-wg", "wireguard"), ("docker0", "bridge"), ("docker_gwbridge", "bridge"),
            ("br-0123456789ab", "bridge"), ("cni0", "bridge"), ("podman0", "bridge"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("how", ["name", "address", "pattern", "reach", "default", "home"])
    def test_links_of_the_overlay_are_refused_however_they_are_asked_for(
        self, name: str, kind: str, how: str
    ) -> None:
        own = IPv4Address("169.254.122.15")
        choice, past, way = InterfaceChoice(), Past(), None
        match how:
            case "name":
                choice = InterfaceChoice(names=[name])
            case "address":
                choice = InterfaceChoice(names=[str(own)])
            case "pattern":
                choice = InterfaceChoice(patterns=[re.compile(r"^169\.254")])
            case "reach":
                choice = InterfaceChoice(can_reach=IPv4Address("203.0.113.1"))
                way = Way(9, None, own)
            case "home":
                past = Past(home={own})
        surroundings = host(
            [link(9, name, kind)], [address(9, f"{own}/16")], [default(9, via=None)], way
        )
        with pytest.raises(NoInterface, match=f"cannot use interface {name}: it "):
            choose(surroundings, choice, NOTHING, past)

    def test_our_device_is_refused_under_any_name(self) -> None:
        vxlan = VxlanSettings(1, ETH0, None, 8472, learning=False, gbp=False)
        renamed = replace(link(9, "eth9", "vxlan"), vxlan=vxlan, alias="flannel")
        surroundings = host([renamed], [address(9, "169.254.1.2/16")], [default(9)])
        with pytest.raises(NoInterface, match="eth9: it belongs to the overlay"):
            choose(surroundings, InterfaceChoice(), NOTHING)

    def test_a_pattern_that_fits_them_as_well_finds_the_others(self) -> None:
        links = [link(9, "flannel.1", "vxlan"), link(10, "eth2")]
        addresses = [address(9, "10.1.7.0/32"), address(10, "10.200.0.3/24")]
        choice = InterfaceChoice(patterns=[re.compile(r"^10\.")])
        assert choose(host(links, addresses), choice, OVERLAY).name == "eth2"
        choice = InterfaceChoice(patterns=[re.compile("^(docker|flannel|eth2)")])
        assert choose(host(links, addresses), choice, OVERLAY).name == "eth2"

    def test_a_poor_default_route_over_the_own_device_does_not_count(self) -> None:
        device = link(9, "flannel.1", "vxlan")
        addresses = [*ADDRESSES, address(9, "10.1.7.0/32"), address(9, "169.254.1.2/16")]
        routes = [default(9, 1003, via=None, source="169.254.1.2")]
        with pytest.raises(NoInterface, match=r"flannel\.1: it belongs to the overlay"):
            choose(host([device], addresses, routes), InterfaceChoice(), OVERLAY)
        both = host([device], addresses, [*routes, default(ETH0, 2000)])
        assert choose(both, InterfaceChoice(), OVERLAY).name == "eth0"

    def test_a_bridge_of_the_own_lease_is_refused_under_any_name(self) -> None:
        bridge = host(
            [link(9, "containers", "bridge")],
            [address(9, "192.0.2.9/24"), address(9, "10.1.7.1/24")],
            [default(9)],
        )
        with pytest.raises(NoInterface, match=r"containers: it has address 10\.1\.7\.1/24 of the"):
            choose(bridge, InterfaceChoice(), OVERLAY)
        assert choose(bridge, InterfaceChoice(), NOTHING).name == "containers"

    def test_a_link_whose_only_address_is_leasable_is_refused(self) -> None:
        surroundings = host([link(9, "eth2")], [address(9, "10.1.9.9/24")], [default(9)])
        with pytest.raises(
            NoInterface, match=r"of its addresses, 10\.1\.9\.9, none can be that of"
        ):
            choose(surroundings, InterfaceChoice(), OVERLAY)

    def test_an_address_beside_it_is_published_instead(self) -> None:
        addresses = [address(ETH0, "10.1.9.9/24"), address(ETH0, "192.0.2.7/24")]
        found = choose(host([], addresses, [default(ETH0)]), InterfaceChoice(), OVERLAY)
        assert chosen(found) == ("eth0", "192.0.2.7")
        assert found.networks == (IPv4Interface("192.0.2.7/24"),)

    def test_an_address_inside_the_network_but_never_leased_is_published(self) -> None:
        text = '{"Network": "10.0.0.0/8", "SubnetMin": "10.1.0.0", "SubnetMax": "10.9.255.0"}'
        overlay = Overlay(NetworkConfig.from_json(text))
        for own in ("10.200.0.7", "10.0.0.7"):
            addresses = [address(ETH0, f"{own}/24")]
            found = choose(host([], addresses, [default(ETH0)]), InterfaceChoice(), overlay)
            assert str(found.public_ip) == own

    def test_a_public_address_among_the_leasable_is_refused(self) -> None:
        choice = InterfaceChoice(names=["eth0"], public_ip=IPv4Address("10.1.200.1"))
        with pytest.raises(NoInterface, match=r"public address 10\.1\.200\.1: it is among the"):
            choose(host(), choice, OVERLAY)


class TestThePast:
    """A working interface is kept even if another looks better."""

    USED = ExternalInterface(
        ETH0, "eth0", 1500, IPv4Address("192.0.2.7"), IPv4Address("192.0.2.7"),
        (IPv4Interface("192.0.2.7/24"),),
    )  # fmt: skip
    PAST = Past(used=USED)
    VPN = (default(ETH1, 50), default(ETH0, 600))

    def test_a_better_default_route_is_not_followed(self) -> None:
        assert choose(host(routes=self.VPN), InterfaceChoice(), NOTHING, self.PAST) == self.USED

    def test_the_loss_of_the_used_default_route_moves_nothing(self) -> None:
        surroundings = host(routes=self.VPN[:1])
        assert choose(surroundings, InterfaceChoice(), NOTHING, self.PAST) == self.USED
        assert choose(host(), InterfaceChoice(), NOTHING, self.PAST) == self.USED

    def test_another_way_to_the_address_to_reach_moves_nothing(self) -> None:
        way = Way(ETH1, None, IPv4Address("198.51.100.7"))
        choice = InterfaceChoice(can_reach=IPv4Address("203.0.113.1"))
        assert choose(host(way=way), choice, NOTHING, self.PAST) == self.USED

    def test_a_new_mtu_is_taken_over(self) -> None:
        surroundings = host([link(ETH0, "eth0", mtu=1400)], routes=self.VPN)
        assert choose(surroundings, InterfaceChoice(), NOTHING, self.PAST).mtu == 1400

    @pytest.mark.parametrize(
        ("links", "addresses"),
        [
            ([link(ETH0, "eth0", up=False)], ADDRESSES),
            ([link(ETH0, "eth0", carrier=False)], ADDRESSES),
            ([], ADDRESSES[1:]),
            ([], [address(ETH0, "192.0.2.77/24"), *ADDRESSES[1:]]),
        ],
        ids=["link down", "no carrier", "address gone", "another address"],
    )
    def test_a_link_that_fails_is_left(self, links: list[Link], addresses: list[Address]) -> None:
        surroundings = host(links, addresses, self.VPN)
        assert choose(surroundings, InterfaceChoice(), NOTHING, self.PAST).name == "eth1"

    def test_an_address_that_moves_to_a_bridge_above_is_followed(self) -> None:
        links = [link(ETH0, "eth0", master=9), link(9, "br0", "bridge")]
        addresses = [address(9, "192.0.2.7/24"), address(9, "192.0.2.100/32")]
        surroundings = host(links, addresses, [default(9)])
        found = choose(surroundings, InterfaceChoice(), NOTHING, self.PAST)
        assert chosen(found) == ("br0", "192.0.2.7")

    def test_a_link_local_address_in_use_gives_way_to_a_global_one_of_the_link(self) -> None:
        used = replace(self.USED, address=IPv4Address("169.254.1.2"))
        past = Past(used, [used.address], [used.address])
        addresses = [address(ETH0, "169.254.1.2/16"), *ADDRESSES[1:]]
        alone = host(addresses=addresses, routes=self.VPN)
        assert chosen(choose(alone, InterfaceChoice(), NOTHING, past)) == ("eth0", "169.254.1.2")
        both = host(addresses=[*addresses, address(ETH0, "192.0.2.7/24")], routes=self.VPN)
        assert chosen(choose(both, InterfaceChoice(), NOTHING, past)) == ("eth0", "192.0.2.7")

    def test_home_decides_at_the_start_before_the_default_route(self) -> None:
        past = Past(home=ips("192.0.2.7"))
        assert choose(host(routes=self.VPN), InterfaceChoice(), NOTHING, past).name == "eth0"

    def test_a_home_link_that_is_down_does_not_decide(self) -> None:
        past = Past(home=ips("192.0.2.7"))
        down = host([link(ETH0, "eth0", up=False)], routes=self.VPN)
        assert choose(down, InterfaceChoice(), NOTHING, past).name == "eth1"

    def test_a_used_interface_that_the_network_leases_now_is_left(self) -> None:
        config = NetworkConfig.from_json('{"Network": "192.0.0.0/16"}')
        with pytest.raises(NoInterface, match="none can be that of a host beside this network"):
            choose(host(addresses=ADDRESSES[:1]), InterfaceChoice(), Overlay(config), self.PAST)
