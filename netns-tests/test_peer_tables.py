"""Peers' leases in the real kernel's tables: written, compared, repaired, removed."""

import asyncio
import logging
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest
from peer_host import (
    CONFIG,
    NOTHING,
    PEER_2,
    Host,
    apply,
    fdb,
    host_gw_peer,
    mac,
    nexthops,
    overlay_routes,
    peers,
    state,
    vxlan_peer,
)
from private_network import ip, private_network, run

from flannel.backends.hostgw import HostGwNetwork
from flannel.kernel.entries import Nexthop
from flannel.kernel.monitor import QUIET, Hint, Monitor, Watched
from flannel.kernel.rtnetlink import RtNetlink
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig


@pytest.fixture
def host() -> Iterator[Host]:
    with private_network(), RtNetlink() as tables:
        yield Host(tables)


@pytest.fixture(params=["nexthop objects", "classic routes"])
def either_form(request: pytest.FixtureRequest, host: Host) -> Host:
    """A host whose kernel knows nexthop objects, and one that passes for an older kernel."""
    host.tables.has_nexthops = request.param == "nexthop objects"
    return host


def test_a_vxlan_peer_is_a_route_a_neighbour_and_a_forwarding_entry(either_form: Host) -> None:
    apply(either_form.vxlan(), vxlan_peer(2))
    assert state() == PEER_2
    assert len(nexthops()) == int(either_form.tables.has_nexthops)


def test_a_removed_lease_takes_everything_along(either_form: Host) -> None:
    network = either_form.vxlan()
    apply(network, vxlan_peer(2), vxlan_peer(3))
    apply(network, vxlan_peer(2), changed=[3])
    assert state() == PEER_2
    apply(network, changed=[2])
    assert state() == NOTHING
    assert nexthops() == []


def test_a_peer_with_a_new_mac_leaves_no_old_forwarding_entry(either_form: Host) -> None:
    network = either_form.vxlan()
    apply(network, vxlan_peer(2, vtep=9))
    apply(network, vxlan_peer(2), changed=[2])
    assert state() == PEER_2


def test_a_peer_that_moved_to_another_host_is_followed(either_form: Host) -> None:
    network = either_form.vxlan()
    apply(network, vxlan_peer(2, host=77))
    apply(network, vxlan_peer(2), changed=[2])
    assert state() == PEER_2


@pytest.mark.parametrize(
    "damage",
    [
        "ip route del 10.5.2.0/24",
        "ip route replace 10.5.2.0/24 via 192.0.2.9",
        "ip neigh del 10.5.2.0 dev flannel.1",
        f"ip neigh replace 10.5.2.0 lladdr {mac(66)} dev flannel.1 nud permanent",
        f"bridge fdb del {mac(2)} dev flannel.1",
        f"bridge fdb replace {mac(2)} dev flannel.1 dst 192.0.2.66 self permanent",
        f"bridge fdb add {mac(66)} dev flannel.1 dst 192.0.2.66 self permanent",
        "ip neigh add 10.5.66.0 lladdr 02:00:00:00:00:66 dev flannel.1 nud permanent",
        "ip route add 10.5.66.0/24 via 10.5.66.0 dev flannel.1 onlink",
        "ip route add 10.5.66.0/24 via 192.0.2.66 proto 102",
        "ip neigh flush dev flannel.1 nud permanent",
        "ip link set flannel.1 down",
    ],
)
def test_a_full_comparison_reverts_changes_by_others(either_form: Host, damage: str) -> None:
    network = either_form.vxlan()
    apply(network, vxlan_peer(2))
    run(*damage.split())
    ip("link set flannel.1 up")  # links are the device module's part
    apply(network, vxlan_peer(2))
    assert state() == PEER_2
    assert len(nexthops()) == int(either_form.tables.has_nexthops)


