"""flannel cleanup: what is found, what is removed, and what stays."""

import errno
from ipaddress import IPv4Address, IPv4Network

import pytest
from fake_context import OWN, PEER, PEER_TUNNEL, TUNNEL, World
from fake_host import HOST

from flannel.cli.context import DaemonDown, DaemonUnseen
from flannel.daemon import identity
from flannel.errors import StoreUnreachable
from flannel.firewall.removal import Part
from flannel.kernel.entries import Route, key
from flannel.kernel.links import Link
from flannel.lease import LeaseAttrs

ROUTE = Route(PEER.network_address.packed, 24, PEER_TUNNEL.packed, TUNNEL.index, True)
TABLE = "nft delete table ip flannel"


@pytest.fixture(autouse=True)
def is_down(world: World) -> None:
    world.pages = DaemonDown("cannot ask flanneld: Connection refused")


@pytest.fixture
def full(world: World) -> World:
    """A host with something of each kind."""
    world.tables.entries.clear()
    world.tables.intrude(ROUTE)
    world.tables.blackholes.add(IPv4Network("10.1.0.0/16"))
    world.netlink.blackholes.add(IPv4Network("10.1.0.0/16"))
    world.nf_tables = {("ip", "flannel"), ("inet", "mine")}
    world.programs.install("nft")
    world.programs.prints[TABLE] = ""
    world.state.mkdir()
    (world.state / "node-id").touch()
    return world


def test_everything_of_ours_is_listed_and_removed_after_a_yes(full: World) -> None:
    full.terminal = "y\n"
    done = full.run("cleanup")
    assert done.status == 0
    assert done.lines == [
        "of ours on this host:",
        "  device flannel.1",
        "  1 routes and nexthops",
        "  blackhole route 10.1.0.0/16",
        "  nftables table ip flannel",
        f"  file {full.env_file}",
        f"  file {full.state / 'node-id'}",
        "removed",
        "the lease stays in etcd until it ends, or: flannel release SUBNET",
    ]
    assert "Remove it? [y/N]" in done.err
    assert {link.name for link in full.netlink.links.values()} == {"eth0", "docker0"}
    assert full.tables.entries == {}
    assert full.netlink.blackholes == set()
    assert TABLE in full.programs.ran
    assert not full.env_file.exists()
    assert not (full.state / "node-id").exists()
    assert OWN in full.store.leases


def test_nothing_is_removed_after_a_no(full: World) -> None:
    full.terminal = "n\n"
    assert full.run("cleanup").status == 1
    assert full.env_file.exists()
    assert TUNNEL.index in full.netlink.links
    assert TABLE not in full.programs.ran


def test_the_document_has_what_was_removed(full: World) -> None:
    document = full.run("cleanup", "--yes", "--json").document
    assert document["removed"][0] == "device flannel.1"
    assert len(document["removed"]) == 6
    assert (document["failed"], document["unread"]) == ([], [])


def test_parts_that_cannot_be_removed_are_named_and_the_rest_is_removed(full: World) -> None:
    full.netlink.refuses["delete_link"] = errno.EBUSY
    full.tables.keeps[key(ROUTE)] = errno.EPERM
    del full.programs.prints[TABLE]
    done = full.run("cleanup", "--yes")
    assert done.status == 1
    failed = done.lines[done.lines.index("NOT removed:") + 1 :]
    assert failed[0] == "  cannot delete link flannel.1: Device or resource busy"
    assert "Operation not permitted" in failed[1]
    assert failed[2] == "  cannot remove nftables table ip flannel: nft: refused"
    assert not full.env_file.exists()


def test_a_file_that_cannot_be_removed_is_named(world: World) -> None:
    world.env_file.unlink()
    world.env_file.mkdir()
    done = world.run("cleanup", "--yes")
    assert done.status == 1
    assert f"  cannot remove {world.env_file}: Is a directory" in done.lines


def test_parts_that_cannot_be_read_are_named_and_are_a_failure(world: World) -> None:
    world.programs.install("iptables")  # and it does not run
    done = world.run("cleanup", "--yes")
    assert done.status == 1
    assert "not seen: cannot run iptables --version: iptables: refused" in done.lines


