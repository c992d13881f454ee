"""Which links are ours, and the removal of those that an earlier config left."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from fake_kernel import FakeNetlink, FakeTables

from flannel.kernel.host import Claim, find_overlap, is_ours
from flannel.kernel.links import Link, VxlanSettings
from flannel.kernel.rtmessages import FoundRoute
from flannel.network_config import NetworkConfig

SETTINGS = VxlanSettings(1, 2, IPv4Address("192.0.2.1"), 8472, False, False)
VXLAN = Link(4, "flannel.1", "vxlan", 1450, True, "", SETTINGS)
TUN = Link(5, "flannel0", "tun", 1472, True, "")
NETWORK = IPv4Network("10.5.0.0/16")


@pytest.mark.parametrize(
    ("link", "is_one"),
    [
        (VXLAN, True),
        (TUN, True),
        (replace(VXLAN, name="x", alias="flannel"), True),
        (replace(TUN, name="x", alias="flannel"), True),
        (replace(VXLAN, name="flannel.2"), False),  # its VNI is 1
        (replace(VXLAN, name="vxlan.calico", alias="mine"), False),
        (replace(TUN, name="tun0"), False),
        (Link(6, "flannel.1", "bridge", 1500, True, ""), False),
        (Link(6, "flannel0", "", 1500, True, "", alias="flannel"), False),
    ],
)
def test_ours_are_known_by_alias_or_by_name_and_kind(link: Link, is_one: bool) -> None:
    assert is_ours(link) == is_one


def test_the_present_addresses_and_routes_of_this_host_are_read() -> None:
    netlink, tables = FakeNetlink(Link(2, "eth0", "", 1500, True, "")), FakeTables()
    claim = Claim(NetworkConfig.from_json(f'{{"Network": "{NETWORK}"}}'), 24)
    assert asyncio.run(find_overlap(netlink, tables, claim)) == ""
    tables.foreign.append(FoundRoute(IPv4Network("10.5.4.0/24"), None, 2, 0))
    assert asyncio.run(find_overlap(netlink, tables, claim)) == "route 10.5.4.0/24 dev eth0"
