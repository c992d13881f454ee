"""flannel explain: the steps of a packet, and where it ends."""

import errno
from ipaddress import IPv4Address

import pytest
from fake_context import DOCKER0, MAC, PEER_HOST, PEER_TUNNEL, TUNNEL, World
from fake_host import HOST

from flannel.cli.context import DaemonDown
from flannel.errors import StoreUnavailable
from flannel.kernel.entries import Fdb, Neighbour
from flannel.kernel.links import Link, Way

FAR = IPv4Address("10.1.9.2")
NEIGHBOUR = Neighbour(PEER_TUNNEL.packed, TUNNEL.index, MAC)
FDB = Fdb(MAC, TUNNEL.index, PEER_HOST.packed)
DOWN = DaemonDown("cannot ask flanneld: Connection refused")


def steps(world: World, *argv: str, status: int = 0) -> list[tuple[str, str]]:
    """Names and texts."""
    done = world.run("explain", *(argv or [str(FAR)]), "--json")
    assert done.status == status
    found = done.document["steps"]
    assert any(each["ends"] for each in found) == bool(status)
    return [(each["name"], each["text"]) for each in found]


def test_a_packet_of_a_container_is_followed_onto_the_wire(world: World) -> None:
    assert steps(world) == [
        ("packet", "10.1.5.2 -> 10.1.9.2"),
        ("lease", "10.1.9.0/24 of 192.0.2.9, backend vxlan"),
        ("route", "via 10.1.9.0 dev flannel.1, MTU 1450, coming in by docker0"),
        ("firewall", "accepted: no rule forbids it"),
        ("masquerade", "no: the other side sees 10.1.5.2"),
        ("neighbour", "10.1.9.0 is at 02:00:00:00:00:09"),
        ("FDB", "02:00:00:00:00:09 is behind 192.0.2.9"),
        ("outer", "UDP 192.0.2.1 -> 192.0.2.9 port 8472, VNI 1, dev eth0"),
    ]


def test_for_people_each_step_is_a_line(world: World) -> None:
    done = world.run("explain", str(FAR))
    assert done.status == 0
    assert done.lines[1] == "lease       10.1.9.0/24 of 192.0.2.9, backend vxlan"
    assert len(done.lines) == 8


def test_a_packet_of_this_host_meets_no_rules_for_forwarding(world: World) -> None:
    world.filter(policy="DROP")
    names = [name for name, _ in steps(world, str(FAR), "--source", "192.0.2.1")]
    assert names == ["packet", "lease", "route", "neighbour", "FDB", "outer"]


def test_without_subnet_env_there_is_no_source(world: World) -> None:
    world.env_file.unlink()
    assert steps(world)[0][0] == "lease"


