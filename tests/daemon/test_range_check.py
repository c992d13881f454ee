"""range_check: networks that are refused on this host before anything is touched."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from fake_host import ETH0, FakeHost
from managers import OTHER, net

from flannel.daemon.range_check import check_range
from flannel.errors import NetworkInUse
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.rtmessages import FoundRoute
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

CONFIG = NetworkConfig.from_json('{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}')
MINE = Lease(net("10.5.4.0/24"), LeaseAttrs(ETH0.public_ip, "vxlan"))


class Host(FakeHost):
    """A host, and the leases in the store.

    :ivar asked: how often the store was asked for them.
    """

    def __init__(self, *leases: Lease) -> None:
        super().__init__()
        self.leases, self.asked = leases, 0

    async def known(self) -> tuple[Lease, ...]:
        self.asked += 1
        return self.leases

    def check(
        self,
        config: NetworkConfig = CONFIG,
        interface: ExternalInterface = ETH0,
        own: tuple[IPv4Network, ...] = (),
    ) -> None:
        asyncio.run(check_range(self.kernel, config, interface, own, self.known))

    def route(self, dst: str, via: str) -> None:
        self.tables.foreign.append(FoundRoute(IPv4Network(dst), IPv4Address(via), 2, 0))


def test_a_range_that_is_free_is_taken_without_asking_the_store() -> None:
    host = Host()
    host.route("10.0.0.0/8", "192.0.2.254")
    host.check()
    assert host.asked == 0


def test_a_route_in_the_way_is_named() -> None:
    host = Host()
    host.route("10.5.4.0/24", "192.0.2.9")
    reason = r"network 10\.5\.0\.0/16 on this host: it has route 10\.5\.4\.0/24 via 192\.0\.2\.9"
    with pytest.raises(NetworkInUse, match=reason):
        host.check()
    assert host.asked == 1


def test_a_wide_route_is_in_the_way_of_udp_alone() -> None:
    host = Host()
    host.route("10.5.0.0/16", "192.0.2.9")
    host.check()
    with pytest.raises(NetworkInUse, match="it has route"):
        host.check(replace(CONFIG, backend_type="udp"))


def test_the_subnet_of_this_host_is_not_a_conflict() -> None:
    host = Host(MINE)
    host.netlink.address(2, "10.5.4.1/24")
    host.check(own=(MINE.subnet,))
    assert host.asked == 0
    host.check()  # subnet.env is lost: the store knows it
    assert host.asked == 1
    host.leases = (Lease(MINE.subnet, OTHER),)
    with pytest.raises(NetworkInUse, match=r"it has address 10\.5\.4\.1/24 of eth0"):
        host.check()


def test_routes_that_another_flannel_daemon_left_to_peers_are_not_a_conflict() -> None:
    host = Host(Lease(net("10.5.4.0/24"), OTHER))
    host.route("10.5.4.0/24", str(OTHER.public_ip))
    host.check()
    assert host.asked == 1


@pytest.mark.parametrize("public_ip", ["10.5.4.7", "10.5.1.0", "10.5.255.255"])
def test_an_own_address_that_is_leased_to_containers_is_refused(public_ip: str) -> None:
    behind_nat = replace(ETH0, public_ip=IPv4Address(public_ip))
    with pytest.raises(NetworkInUse, match=f"its own address {public_ip} is among those"):
        Host().check(interface=behind_nat)
    with pytest.raises(NetworkInUse, match=f"its own address {public_ip} is among those"):
        Host().check(interface=replace(ETH0, address=IPv4Address(public_ip)))


@pytest.mark.parametrize("public_ip", ["10.5.0.7", "10.6.0.1"])
def test_an_own_address_beside_what_is_leased_is_taken(public_ip: str) -> None:
    Host().check(interface=replace(ETH0, public_ip=IPv4Address(public_ip)))