def test_a_removed_nexthop_is_restored_with_its_route(host: Host) -> None:
    network = host.vxlan()
    apply(network, vxlan_peer(2))
    ip(f"nexthop del id {int(IPv4Address('10.5.2.0'))}")
    assert overlay_routes() == []
    apply(network, vxlan_peer(2))
    assert state() == PEER_2


@pytest.mark.parametrize("flush_first", [True, False])
def test_nexthops_that_are_flushed_during_a_comparison_are_restored_with_their_routes(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flush_first: bool
) -> None:
    network, leases = host.vxlan(), [vxlan_peer(2), vxlan_peer(3)]
    apply(network, *leases)
    before = overlay_routes(), nexthops()
    list_nexthops = host.tables.list_nexthops

    def list_and_flush() -> list[tuple[Nexthop, int]]:
        if flush_first:
            ip("nexthop flush")
        found = list_nexthops()
        ip("nexthop flush")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(host.tables, "list_nexthops", list_and_flush)
        apply(network, *leases)
    apply(network, *leases)  # the hint of the flush calls for another
    assert (overlay_routes(), nexthops()) == before
    assert caplog.text == ""


def test_entries_of_departed_peers_are_removed_at_start(either_form: Host) -> None:
    apply(either_form.vxlan(), vxlan_peer(2), vxlan_peer(3), vxlan_peer(4))
    apply(either_form.vxlan(), vxlan_peer(2))
    assert state() == PEER_2


def test_entries_of_upstreams_daemon_are_taken_over(either_form: Host) -> None:
    for number in (2, 3):  # peer 3 has left since
        ip(f"route add 10.5.{number}.0/24 via 10.5.{number}.0 dev flannel.1 onlink")
        ip(f"neigh add 10.5.{number}.0 lladdr {mac(number)} dev flannel.1 nud permanent")
        run("bridge", "fdb", "add", mac(number), "dev", "flannel.1", "dst", f"192.0.2.{number}",
            "self", "permanent")  # fmt: skip
    apply(either_form.vxlan(), vxlan_peer(2))
    assert state() == PEER_2


def test_foreign_entries_are_left_alone(either_form: Host) -> None:
    ip("route add 10.9.0.0/16 via 192.0.2.9 proto 102")  # our protocol, not our network
    ip("route add 10.5.9.0/24 via 192.0.2.9")  # our network, somebody's route
    ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent")
    ip("nexthop add id 5 via 192.0.2.9 dev eth0")
    before = ip("route show"), ip("neigh show"), ip("nexthop show")
    network = either_form.vxlan()
    apply(network, vxlan_peer(2))
    apply(network)
    assert (ip("route show"), ip("neigh show"), ip("nexthop show")) == before


def test_an_unchanged_set_is_not_written_again(
    either_form: Host, caplog: pytest.LogCaptureFixture
) -> None:
    network = either_form.vxlan()
    caplog.set_level(logging.DEBUG, "flannel.kernel.peer_tables")
    apply(network, vxlan_peer(2), vxlan_peer(3))
    assert "wrote" in caplog.text
    caplog.clear()
    apply(network, vxlan_peer(2), vxlan_peer(3))
    apply(network, vxlan_peer(2), vxlan_peer(3), changed=[2, 3])
    apply(either_form.vxlan(), vxlan_peer(2), vxlan_peer(3))
    assert caplog.text == ""


def test_a_nexthop_id_that_another_program_uses_is_not_touched(host: Host) -> None:
    number = int(IPv4Address("10.5.2.0"))
    ip(f"nexthop add id {number} via 192.0.2.9 dev eth0")
    before = nexthops()
    network = host.vxlan()
    apply(network, vxlan_peer(2))
    assert state() == PEER_2
    assert nexthops() == before
    apply(network)
    assert state() == NOTHING
    assert nexthops() == before