class TestWhereItEnds:
    def test_a_host_that_does_not_forward_drops_it(self, world: World) -> None:
        world.set_sysctl("ip_forward", 0)
        assert ("forwarding", "net.ipv4.ip_forward is 0: dropped") in steps(world, status=1)

    def test_the_rule_that_drops_a_packet_is_named(self, world: World) -> None:
        world.filter("-A FORWARD -i docker0 -j DROP")
        assert dict(steps(world, status=1))["firewall"].startswith("dropped by ")

    def test_a_rule_that_drops_all_but_pings_is_named(self, world: World) -> None:
        world.filter("-A FORWARD -p icmp -j ACCEPT", policy="DROP")
        found = [text for name, text in steps(world, status=1) if name == "firewall"]
        assert found[0].startswith("TCP dropped by ")
        assert found[1].startswith("ping accepted by ")

    def test_a_firewall_that_could_not_be_read_makes_the_verdict_unsure(self, world: World) -> None:
        world.filter(policy="DROP")
        world.programs.install("nft")  # and it refuses
        found = dict(steps(world))
        assert "(perhaps: the firewall could not be read as a whole)" in found["firewall"]
        assert found["not seen"] == "cannot list the rules with nft: nft: refused"

    def test_a_rule_that_cannot_be_understood_makes_the_verdict_unsure(self, world: World) -> None:
        rule = "-A FORWARD -m mystery --what -j DROP"
        world.filter(rule)
        assert dict(steps(world))["firewall"] == (
            "accepted by policy accept of iptables filter FORWARD (perhaps: dropped by iptables "
            f"filter FORWARD: {rule}, which has a condition that flannel does not understand)"
        )
        world.filter("-A FORWARD -m mystery --what -j ACCEPT")
        assert "perhaps" not in dict(steps(world))["firewall"]

    def test_the_kernel_routes_what_comes_in_by_the_bridge_in_its_own_way(
        self, world: World
    ) -> None:
        world.netlink.forwarded[FAR, DOCKER0.index] = Way(2, IPv4Address("192.0.2.254"), None)
        assert dict(steps(world))["route"] == (
            "via 192.0.2.254 dev eth0, MTU 1500, coming in by docker0"
        )
        world.netlink.forwarded[FAR, DOCKER0.index] = errno.EACCES
        assert steps(world, status=1)[-1] == (
            "route",
            "dropped, coming in by docker0: a route or policy rule prohibits it",
        )
        world.netlink.forwarded[FAR, DOCKER0.index] = errno.EHOSTUNREACH
        world.set_sysctl("conf/docker0/forwarding", 0)
        assert steps(world, status=1)[-1] == (
            "forwarding",
            "net.ipv4.conf.docker0.forwarding is 0: dropped",
        )

    def test_no_route_leads_there(self, world: World) -> None:
        world.netlink.ways.clear()
        assert steps(world, status=1)[-1] == (
            "route",
            "none: the sender gets the error that the network is unreachable",
        )

    def test_an_address_of_this_host_is_the_end_of_the_way(self, world: World) -> None:
        world.netlink.ways[FAR] = Way(1, None, FAR, local=True)
        assert steps(world)[-1] == ("route", "the address is this host's own: delivered here")

    def test_the_neighbour_is_missing(self, world: World) -> None:
        world.tables.damage(NEIGHBOUR)
        assert steps(world, status=1)[-1] == (
            "neighbour",
            "10.1.9.0 has no MAC on flannel.1: dropped",
        )

    def test_the_fdb_entry_is_missing(self, world: World) -> None:
        world.tables.damage(FDB)
        assert steps(world, status=1)[-1] == (
            "FDB",
            "02:00:00:00:00:09 is not known on flannel.1: dropped",
        )

    def test_no_route_leads_to_the_peer_s_host(self, world: World) -> None:
        del world.netlink.ways[PEER_HOST]
        assert steps(world, status=1)[-1] == ("outer", "there is no route to 192.0.2.9: dropped")

    def test_the_outer_packet_is_dropped(self, world: World) -> None:
        world.filter("-A OUTPUT -p udp --dport 8472 -j DROP")
        name, text = steps(world, status=1)[-1]
        assert name == "firewall"
        assert text.startswith("outer packet dropped by ")


