"""flannel check: what is found out about the other hosts."""

import errno
from ipaddress import IPv4Address, IPv4Network

import pytest
from fake_context import DOCKER0, MAC, PEER, PEER_HOST, PEER_TUNNEL, World, status_document
from fake_host import HOST

from flannel.cli.context import DaemonDown
from flannel.cli.probe import PortAnswer
from flannel.errors import StoreUnavailable
from flannel.kernel.entries import Fdb, Neighbour
from flannel.kernel.links import Link, Way
from flannel.lease import LeaseAttrs

WHO = "192.0.2.9 (10.1.9.0/24)"
FAR = IPv4Address("10.1.9.2")


def findings(world: World) -> dict[str, str]:
    """What was found, by its kind."""
    return {
        each["finding"]: each["what"] for each in world.run("check", "--json").document["findings"]
    }


def test_a_peer_that_answers_nowhere_is_down(world: World) -> None:
    world.reach.clear()
    assert findings(world) == {
        "peer-down": f"{WHO} answers neither through the overlay nor beside it"
    }


def test_a_vpn_that_takes_the_way_to_a_silent_one_is_named(world: World) -> None:
    world.reach.clear()
    world.netlink.add(Link(9, "tun9", "tun", 1400, True, ""))
    world.netlink.ways[PEER_HOST] = Way(9, None, None)
    assert findings(world) == {
        "peer-down": f"{WHO} answers neither through the overlay nor beside it; packets to "
        "192.0.2.9 leave by tun9, not by eth0"
    }


def test_a_peer_that_answers_beside_the_overlay_only_has_a_filter_at_its_port(
    world: World,
) -> None:
    del world.reach[PEER_TUNNEL]
    assert findings(world) == {
        "peer-port": f"{WHO} answers a ping, but not through the overlay: UDP port 8472 is "
        "filtered one way or both"
    }


def test_a_reservation_whose_host_has_not_come_is_no_fault(world: World) -> None:
    host = IPv4Address("192.0.2.77")
    world.store.put(IPv4Network("10.1.77.0/24"), LeaseAttrs(host), None)
    what = "10.1.77.0/24 is reserved for 192.0.2.77, whose flanneld has not started since"
    for backend in ("vxlan", "host-gw", "udp"):
        world.daemon["backend"] = backend
        assert {"not-started": what}.items() <= findings(world).items()
        world.reach[host] = 1500  # the machine is there, or runs with another subnet
    world.daemon["backend"] = "vxlan"
    done = world.run("check", "--json")
    assert (done.status, done.document["healthy"]) == (0, True)
    world.store.put(IPv4Network("10.1.78.0/24"), LeaseAttrs(PEER_HOST), None)  # it moves
    assert findings(world).keys() == {"not-started"}


def test_with_udp_a_closed_port_is_a_flanneld_that_does_not_run(world: World) -> None:
    world.store.configure('{"Network": "10.1.0.0/16", "Backend": {"Type": "udp"}}')
    world.daemon["backend"] = "udp"
    world.store.put(PEER, LeaseAttrs(PEER_HOST, "", None, "it"), 3600)
    world.netlink.ways[FAR] = Way(4, None, None)  # one route leads to all peers
    del world.reach[PEER_TUNNEL]
    assert "UDP port 8285 is filtered" in findings(world)["peer-port"]
    world.ports[PEER_HOST, 8285] = PortAnswer(refused=True)
    assert findings(world) == {
        "peer-daemon-dead": f"nothing listens at UDP port 8285 of {WHO}: flanneld there is not "
        "running"
    }


def test_a_dead_an_unready_and_a_silent_flanneld_are_distinguished(world: World) -> None:
    world.answers[PEER_TUNNEL] = PortAnswer(refused=True)
    assert findings(world).keys() == {"peer-daemon-dead"}
    world.answers[PEER_TUNNEL] = PortAnswer(ready=False)
    assert findings(world).keys() == {"peer-not-ready"}
    world.answers[PEER_TUNNEL] = PortAnswer()
    assert findings(world).keys() == {"peer-silent"}
    world.answers[PEER_TUNNEL] = PortAnswer(refused=True)
    upstream = LeaseAttrs(PEER_HOST, "vxlan", world.peer.attrs.backend_data)
    world.store.put(PEER, upstream, 3600)  # which answers no probes
    assert findings(world) == {}


