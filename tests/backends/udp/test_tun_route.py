"""The route to the TUN device beside the routes of docker's bridge. Tables in memory."""

import asyncio
from ipaddress import IPv4Network

import pytest
from fake_kernel import FakeNetlink, FakeTables

from flannel.backends.udp import tun
from flannel.backends.udp.dataplane import Settings
from flannel.kernel.doors import Kernel
from flannel.kernel.links import Link
from flannel.kernel.rtmessages import FoundRoute

TUN = Link(4, "flannel0", "tun", 1472, True, "", alias="flannel")
DOCKER0, ETH0 = Link(3, "docker0", "bridge", 1500, True, ""), Link(2, "eth0", "", 1500, True, "")
NETWORK = IPv4Network("172.16.0.0/12")
SETTINGS = Settings(NETWORK, IPv4Network("172.17.64.0/24"), 1472, 8285)


class Host:
    """Has the device, docker0 and eth0."""

    def __init__(self, *foreign: tuple[str, Link]) -> None:
        self.netlink = FakeNetlink(ETH0, DOCKER0, TUN)
        self.netlink.address(4, "172.17.64.0/32")
        self.tables = FakeTables()
        self.tables.foreign = [FoundRoute(IPv4Network(d), None, x.index, 0) for d, x in foreign]
        self.kernel = Kernel(self.netlink, self.tables)

    def ensure(self, settings: Settings = SETTINGS) -> str:
        return asyncio.run(tun.ensure_device(self.kernel, settings))

    @property
    def repairs(self) -> str:
        self.kernel.repairs.commit("flannel0")
        return self.kernel.repairs.last.removeprefix("repaired flannel0: ")


def test_a_route_that_is_gone_is_added() -> None:
    host = Host()
    assert host.ensure() == ""
    assert host.netlink.routes == {NETWORK: TUN.index}
    assert host.repairs == "the route to 172.16.0.0/12 was gone"


def test_a_route_that_is_there_is_left() -> None:
    host = Host()
    host.tables.whole.append(FoundRoute(NETWORK, None, TUN.index, 0))
    assert host.ensure() == ""
    assert host.netlink.calls == []
    assert host.repairs == ""


def test_a_route_that_somebody_put_in_its_place_is_replaced() -> None:
    host = Host(("172.16.0.0/12", ETH0))
    assert host.ensure() == ""
    assert host.netlink.routes == {NETWORK: TUN.index}


def test_a_more_specific_route_of_docker_is_named_and_ours_added() -> None:
    host = Host(("172.17.0.0/16", DOCKER0))
    assert host.ensure() == "172.17.0.0/16"
    assert host.netlink.routes == {NETWORK: TUN.index}


def test_as_specific_a_route_of_docker_is_named_and_left_in_its_place() -> None:
    host = Host(("172.17.0.0/16", DOCKER0))
    settings = Settings(IPv4Network("172.17.0.0/16"), SETTINGS.subnet, 1472, 8285)
    assert host.ensure(settings) == "172.17.0.0/16"
    assert host.netlink.routes == {}
    assert host.repairs == ""
    host.tables.foreign.clear()  # docker was restarted
    assert host.ensure(settings) == ""
    assert host.netlink.routes == {settings.network: TUN.index}


@pytest.mark.parametrize(
    "foreign", [("172.17.64.0/24", DOCKER0), ("172.17.0.0/16", ETH0), ("192.168.0.0/16", DOCKER0)]
)
def test_docker_s_bridge_at_the_lease_and_other_routes_take_nothing(
    foreign: tuple[str, Link],
) -> None:
    assert Host(foreign).ensure() == ""
