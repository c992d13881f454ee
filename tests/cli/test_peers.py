"""flannel peers: which hosts are probed, and what is made of their answers."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from fake_context import OWN, PEER, PEER_HOST, PEER_TUNNEL, World, status_document

from flannel.cli.context import DaemonDown
from flannel.cli.peers import Peer
from flannel.cli.probe import PortAnswer
from flannel.errors import StoreUnavailable
from flannel.lease import LeaseAttrs

DOWN = DaemonDown("cannot ask flanneld: Connection refused")


def only(world: World) -> dict[str, object]:
    """The document of the only peer."""
    [found] = world.run("peers", "--json").document["peers"]
    assert isinstance(found, dict)
    return found


def test_a_peer_that_answers_has_a_row_and_all_is_well(world: World) -> None:
    done = world.run("peers")
    assert done.status == 0
    head, row = (line.split() for line in done.lines)
    assert head == ["SUBNET", "HOST", "BACKEND", "STATE", "RTT", "ms", "MTU"]
    assert row[:4] + row[5:] == [str(PEER), str(PEER_HOST), "vxlan", "ready", "1450"]


def test_the_document_has_all_of_it(world: World) -> None:
    found = only(world)
    assert isinstance(found.pop("rtt"), float)
    assert found == {
        "subnet": str(PEER), "public_ip": str(PEER_HOST), "address": str(PEER_TUNNEL),
        "backend": "vxlan", "is_ours": True, "ttl": 70000, "underlay_rtt": None, "mtu": 1450,
        "full_size": True, "probe": {"ready": True, "refused": False}, "state": "ready",
        "is_awaited": False, "left_out": "",
    }  # fmt: skip


def test_a_host_that_a_subnet_is_reserved_for_has_time(world: World) -> None:
    world.store.put(IPv4Network("10.1.77.0/24"), LeaseAttrs(IPv4Address("192.0.2.77")), None)
    done = world.run("peers")
    assert done.status == 0
    assert "not started yet" in done.lines[-1]


@pytest.mark.parametrize(
    ("answer", "node_id", "state"),
    [
        (PortAnswer(ready=False), "it", "not ready"),
        (PortAnswer(refused=True), "it", "flanneld is dead"),
        (PortAnswer(refused=True), "", "reachable"),  # upstream's, which answers no probes
        (PortAnswer(), "it", "reachable"),
    ],
)
def test_the_answer_of_its_flanneld_is_the_state_of_a_peer(
    world: World, answer: PortAnswer, node_id: str, state: str
) -> None:
    data = world.peer.attrs.backend_data
    world.store.put(PEER, LeaseAttrs(PEER_HOST, "vxlan", data, node_id), 3600)
    world.answers[PEER_TUNNEL] = answer
    assert only(world)["state"] == state


def test_a_peer_that_answers_only_beside_the_overlay_is_distinguished_from_a_dead_one(
    world: World,
) -> None:
    del world.reach[PEER_TUNNEL]
    found = only(world)
    assert found["state"] == "not through the overlay"
    assert (found["rtt"], found["mtu"], found["full_size"]) == (None, None, None)
    assert found["underlay_rtt"] is not None
    del world.reach[PEER_HOST]
    assert only(world)["state"] == "unreachable"
    assert world.run("peers").status == 1


def test_the_largest_packet_that_gets_there_is_searched_for(world: World) -> None:
    world.reach[PEER_TUNNEL] = 1399
    found = only(world)
    assert (found["mtu"], found["full_size"], found["state"]) == (1399, False, "ready")


def test_only_some_of_many_such_peers_are_searched(world: World) -> None:
    for number in range(100, 112):
        lease = world.lease(number)
        world.reach[lease.subnet.network_address] = 1400
    found = [each["mtu"] for each in world.run("peers", "--json").document["peers"]]
    assert found.count(1400) == 8
    assert found.count(None) == 4


def test_the_public_address_is_pinged_and_no_probe_sent_where_there_is_no_tunnel(
    world: World,
) -> None:
    world.store.configure('{"Network": "10.1.0.0/16", "Backend": {"Type": "host-gw"}}')
    world.daemon["backend"] = "host-gw"
    world.store.put(PEER, LeaseAttrs(PEER_HOST, "host-gw"), 3600)
    found = only(world)
    assert (found["address"], found["probe"], found["state"]) == (str(PEER_HOST), None, "reachable")


def test_leases_of_this_host_are_not_peers(world: World) -> None:
    world.store.put(IPv4Network("10.1.6.0/24"), LeaseAttrs(IPv4Address("192.0.2.1")), None)
    assert only(world)["subnet"] == str(PEER)
    world.pages = DOWN
    world.store.remove(IPv4Network("10.1.6.0/24"))
    assert only(world)["subnet"] == str(PEER)


def test_a_host_alone_has_no_peers_and_no_fault(world: World) -> None:
    world.store.remove(PEER)
    done = world.run("peers")
    assert (done.status, len(done.lines)) == (0, 1)


def test_with_probe_port_0_flanneld_is_not_asked(world: World) -> None:
    world.options.append("-probe-port=0")
    assert only(world)["probe"] is None


@pytest.mark.parametrize("is_running", [True, False])
def test_the_leases_of_alloc_are_not_taken_for_udp_s(world: World, is_running: bool) -> None:
    world.store.configure('{"Network": "10.1.0.0/16", "Backend": {"Type": "alloc"}}')
    world.store.put(PEER, LeaseAttrs(PEER_HOST), 3600)
    if is_running:
        world.pages = {"/status": {**status_document(world.own), "backend": "alloc"}}
    else:
        world.pages = DOWN
    found = only(world)
    assert (found["backend"], found["address"]) == ("alloc", str(PEER_HOST))


def test_without_etcd_flanneld_names_the_peers_and_that_is_noted(world: World) -> None:
    world.store.refusal = StoreUnavailable("cannot list leases: refused")
    done = world.run("peers")
    assert done.status == 0
    assert done.lines[1].startswith(str(PEER))
    assert done.lines[2] == "cannot list leases: refused; as flanneld last saw them"


def test_peers_fails_without_etcd_and_flanneld(world: World) -> None:
    world.store.refusal = StoreUnavailable("cannot list leases: refused")
    world.pages = DOWN
    assert world.run("peers").status == 1


def test_without_flanneld_and_subnet_env_nothing_is_known_of_the_mtu(world: World) -> None:
    world.pages = DOWN
    world.env_file.unlink()
    world.store.remove(OWN)
    world.store.configure("{")
    found = only(world)
    assert (found["mtu"], found["full_size"]) == (None, None)


def test_a_flanneld_that_has_no_lease_yet_names_no_own_subnet(world: World) -> None:
    world.pages = {"/status": status_document(None)}
    assert len(world.run("peers", "--json").document["peers"]) == 2


def test_a_document_of_a_peer_is_json() -> None:
    peer = Peer("10.1.9.0/24", "192.0.2.9", "10.1.9.0", "vxlan", False, None, 1.5, None, None,
                None, PortAnswer(True))  # fmt: skip
    assert peer.document()["probe"] == {"ready": True, "refused": False}
