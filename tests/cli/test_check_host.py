"""flannel check: what is found on this host."""

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from fake_context import DOCKER0, PEER, PEER_HOST, TUNNEL, World

from flannel.cli.context import DaemonDown
from flannel.kernel.links import Link, Way
from flannel.kernel.rtmessages import FoundRoute

MARKED = "-A FORWARD -j MARK --set-xmark 0x10000000/0x10000000"


def findings(world: World) -> dict[str, str]:
    """What was found, by its kind."""
    return {
        each["finding"]: each["what"] for each in world.run("check", "--json").document["findings"]
    }


class TestFirewall:
    @pytest.mark.parametrize(
        ("rule", "packet"),
        [
            ("-A FORWARD -i docker0 -j DROP", "10.1.5.2 -> 10.1.9.2"),
            ("-A FORWARD -i flannel.1 -j DROP", "10.1.9.2 -> 10.1.5.2"),
            ("-A FORWARD -p icmp -s 10.1.5.0/24 -j DROP", "10.1.5.2 -> 10.1.9.2"),
        ],
    )
    def test_a_rule_that_drops_what_containers_send_is_found(
        self, world: World, rule: str, packet: str
    ) -> None:
        world.filter(rule)
        assert findings(world).keys() == {"forward-drop"}
        assert findings(world)["forward-drop"].endswith(f"drops {packet}")

    def test_without_peers_an_address_of_the_network_is_used_instead(self, world: World) -> None:
        world.store.remove(PEER)
        world.filter(policy="DROP")
        assert findings(world)["forward-drop"].endswith("10.1.5.2 -> 10.1.255.254")

    def test_a_rule_that_is_not_understood_is_a_warning_if_it_may_drop(self, world: World) -> None:
        drop = "-A FORWARD -m mystery --what -j DROP"
        world.filter(drop)
        assert findings(world) == {
            "forward-unsure": "10.1.5.2 -> 10.1.9.2 may be dropped by iptables filter FORWARD: "
            f"{drop}, which has a condition that flannel does not understand"
        }
        assert world.run("check").status == 0
        accept = "-A FORWARD -m mystery --what -j ACCEPT"
        world.filter(accept, policy="DROP")
        assert findings(world)["forward-unsure"].endswith(
            "may be dropped by policy drop of iptables filter FORWARD, which depends on a "
            f"condition of iptables filter FORWARD: {accept}"
        )
        for harmless in (
            accept,
            "-A FORWARD -m mystery --what",
            f"{drop.replace(' -m', ' -p 6 -m')}",
        ):
            world.filter("-A FORWARD -s 10.1.0.0/16 -j ACCEPT", harmless, policy="DROP")
            assert findings(world) == {}
        world.filter("-A INPUT -p udp -m mystery -j DROP", "-A OUTPUT -p udp -m mystery -j DROP")
        assert findings(world).keys() == {"input-unsure", "output-unsure"}

    def test_each_peer_s_packets_are_judged(self, world: World) -> None:
        for number in (10, 11):
            world.lease(number, backend_data={"VtepMAC": f"02:00:00:00:00:{number}"})
        rules = [f"-A FORWARD -d 10.1.{number}.0/24 -j DROP" for number in (10, 11)]
        world.filter(*rules)
        found = world.run("check", "--json").document["findings"]
        texts = [each["what"] for each in found if each["finding"] == "forward-drop"]
        assert texts == [
            f"iptables filter FORWARD: {rule} drops 10.1.5.2 -> 10.1.{number}.2"
            for rule, number in zip(rules, (10, 11), strict=True)
        ]
        world.filter(policy="DROP")
        text = findings(world)["forward-drop"]
        assert text.endswith("drops 10.1.5.2 -> 10.1.9.2, and likewise of 2 more peers")

    def test_a_bridge_that_has_the_lease_s_address_is_the_containers(self, world: World) -> None:
        world.netlink.add(replace(DOCKER0, name="br-net"))
        world.filter("-A FORWARD -i docker0 -j DROP")
        assert findings(world) == {}
        world.filter("-A FORWARD -i br-net -j DROP")
        assert findings(world).keys() == {"forward-drop"}

    def test_a_rule_that_drops_the_tunnel_s_packets_is_found(self, world: World) -> None:
        world.filter("-A INPUT -p udp --dport 8472 -j DROP")
        text = findings(world)["input-drop"]
        assert text.endswith("drops UDP port 8472 from 192.0.2.9")

    def test_a_rule_that_drops_what_the_tunnel_sends_is_found(self, world: World) -> None:
        world.filter("-A OUTPUT -p udp --dport 8472 -j DROP")
        text = findings(world)["output-drop"]
        assert text.endswith("drops UDP port 8472 to 192.0.2.9")

    def test_a_closed_port_is_not_a_fault_of_a_backend_without_a_port(self, world: World) -> None:
        world.store.configure('{"Network": "10.1.0.0/16", "Backend": {"Type": "host-gw"}}')
        world.filter("-A INPUT -j DROP")
        assert "input-drop" not in findings(world)

    def test_rules_of_others_with_the_guard_s_bit_are_named(self, world: World) -> None:
        world.filter(MARKED)
        assert findings(world)["mark-conflict"] == (
            f"iptables: {MARKED} uses bit 0x10000000 of the packet mark"
        )
        world.options.append("-guard-mark=0x20000000")
        assert findings(world) == {}
        world.options.pop()
        world.daemon["firewall"]["guarded"] = False
        assert findings(world) == {}