def test_a_path_that_loses_large_packets_is_found(world: World) -> None:
    world.reach[PEER_TUNNEL] = 1399
    assert findings(world) == {
        "path-mtu": f"packets of more than 1399 bytes do not get to {WHO}, the overlay's MTU is "
        "1450"
    }
    world.daemon["mtu"] = None  # then nobody knows what a full size is
    assert findings(world) == {}


class TestRoute:
    def test_a_route_that_leads_elsewhere_is_found(self, world: World) -> None:
        world.netlink.ways[FAR] = Way(5, None, None)
        assert findings(world) == {
            "route-missing": f"packets for {WHO} go over docker0, not over flannel.1 via 10.1.9.0"
        }
        world.netlink.ways[FAR] = Way(4, IPv4Address("10.1.8.0"), None)
        assert findings(world)["route-missing"].startswith(
            f"packets for {WHO} go over flannel.1 via 10.1.8.0, not "
        )
        del world.netlink.ways[FAR]
        assert findings(world) == {"route-missing": f"packets for {WHO} go nowhere"}

    def test_with_alloc_it_is_not_ours_to_make(self, world: World) -> None:
        world.store.configure('{"Network": "10.1.0.0/16", "Backend": {"Type": "alloc"}}')
        world.pages = {"/status": {**status_document(world.own), "backend": "alloc"}}
        world.netlink.ways.clear()
        world.netlink.links.pop(4)
        world.daemon["device"] = ""
        assert findings(world) == {}

    def test_without_flanneld_the_device_is_that_of_the_config(self, world: World) -> None:
        world.pages = DaemonDown("refused")
        assert findings(world).keys() == {"daemon-down"}
        world.netlink.ways.clear()
        assert findings(world).keys() == {"daemon-down", "route-missing"}

    def test_where_no_device_is_known_nothing_is_expected(self, world: World) -> None:
        world.pages = DaemonDown("refused")
        world.store.configure("{}")
        world.netlink.ways.clear()
        assert findings(world).keys() == {"daemon-down", "bad-config"}


class TestEntries:
    def test_a_neighbour_or_fdb_entry_that_is_gone_or_another_is_found(self, world: World) -> None:
        mac, other = MAC.hex(":"), bytes((2, 0, 0, 0, 0, 8))
        for damage, repair, text in (
            (Neighbour(PEER_TUNNEL.packed, 4, other), Neighbour(PEER_TUNNEL.packed, 4, MAC),
             f"10.1.9.0 on flannel.1 is at 02:00:00:00:00:08, not at {mac}"),
            (Fdb(MAC, 4, HOST.packed), Fdb(MAC, 4, PEER_HOST.packed),
             f"{mac} is behind 192.0.2.1, not behind 192.0.2.9"),
        ):  # fmt: skip
            world.tables.intrude(damage)
            assert findings(world) == {"entry-changed": f"{WHO}: {text}"}
            world.tables.damage(damage)
            assert findings(world)["entry-changed"].startswith(f"{WHO}: there is no ")
            world.tables.intrude(repair)
        assert findings(world) == {}

    def test_a_lease_that_flanneld_cannot_use_is_left_out(self, world: World) -> None:
        world.store.put(PEER, LeaseAttrs(PEER_HOST, "vxlan"), 3600)
        assert findings(world) == {"left-out": f"{WHO}: its VtepMAC is null, not a MAC address"}

    def test_host_gw_leaves_out_a_peer_behind_a_router(self, world: World) -> None:
        world.store.configure('{"Network": "10.1.0.0/16", "Backend": {"Type": "host-gw"}}')
        world.daemon["backend"], world.daemon["device"] = "host-gw", None
        far = IPv4Address("198.51.100.7")
        world.store.put(PEER, LeaseAttrs(far, "host-gw"), 3600)
        world.reach[far] = 1500
        assert findings(world)["left-out"] == (
            "198.51.100.7 (10.1.9.0/24): 198.51.100.7 is on no network of eth0, and host-gw "
            "reaches only hosts without a router between"
        )
        done = world.run("peers")
        assert (done.status, done.lines[-1].split()[3:5]) == (1, ["left", "out"])