def test_the_first_of_two_hosts_with_one_mac_keeps_its_traffic(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    network = host.vxlan()
    apply(network, vxlan_peer(2))
    apply(network, vxlan_peer(2), vxlan_peer(3, vtep=2), changed=[3])
    assert fdb() == [f"{mac(2)} dst 192.0.2.2 self permanent"]
    assert "cannot serve lease 10.5.3.0/24 of 192.0.2.3 in full" in caplog.text
    apply(network, vxlan_peer(3, vtep=2), changed=[2])
    assert fdb() == [f"{mac(2)} dst 192.0.2.3 self permanent"]


@pytest.mark.parametrize(
    "data",
    [None, 5, [], {}, {"VtepMAC": None}, {"VtepMAC": 7}, {"VtepMAC": "02:00:00:00:00"},
     {"VtepMAC": "02:00:00:00:00:00:00:01"}, {"VtepMAC": "01:00:5e:00:00:01"},
     {"VtepMAC": "ff:ff:ff:ff:ff:ff"}, {"VtepMAC": "00:00:00:00:00:00"},
     {"VtepMAC": "02-00:00-00:00-02"}, {"VtepMAC": "zz:00:00:00:00:02"}],
)  # fmt: skip
def test_a_peer_without_a_usable_mac_is_named_once_and_the_others_are_served(
    host: Host, caplog: pytest.LogCaptureFixture, data: object
) -> None:
    bad = Lease(IPv4Network("10.5.3.0/24"), LeaseAttrs(IPv4Address("192.0.2.3"), "vxlan", data))
    network = host.vxlan()
    apply(network, bad, vxlan_peer(2))
    apply(network, bad, vxlan_peer(2))
    assert state() == PEER_2
    assert caplog.text.count("cannot use lease 10.5.3.0/24 of 192.0.2.3: its VtepMAC is") == 1


def test_peers_with_another_backend_are_left_out(host: Host) -> None:
    apply(host.vxlan(), vxlan_peer(2), host_gw_peer(3))
    assert state() == PEER_2
    apply(host.host_gw(), vxlan_peer(2), host_gw_peer(3))
    assert overlay_routes() == ["10.5.3.0/24 via 192.0.2.3 dev eth0 proto 102"]


def test_direct_routing_bypasses_the_tunnel_for_peers_on_the_link(either_form: Host) -> None:
    far = LeaseAttrs(IPv4Address("198.51.100.3"), "vxlan", {"VtepMAC": mac(3)})
    apply(
        either_form.vxlan(direct_routing=True),
        vxlan_peer(2),
        Lease(IPv4Network("10.5.3.0/24"), far),
    )
    assert overlay_routes() == [
        "10.5.2.0/24 via 192.0.2.2 dev eth0 proto 102",
        "10.5.3.0/24 via 10.5.3.0 dev flannel.1 proto 102 onlink",
    ]
    assert fdb() == [f"{mac(3)} dst 198.51.100.3 self permanent"]


def test_a_host_gw_peer_is_one_route(either_form: Host) -> None:
    network = either_form.host_gw()
    apply(network, host_gw_peer(2))
    assert overlay_routes() == ["10.5.2.0/24 via 192.0.2.2 dev eth0 proto 102"]
    apply(network, host_gw_peer(2, "192.0.2.55"), changed=[2])
    assert overlay_routes() == ["10.5.2.0/24 via 192.0.2.55 dev eth0 proto 102"]
    apply(network, changed=[2])
    assert overlay_routes() == []
    assert nexthops() == []


def test_two_subnets_behind_one_host_gw_peer_are_removed_separately(host: Host) -> None:
    network = host.host_gw()
    apply(network, host_gw_peer(2), host_gw_peer(3, "192.0.2.2"))
    apply(network, host_gw_peer(2), changed=[3])
    assert overlay_routes() == ["10.5.2.0/24 via 192.0.2.2 dev eth0 proto 102"]


def test_a_host_gw_peer_behind_a_router_is_named_and_the_others_are_served(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    apply(host.host_gw(), host_gw_peer(2), host_gw_peer(3, "198.51.100.3"))
    assert overlay_routes() == ["10.5.2.0/24 via 192.0.2.2 dev eth0 proto 102"]
    assert "198.51.100.3 is on no network of eth0" in caplog.text


def test_a_refused_entry_is_named_once_and_tried_again(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    network = host.host_gw()
    ip("addr del 192.0.2.1/24 dev eth0")
    apply(network, host_gw_peer(2))
    apply(network, host_gw_peer(2))
    assert caplog.text.count("cannot add nexthop") == 1
    ip("addr add 192.0.2.1/24 dev eth0")
    apply(network, host_gw_peer(2))
    assert overlay_routes() == ["10.5.2.0/24 via 192.0.2.2 dev eth0 proto 102"]


def test_some_thousand_peers_are_all_there_and_all_gone(host: Host) -> None:
    config = NetworkConfig.from_json('{"Network":"10.0.0.0/8"}')
    network = HostGwNetwork(config, host.interface, host.kernel)
    subnets = [IPv4Network(((10 << 24) + (n << 8), 24)) for n in range(256, 3256)]
    attrs = LeaseAttrs(IPv4Address("192.0.2.2"), "host-gw")
    asyncio.run(network.apply({each: Lease(each, attrs) for each in subnets}))
    own = host.tables.list_own(config.network)
    assert len(own) == 2 * len(subnets)
    assert sum(isinstance(entry, Nexthop) for entry in own) == len(subnets)
    asyncio.run(network.apply({}))
    assert host.tables.list_own(config.network) == []


def test_an_entry_that_somebody_keeps_changing_rests_and_others_are_restored(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("flannel.kernel.repairs.monotonic", lambda: now)
    network, served = host.vxlan(), [vxlan_peer(n) for n in (2, 3, 4)]
    repairs = host.kernel.repairs
    apply(network, *served)
    whole = overlay_routes()
    for _ in range(6):
        ip("route del 10.5.2.0/24")
        apply(network, *served)
        assert overlay_routes() == whole
        repairs.commit("flannel.1")
    ip("route del 10.5.2.0/24")
    ip("route del 10.5.3.0/24")
    apply(network, *served)
    assert [line.split()[0] for line in overlay_routes()] == ["10.5.3.0/24", "10.5.4.0/24"]
    repairs.commit("flannel.1")
    assert repairs.total == 7
    now += 2
    apply(network, *served)
    assert overlay_routes() == whole
    repairs.commit("flannel.1")
    assert repairs.total == 8
    # A lease that goes takes its entries along, fought over or not.
    apply(network, *served[1:], changed=[2])
    assert [line.split()[0] for line in overlay_routes()] == ["10.5.3.0/24", "10.5.4.0/24"]


def test_only_changes_by_others_lead_to_a_comparison(either_form: Host) -> None:
    network, hints = either_form.vxlan(), list[Hint]()
    watched = Watched(CONFIG.network, "flannel.1", "eth0", network.holds)
    steps = (
        peers(vxlan_peer(2), vxlan_peer(3), vxlan_peer(4)),
        peers(vxlan_peer(2), vxlan_peer(3, host=5, vtep=5)),
        peers(vxlan_peer(2)),
    )

    async def scenario() -> None:
        told = asyncio.Event()

        def on_hint(hint: Hint) -> None:
            hints.append(hint)
            told.set()

        await network.apply({})
        with Monitor(either_form.tables.port) as monitor:
            monitor.watch(watched, on_hint)
            for served in steps:
                await network.apply(served, [IPv4Network(f"10.5.{n}.0/24") for n in (2, 3, 4)])
                await asyncio.sleep(2 * QUIET)
            assert hints == []
            ip("neigh del 10.5.2.0 dev flannel.1")
            await asyncio.wait_for(told.wait(), 100)

    asyncio.run(scenario())
    assert hints[0] == Hint.OVERLAY