class TestOurOwnGuard:
    """Its rules are not judged with the others', so that what it drops is named apart."""

    @pytest.fixture(autouse=True)
    def guarded(self, world: World) -> None:
        world.filter(":FLANNEL-IN - [0:0]", "-A FLANNEL-IN -m rpfilter --invert -j DROP",
                     table="raw")  # fmt: skip
        world.netlink.ways[IPv4Address("10.1.5.2")] = Way(DOCKER0.index, None, None)

    def guard(self, world: World, *argv: str, status: int = 0) -> str:
        return dict(steps(world, *(argv or [str(FAR)]), status=status)).get("guard", "")

    def test_a_container_of_this_host_passes(self, world: World) -> None:
        assert self.guard(world) == ""
        assert self.guard(world, str(FAR), "--source", "192.0.2.1") == ""

    def test_a_source_of_another_host_is_dropped(self, world: World) -> None:
        assert self.guard(world, str(FAR), "--source", "10.1.7.2", status=1) == (
            "dropped by flanneld's own guard (tx_spoofed): 10.1.7.2 is not of this host's subnet "
            "10.1.5.0/24"
        )

    def test_a_packet_that_is_masqueraded_passes_our_guard(self, world: World) -> None:
        world.filter(":FLANNEL-IN - [0:0]", "-A FLANNEL-IN -m rpfilter --invert -j DROP", "COMMIT",
                     "*nat", ":POSTROUTING ACCEPT [0:0]", "-A POSTROUTING -j MASQUERADE",
                     table="raw")  # fmt: skip
        assert self.guard(world, str(FAR), "--source", "172.20.0.2") == ""

    def test_with_routes_to_hosts_only_the_overlay_s_addresses_are_looked_at(
        self, world: World
    ) -> None:
        world.netlink.ways[FAR] = Way(2, PEER_HOST, HOST)
        world.netlink.ways[IPv4Address("172.20.0.2")] = Way(DOCKER0.index, None, None)
        assert self.guard(world, str(FAR), "--source", "172.20.0.2") == ""
        assert self.guard(world, str(FAR), "--source", "10.1.7.2", status=1) != ""
        world.netlink.ways[IPv4Address("8.8.8.8")] = Way(2, PEER_HOST, HOST)
        assert self.guard(world, "8.8.8.8", "--source", "10.1.7.2") == ""

    def test_a_subnet_that_no_bridge_has_is_dropped_for_certain_or_perhaps(
        self, world: World
    ) -> None:
        source = IPv4Address("10.1.5.2")
        del world.netlink.ways[source]
        assert "no route to 10.1.5.2 by a link of containers" in self.guard(world, status=1)
        world.netlink.ways[source] = Way(2, PEER_HOST, None)
        assert self.guard(world).endswith(
            "unless it comes in by eth0, by which this host reaches 10.1.5.2"
        )

    def test_without_a_guard_explain_does_not_mention_it(self, world: World) -> None:
        world.filter()
        assert self.guard(world, str(FAR), "--source", "10.1.7.2") == ""


def test_masquerade_is_shown_with_its_rule(world: World) -> None:
    world.filter("-A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE", table="nat")
    text = dict(steps(world))["masquerade"]
    assert text.startswith("yes, by ")
    assert text.endswith(": the other side sees this host's address")


def test_the_outer_packet_is_shown_with_its_gateway(world: World) -> None:
    world.netlink.ways[PEER_HOST] = Way(2, IPv4Address("192.0.2.254"), None)
    assert steps(world)[-1][1].endswith("VNI 1, via 192.0.2.254 dev eth0")


def test_a_link_that_is_not_known_by_name_has_a_number(world: World) -> None:
    world.netlink.ways[FAR] = Way(77, None, None)
    assert dict(steps(world))["route"] == "dev link 77, coming in by docker0"


def test_with_udp_flanneld_reads_it(world: World) -> None:
    world.netlink.add(Link(7, "flannel0", "tun", 1472, True, ""))
    world.netlink.ways[FAR] = Way(7, None, None)
    assert steps(world)[-1] == (
        "tunnel",
        "flanneld reads it from flannel0 and sends it in UDP to the host of the lease",
    )


class TestTheLease:
    def test_a_subnet_that_nobody_holds_is_the_end(self, world: World) -> None:
        world.netlink.ways[IPv4Address("10.1.8.2")] = Way(2, None, None)
        found = dict(steps(world, "10.1.8.2", status=1))
        assert found["lease"] == "none: no host holds the subnet of 10.1.8.2"

    @pytest.mark.parametrize("is_running", [True, False])
    def test_an_address_outside_the_overlay_has_no_lease(
        self, world: World, is_running: bool
    ) -> None:
        world.netlink.ways[IPv4Address("8.8.8.8")] = Way(2, None, None)
        if not is_running:
            world.pages = DOWN
        found = dict(steps(world, "8.8.8.8"))
        assert found["lease"] == "none: 8.8.8.8 is not in the overlay"

    def test_without_etcd_flanneld_names_the_lease(self, world: World) -> None:
        world.store.refusal = StoreUnavailable("cannot list leases: refused")
        note = " (cannot list leases: refused; as flanneld last saw them)"
        assert dict(steps(world))["lease"] == f"10.1.9.0/24 of 192.0.2.9, backend vxlan{note}"

    def test_without_both_it_is_not_known(self, world: World) -> None:
        world.store.refusal = StoreUnavailable("cannot list leases: refused")
        world.pages = DOWN
        assert dict(steps(world))["lease"] == "not known: cannot list leases: refused"