class TestLinkForwarding:
    def test_a_link_of_containers_or_of_the_overlay_that_does_not_forward_is_found(
        self, world: World
    ) -> None:
        for name, text in (("docker0", "docker0"), ("flannel.1", "flannel/1")):
            world.set_sysctl(f"conf/{name}/forwarding", 0)
            assert findings(world) == {"link-forwarding": f"net.ipv4.conf.{text}.forwarding is 0"}
            world.set_sysctl(f"conf/{name}/forwarding", 1)
        world.set_sysctl("conf/eth0/forwarding", 0)  # what arrives there is for the host itself
        assert findings(world) == {}


class TestDevice:
    def test_a_device_that_is_gone_or_down_is_found(self, world: World) -> None:
        world.netlink.add(replace(TUNNEL, up=False))
        assert findings(world) == {"device-down": "flannel.1 is down"}
        world.netlink.add(replace(TUNNEL, name="renamed"))
        assert findings(world)["device-missing"] == "there is no flannel.1"

    def test_an_interface_with_a_smaller_mtu_than_at_the_start_is_found(self, world: World) -> None:
        world.netlink.add(Link(2, "eth0", "", 1400, True, ""))
        assert findings(world)["interface-mtu"] == (
            "eth0 has MTU 1400, and the overlay was made for 1500"
        )

    @pytest.mark.parametrize("name", ["conf/all/rp_filter", "conf/eth0/rp_filter"])
    def test_a_strict_rp_filter_is_found_where_there_are_two_ways(
        self, world: World, name: str
    ) -> None:
        world.set_sysctl(name, 1)
        assert findings(world) == {}
        direct = '{"Type": "vxlan", "DirectRouting": true}'
        world.store.configure(f'{{"Network": "10.1.0.0/16", "Backend": {direct}}}')
        world.netlink.ways[PEER.network_address + 2] = Way(2, PEER_HOST, None)
        assert findings(world).keys() == {"rp-filter"}
        assert findings(world)["rp-filter"].startswith("rp_filter is 1 on eth0")
        world.set_sysctl(name, 2)
        assert findings(world) == {}


class TestDocker:
    def test_a_bridge_with_another_subnet_is_found(self, world: World) -> None:
        world.netlink.addresses.pop()
        world.netlink.address(DOCKER0.index, "172.17.0.1/16")
        assert findings(world) == {
            "docker0": "docker0 has 172.17.0.1/16, not 10.1.5.1/24 of the lease"
        }

    def test_docker0_may_be_anything_beside_networks_of_hand_over(self, world: World) -> None:
        world.netlink.addresses.pop()
        world.netlink.address(DOCKER0.index, "172.17.0.1/16")
        world.daemon["hand_over"] = ["docker-network=fl"]
        assert findings(world) == {}

    def test_containers_with_a_larger_mtu_are_found(self, world: World) -> None:
        world.netlink.add(Link(9, "veth1", "veth", 1500, True, "", master=DOCKER0.index))
        assert findings(world) == {
            "docker0": "docker0 has containers with MTU 1500, and the overlay carries 1450"
        }

    def test_a_host_without_a_lease_has_no_finding_about_docker0(self, world: World) -> None:
        world.env_file.unlink()
        world.pages = DaemonDown("refused")
        world.netlink.addresses.pop()
        assert findings(world).keys() == {"daemon-down", "no-lease"}  # its own is no peer's


class TestOverlap:
    def test_a_route_of_this_host_into_the_overlay_is_found(self, world: World) -> None:
        world.tables.foreign.append(FoundRoute(IPv4Network("10.1.77.0/24"), None, 2, 0))
        assert findings(world) == {
            "overlap": "this host has route 10.1.77.0/24 dev eth0, which overlaps 10.1.0.0/16"
        }

    def test_an_address_of_this_host_in_the_overlay_is_found(self, world: World) -> None:
        world.netlink.address(2, "10.1.77.7/24")
        assert findings(world)["overlap"].startswith("this host has address 10.1.77.7/24 of eth0")
