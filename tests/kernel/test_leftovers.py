"""Links, addresses, routes and nexthops of an earlier network config."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from fake_host import FakeHost

from flannel.kernel.claims import NoClaims
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Entry, Nexthop, Route, routed
from flannel.kernel.leftovers import Keep, remove_leftovers
from flannel.kernel.links import Link, VxlanSettings
from flannel.kernel.rtmessages import FoundRoute

ALIAS = "flannel"
SETTINGS = VxlanSettings(1, 2, IPv4Address("192.0.2.1"), 8472, False, False)
VXLAN = Link(4, "flannel.1", "vxlan", 1450, True, "", SETTINGS, alias=ALIAS)
TUN = Link(5, "flannel0", "tun", 1472, True, "", alias=ALIAS)
NETWORK, SUBNET = IPv4Network("10.5.0.0/16"), IPv4Network("10.5.1.0/24")


class Others(NoClaims):
    """Claims of other flannelds."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = set(names)

    def of_others(self) -> set[str]:
        return self._names


def vxlan(index: int, vni: int, **changes: object) -> Link:
    made = replace(VXLAN, index=index, name=f"flannel.{vni}", vxlan=replace(SETTINGS, vni=vni))
    return replace(made, **changes)  # type: ignore[arg-type]


def remove(host: FakeHost, device: str = "flannel.1", *others: str) -> None:
    kernel = Kernel(host.netlink, host.tables, claims=Others(*others))
    asyncio.run(remove_leftovers(kernel, Keep(NETWORK, SUBNET, device)))


def names(host: FakeHost) -> list[str]:
    return [link.name for link in host.netlink.links.values() if link.name != "eth0"]


def route(text: str, link: int = 2, *, nexthops: bool = True) -> Iterable[Entry]:
    return routed(IPv4Network(text), IPv4Address("192.0.2.9"), link, nexthops=nexthops)


def test_links_of_an_earlier_config_are_known_by_their_alias(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = FakeHost()
    for link in (VXLAN, TUN, vxlan(10, 2), replace(TUN, index=11, name="renamed"),
                 Link(13, "docker0", "bridge", 1500, True, ""),
                 Link(14, "theirs", "bridge", 1500, True, "", alias=ALIAS)):  # fmt: skip
        host.netlink.add(link)
    remove(host)
    assert names(host) == ["flannel.1", "docker0", "theirs"]
    assert "removing link flannel.2, left by an earlier network config" in caplog.text
    remove(host, device="")
    assert names(host) == ["docker0", "theirs"]


def test_a_link_that_may_be_upstreams_is_removed_only_with_an_address_of_our_network() -> None:
    host = FakeHost()
    for number, address in ((2, "10.5.7.0/32"), (3, "10.6.1.0/32")):
        host.netlink.add(vxlan(number + 10, number, alias=""))
        host.netlink.address(number + 10, address)
    host.tables.intrude(*route("10.6.2.0/24", 13))
    remove(host)
    assert names(host) == ["flannel.3"]
    assert len(host.tables.entries) == 2


def test_a_device_that_another_flanneld_has_claimed_stays_with_its_routes() -> None:
    host = FakeHost()
    for link in (VXLAN, vxlan(10, 2), vxlan(11, 3, name="renamed"), TUN):
        host.netlink.add(link)
    host.tables.intrude(*route("10.6.2.0/24", 10), *route("10.8.2.0/24"), *route("10.9.2.0/24"))
    host.tables.whole = [FoundRoute(IPv4Network("10.7.0.0/16"), None, TUN.index, 0)]
    remove(host, "flannel.1", "flannel.2", "flannel.3", "flannel0", "10.8.0.0/16", "x/y", "")
    assert names(host) == ["flannel.1", "flannel.2", "renamed", "flannel0"]
    left = [each for each in host.tables.entries.values() if isinstance(each, Route)]
    assert [each.dst for each in left] == [bytes([10, 6, 2, 0]), bytes([10, 8, 2, 0])]
    assert "delete_route 10.7.0.0/16" not in host.netlink.calls


def test_the_device_keeps_its_own_address_and_those_that_no_lease_gave() -> None:
    host = FakeHost()
    host.netlink.add(VXLAN)
    for address in ("10.1.3.0/32", "10.5.1.0/32", "203.0.113.5/24", "169.254.3.4/32"):
        host.netlink.address(VXLAN.index, address)
    remove(host)
    kept = ["10.5.1.0/32", "203.0.113.5/24", "169.254.3.4/32"]
    assert host.netlink.addresses_of("flannel.1") == kept


def test_without_its_own_address_the_device_keeps_the_one_that_it_has() -> None:
    host = FakeHost()
    host.netlink.add(TUN)
    host.netlink.address(TUN.index, "10.1.3.0/32")
    remove(host, "flannel0")
    assert host.netlink.addresses_of("flannel0") == ["10.1.3.0/32"]


@pytest.mark.parametrize("nexthops", [True, False])
def test_routes_and_nexthops_outside_the_network_are_removed(
    nexthops: bool, caplog: pytest.LogCaptureFixture
) -> None:
    host = FakeHost()
    host.netlink.add(VXLAN)
    inside, outside = (
        route("10.5.9.0/24", nexthops=nexthops),
        route("10.1.9.0/24", nexthops=nexthops),
    )
    wider = route("10.0.0.0/8", VXLAN.index, nexthops=nexthops)
    host.tables.intrude(*inside, *outside, *wider)
    if nexthops:
        host.tables.intrude(Nexthop(int(IPv4Address("10.2.0.0")), bytes(4), 2))  # without a route
    remove(host)
    assert set(host.tables.entries.values()) == set(inside)
    assert f"removing {5 if nexthops else 2} routes and nexthops, left by an earlier" in caplog.text


def test_an_entry_that_the_kernel_does_not_remove_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = FakeHost()
    (stale,) = route("10.1.9.0/24", nexthops=False)
    host.tables.intrude(stale)
    host.tables.keeps = dict.fromkeys(host.tables.entries, 1)
    remove(host)
    assert f"cannot remove {stale}: Operation not permitted" in caplog.text


def test_a_route_to_the_whole_of_another_network_is_removed() -> None:
    host = FakeHost()
    host.netlink.add(TUN)
    host.tables.whole = [
        FoundRoute(IPv4Network(each), None, TUN.index, 0) for each in ("10.0.0.0/8", "10.5.0.0/16")
    ]
    host.netlink.routes[IPv4Network("10.0.0.0/8")] = TUN.index
    remove(host, "flannel0")
    assert host.netlink.routes == {}
    assert host.netlink.calls == ["delete_route 10.0.0.0/8"]
