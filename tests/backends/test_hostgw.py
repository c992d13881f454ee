"""host-gw: a route a peer, over the external interface. A kernel in memory."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from fake_kernel import FakeNetlink, FakeTables

from flannel.backends import check_config, make_backend
from flannel.backends.hostgw import HostGwNetwork
from flannel.errors import BadLease, BadNetworkConfig
from flannel.firewall.rules import Guard
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Nexthop, Route, key
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

CONFIG = NetworkConfig.from_json('{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}')
ADDRESS = IPv4Address("192.0.2.1")
INTERFACE = ExternalInterface(
    3, "eth0", 1500, ADDRESS, ADDRESS,
    (IPv4Interface("192.0.2.1/24"), IPv4Interface("203.0.113.1/28")),
)  # fmt: skip
SUBNET = IPv4Network("10.5.2.0/24")
OWN = Lease(IPv4Network("10.5.1.0/24"), LeaseAttrs(ADDRESS, "host-gw"))


def peer(address: str = "192.0.2.2", backend: str = "host-gw") -> Lease:
    return Lease(SUBNET, LeaseAttrs(IPv4Address(address), backend))


def start(tables: FakeTables) -> HostGwNetwork:
    backend = make_backend(CONFIG, INTERFACE, Kernel(FakeNetlink(), tables))
    served = asyncio.run(backend.start(OWN))
    assert isinstance(served, HostGwNetwork)
    return served


def test_host_gw_publishes_the_address_that_peers_route_to() -> None:
    backend = make_backend(CONFIG, INTERFACE, Kernel(FakeNetlink(), FakeTables()))
    assert asyncio.run(backend.lease_attrs("n1")) == LeaseAttrs(ADDRESS, "host-gw", node_id="n1")
    assert check_config(CONFIG) is None


def test_host_gw_is_refused_behind_nat() -> None:
    nat = replace(INTERFACE, public_ip=IPv4Address("198.51.100.1"))
    with pytest.raises(BadNetworkConfig, match=r"198\.51\.100\.1 is not the address of eth0"):
        make_backend(CONFIG, nat, Kernel(FakeNetlink(), FakeTables()))


def test_the_network_has_no_device_and_the_whole_mtu() -> None:
    served = start(FakeTables())
    assert (served.device, served.mtu) == ("", 1500)
    assert served.guard == Guard("", "eth0", routed=True)
    assert served.trouble() == ""
    assert served.counters() == {}
    asyncio.run(served.run())


@pytest.mark.parametrize("has_nexthops", [True, False])
@pytest.mark.parametrize("address", ["192.0.2.2", "203.0.113.14"])
def test_a_peer_on_the_link_is_one_route(has_nexthops: bool, address: str) -> None:
    tables = FakeTables(has_nexthops=has_nexthops)
    served = start(tables)
    asyncio.run(served.apply({SUBNET: peer(address)}))
    via, id_ = IPv4Address(address).packed, int(SUBNET.network_address) if has_nexthops else 0
    route = Route(SUBNET.network_address.packed, 24, via, 3, False, id_)
    assert tables.of_kind(Route) == [route]
    assert len(tables.of_kind(Nexthop)) == int(has_nexthops)
    assert served.holds(key(route)) == route
    asyncio.run(served.apply({}, [SUBNET]))
    assert tables.entries == {}


def test_a_peer_behind_a_router_is_refused_and_the_link_named() -> None:
    why = r"203\.0\.113\.16 is on no network of eth0, and host-gw reaches only hosts without a"
    with pytest.raises(BadLease, match=why):
        list(start(FakeTables()).plan(peer("203.0.113.16")))


@pytest.mark.parametrize(("backend", "named"), [("", "udp"), ("vxlan", "vxlan")])
def test_a_lease_of_another_backend_is_refused(backend: str, named: str) -> None:
    with pytest.raises(BadLease, match=f"its backend is {named}, not host-gw"):
        list(start(FakeTables()).plan(peer(backend=backend)))


def test_routes_of_an_earlier_run_are_removed_and_others_routes_stay() -> None:
    tables = FakeTables()
    stale = Route(bytes((10, 5, 9, 0)), 24, bytes((192, 0, 2, 9)), 3)
    others = [
        Route(bytes((10, 6, 9, 0)), 24, bytes((192, 0, 2, 9)), 3),
        Route(bytes((10, 5, 8, 0)), 24, bytes((192, 0, 2, 9)), 3, protocol=3),
    ]
    tables.intrude(stale, *others)
    asyncio.run(start(tables).apply({}))
    assert list(tables.entries.values()) == others