class TestContainers:
    def test_packets_of_containers_that_policy_rules_divert_are_found(self, world: World) -> None:
        world.lease(10, backend_data={"VtepMAC": "02:00:00:00:00:0a"})
        ten = IPv4Address("10.1.10.0")
        world.netlink.ways[ten + 2] = Way(4, ten, None)
        world.tables.intrude(
            Neighbour(ten.packed, 4, b"\2\0\0\0\0\n"),
            Fdb(b"\2\0\0\0\0\n", 4, IPv4Address("192.0.2.10").packed),
        )
        world.reach[ten] = 1450
        assert findings(world) == {}
        for far in (FAR, ten + 2):
            world.netlink.forwarded[far, DOCKER0.index] = Way(2, IPv4Address("192.0.2.254"), None)
        assert findings(world)["container-route"] == (
            f"packets for {WHO} and 1 more that come in by docker0 leave over eth0 via "
            "192.0.2.254, not over flannel.1"
        )

    @pytest.mark.parametrize(
        ("number", "strict", "kind", "why"),
        [
            (errno.ENETUNREACH, 0, "container-route", "there is no route"),
            (errno.EACCES, 0, "container-route", "a route or policy rule prohibits it"),
            (errno.EINVAL, 0, "container-route", "a route or policy rule drops it"),
            (errno.EINVAL, 1, "source-refused",
             "rp_filter is 1 on flannel.1, and the route to 10.1.9.2 leads elsewhere"),
        ],
    )  # fmt: skip
    def test_packets_for_containers_that_the_kernel_drops_are_found(
        self, world: World, number: int, strict: int, kind: str, why: str
    ) -> None:
        world.netlink.forwarded[IPv4Address("10.1.5.2"), 4] = number
        world.set_sysctl("conf/flannel.1/rp_filter", strict)
        assert findings(world) == {
            kind: f"packets from {WHO} for containers here that come in by flannel.1 are dropped: "
            f"{why}"
        }


class TestMisfits:
    def test_a_lease_of_another_size_is_not_of_this_network(self, world: World) -> None:
        world.store.remove(PEER)
        lease = world.store.put(IPv4Network("10.1.64.0/20"), world.peer.attrs, 3600)
        world.reach[lease.subnet.network_address] = 1450
        assert findings(world)["peer-not-ready"] == (
            "192.0.2.9 (10.1.64.0/20) is not of this network: its lease is not a /24 of 10.1.0.0/16"
        )

    def test_a_reservation_of_an_earlier_network_is_no_fault_once_its_host_has_moved(
        self, world: World
    ) -> None:
        world.store.put(IPv4Network("10.9.7.0/24"), world.peer.attrs, None)
        assert findings(world) == {
            "not-started": "10.9.7.0/24 is still reserved for 192.0.2.9, which has another subnet "
            "now: its lease is not a /24 of 10.1.0.0/16"
        }
        world.reach[IPv4Address("10.9.7.0")] = 1450
        world.store.remove(PEER)
        assert findings(world).keys() == {"peer-not-ready"}

    def test_a_lease_of_another_backend_is_not_of_this_network(self, world: World) -> None:
        world.store.put(PEER, LeaseAttrs(PEER_HOST, "host-gw"), 3600)
        assert findings(world) == {
            "peer-not-ready": f"{WHO} is not of this network: its lease is of backend host-gw, "
            "not vxlan"
        }


def test_no_peer_is_examined_without_etcd_and_flanneld(world: World) -> None:
    world.store.refusal = StoreUnavailable("refused")
    world.pages = DaemonDown("refused")
    assert findings(world)["unseen"] == ("the peers: neither etcd nor flanneld lists them")


def test_a_route_that_cannot_be_looked_up_is_named(world: World) -> None:
    world.netlink.refuses["find_way"] = errno.EPERM
    assert "Operation not permitted" in findings(world)["unseen"]
