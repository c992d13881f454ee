"""flannel hand-back: what upstream's daemon finds afterwards."""

import errno
from ipaddress import IPv4Address, IPv4Network

import pytest
from fake_context import TUNNEL, World

from flannel.cli.context import DaemonDown
from flannel.firewall.iptables import TABLES
from flannel.kernel.entries import Nexthop, Route, key, routed
from flannel.kernel.links import Link
from flannel.run_lock import RunLock

DST, VIA = IPv4Network("10.1.9.0/24"), IPv4Address("192.0.2.9")
NEXTHOP, ROUTE = routed(DST, VIA, 2, nexthops=True)
CLASSIC = Route(DST.network_address.packed, 24, VIA.packed, 2, protocol=3)
TABLE = "nft delete table ip flannel"
TUN = Link(8, "flannel0", "tun", 1472, True, "", alias="flannel")


@pytest.fixture(autouse=True)
def is_down(world: World) -> None:
    world.pages = DaemonDown("cannot ask flanneld: Connection refused")


@pytest.fixture
def full(world: World) -> World:
    """A host with something of each kind."""
    world.netlink.add(TUN)
    world.tables.intrude(NEXTHOP, ROUTE)
    world.tables.blackholes.add(IPv4Network("10.1.5.0/24"))
    world.netlink.blackholes.add(IPv4Network("10.1.5.0/24"))
    world.nf_tables = {("ip", "flannel"), ("inet", "mine")}
    world.programs.install("nft")
    world.programs.prints[TABLE] = ""
    return world


def test_upstreams_form_takes_the_place_of_ours_and_what_it_uses_stays(full: World) -> None:
    done = full.run("hand-back")
    assert done.status == 0, done.err
    assert done.lines == [
        "handed back: 1 routes, without 1 nexthops",
        "handed back: device flannel0",
        "handed back: blackhole route 10.1.5.0/24",
        "handed back: nftables table ip flannel",
        "start the other daemon now: nobody guards the overlay or masquerades for it",
    ]
    left = [each for each in full.tables.entries.values() if isinstance(each, Nexthop | Route)]
    assert left == [CLASSIC]
    # The route is replaced, and never missing.
    assert [what for what, entry in full.tables.writes if isinstance(entry, Route)] == ["put"]
    assert {link.name for link in full.netlink.links.values()} == {"eth0", "docker0", TUNNEL.name}
    assert full.netlink.blackholes == set()
    assert full.env_file.exists()


def test_the_chain_that_accepts_packets_stays_and_the_others_are_removed(world: World) -> None:
    world.programs.install_iptables("iptables", "nf_tables")
    saved = dict.fromkeys(TABLES, "")
    saved["filter"] = (
        "*filter\n:FORWARD DROP [0:0]\n:FLANNEL-FWD - [0:0]\n"
        "-A FORWARD -j FLANNEL-FWD\n-A FLANNEL-FWD -s 10.1.0.0/16 -j ACCEPT\nCOMMIT\n"
    )
    saved["nat"] = (
        "*nat\n:POSTROUTING ACCEPT [0:0]\n:FLANNEL-POSTRTG - [0:0]\n"
        "-A POSTROUTING -j FLANNEL-POSTRTG\nCOMMIT\n"
    )
    for table, text in saved.items():
        world.programs.prints[f"iptables-save -t {table}"] = text
    world.programs.prints["iptables-restore --noflush -w"] = ""
    restore = next(iter(_restored(world)), "")
    assert "FLANNEL-POSTRTG" in restore
    assert "FLANNEL-FWD" not in restore


def _restored(world: World) -> list[str]:
    """What iptables-restore got."""
    world.run("hand-back")
    ran = zip(world.programs.ran, world.programs.stdin, strict=True)
    return [text for command, text in ran if command.startswith("iptables-restore")]


def test_a_nexthop_stays_whose_route_cannot_be_replaced(full: World) -> None:
    full.tables.refuses[key(CLASSIC)] = errno.ENETUNREACH
    done = full.run("hand-back", "--json")
    assert done.status == 1
    assert "Network is unreachable" in done.document["failed"][0]
    assert NEXTHOP in full.tables.entries.values()
    assert ROUTE in full.tables.entries.values()


def test_while_a_flanneld_runs_nothing_is_handed_back(full: World) -> None:
    full.claims = {"flannel.1": "process 7"}
    done = full.run("hand-back")
    assert done.status == 2
    assert "cannot hand this host back: flanneld, process 7, with flannel.1, runs" in done.err
    full.claims = {}
    lock = RunLock(full.env_file.parent, full.state)
    lock.take()
    assert "another flanneld, process" in full.run("hand-back").err
    lock.release()
    assert ROUTE in full.tables.entries.values()