def test_a_host_without_anything_of_ours_is_left_alone(world: World) -> None:
    del world.netlink.links[TUNNEL.index]
    world.tables.entries.clear()
    world.env_file.unlink()
    world.netlink.add(Link(8, "vxlan7", "vxlan", 1450, True, "", TUNNEL.vxlan))  # another's
    done = world.run("cleanup")
    assert (done.status, done.out) == (0, "there is nothing of ours on this host\n")


def test_a_host_where_flanneld_runs_is_refused(world: World) -> None:
    world.pages = {"/status": {}}
    done = world.run("cleanup", "--yes")
    assert done.status == 2
    assert "flanneld runs" in done.err
    assert world.env_file.exists()


def test_without_the_right_to_ask_flanneld_the_kernel_s_entries_are_listed(world: World) -> None:
    world.pages = DaemonUnseen("cannot ask flanneld: Permission denied")
    world.terminal = "n\n"
    assert "  device flannel.1" in world.run("cleanup").lines


def test_routes_with_our_protocol_number_are_ours_at_any_address(world: World) -> None:
    foreign = Route(IPv4Address("198.51.100.0").packed, 24, PEER_TUNNEL.packed, 2)
    world.tables.entries.clear()
    world.tables.intrude(foreign)
    assert "  1 routes and nexthops" in world.run("cleanup", "--yes").lines


@pytest.fixture
def known(full: World) -> World:
    """The host of `full`, with an identity that its lease names."""
    node_id = identity.renew(full.state)
    full.own = full.store.put(OWN, LeaseAttrs(HOST, "vxlan", None, node_id), 80000)
    full.store.put(IPv4Network("10.1.6.0/24"), LeaseAttrs(HOST, "vxlan", None, node_id), None)
    full.env_file.with_name("docker").touch()
    return full


def test_the_lease_is_released_after_a_second_yes(known: World) -> None:
    known.terminal = "y\ny\n"
    done = known.run("cleanup")
    assert done.status == 0
    assert "10.1.5.0/24 is leased to this host, which has no identity any more." in done.err
    assert done.lines[-2:] == ["removed", f"released {known.own}"]
    # Another host's lease and the reservation of this one stay.
    assert set(known.store.leases) == {PEER, IPv4Network("10.1.6.0/24")}
    assert not known.env_file.with_name("docker").exists()


def test_the_lease_stays_after_a_no_and_without_etcd(known: World) -> None:
    known.terminal = "y\nn\n"
    done = known.run("cleanup")
    assert (done.status, done.lines[-2]) == (0, "removed")
    assert done.lines[-1].startswith("the lease stays in etcd until it ends, or: flannel release")
    assert OWN in known.store.leases


def test_an_etcd_that_does_not_answer_keeps_nothing_on_the_host(known: World) -> None:
    known.store.go_down(StoreUnreachable("etcd does not answer"))
    done = known.run("cleanup", "--yes")
    assert done.status == 0
    assert "until it ends, or: flannel release SUBNET; " in done.lines[-1]
    assert not (known.state / "node-id").exists()


def test_with_keep_lease_the_host_keeps_identity_and_lease(known: World) -> None:
    done = known.run("cleanup", "--yes", "--keep-lease")
    assert done.status == 0
    assert (known.state / "node-id").exists()
    assert not known.env_file.exists()
    assert OWN in known.store.leases


def test_networks_of_hand_over_and_their_empty_bridge_are_removed_as_well(full: World) -> None:
    removed = []

    async def remove() -> None:
        removed.append("network")

    full.handed_over = [Part("docker network fl", remove)]
    full.netlink.add(Link(70, "flannel-br", "bridge", 1450, True, "02:00:00:00:00:70"))
    document = full.run("cleanup", "--yes", "--json").document
    assert document["removed"][0] == "docker network fl"
    assert "device flannel-br" in document["removed"]
    assert removed == ["network"]


def test_a_bridge_with_containers_stays(full: World) -> None:
    full.netlink.add(Link(70, "flannel-br", "bridge", 1450, True, "02:00:00:00:00:70"))
    full.netlink.add(Link(71, "veth1", "veth", 1450, True, "02:00:00:00:00:71", master=70))
    assert "device flannel-br" not in full.run("cleanup", "--yes", "--json").document["removed"]


def test_a_docker_that_does_not_answer_is_named(full: World) -> None:
    full.unseen_recipients = ["docker does not run: there is no /run/docker.pid"]
    done = full.run("cleanup", "--yes")
    assert done.status == 1
    assert "not seen: docker does not run: there is no /run/docker.pid" in done.lines
