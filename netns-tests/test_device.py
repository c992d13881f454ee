"""The link flannel.<VNI> in the real kernel."""

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import pytest
from private_network import ip, link_index, private_network

from flannel.backends import make_backend
from flannel.backends.vxlan.device import ensure_address, ensure_device, vtep_mac
from flannel.errors import BadNetworkConfig, KernelError
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Route
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.leftovers import Keep, remove_leftovers
from flannel.kernel.links import Link, VxlanSettings
from flannel.kernel.netlink import Netlink
from flannel.kernel.repairs import Repairs
from flannel.kernel.rtnetlink import RtNetlink
from flannel.network_config import NetworkConfig

T = TypeVar("T")
MAC = "02:00:00:00:00:01"
NETWORK = IPv4Network("10.5.0.0/16")


@pytest.fixture(autouse=True)
def _host() -> Iterator[None]:
    with private_network():
        ip("link add eth0 type veth peer name far0")
        ip("addr add 192.0.2.1/24 dev eth0")
        ip("link set far0 up")
        ip("link set eth0 up")
        yield


def call(function: Callable[[Netlink], Awaitable[T]]) -> T:
    """Run ``function`` with an open Netlink."""

    async def main() -> T:
        async with Netlink() as netlink:
            return await function(netlink)

    return asyncio.run(main())


def settings(**changes: object) -> VxlanSettings:
    base = VxlanSettings(1, link_index("eth0"), IPv4Address("192.0.2.1"), 8472, False, False)
    return replace(base, **changes)  # type: ignore[arg-type] # each test names real fields


def ensure(
    wanted: VxlanSettings | None = None,
    *,
    mac: str = MAC,
    mtu: int = 1450,
    published: bool = False,
) -> Link:
    return call(
        lambda netlink: ensure_device(
            netlink,
            mac=mac,
            mtu=mtu,
            settings=wanted or settings(),
            repairs=Repairs(),
            published=published,
        )
    )


def test_a_port_that_another_program_has_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 8472))
        with pytest.raises(
            KernelError, match=r"bind UDP port 8472 for flannel\.1: Address already"
        ):
            ensure()
    assert ensure().name == "flannel.1"


def test_the_device_is_made_as_upstreams_is() -> None:
    link = ensure()
    assert (link.name, link.mac) == ("flannel.1", MAC)
    (shown,) = json.loads(ip("-j -d link show flannel.1"))
    assert shown["mtu"] == 1450
    assert "UP" in shown["flags"]
    made = {"id": 1, "local": "192.0.2.1", "link": "eth0", "port": 8472,
            "learning": False, "ageing": 300, "udp_csum": True}  # fmt: skip
    assert shown["linkinfo"]["info_data"].items() >= made.items()
    assert Path("/proc/sys/net/ipv6/conf/flannel.1/accept_ra").read_text() == "0\n"


def test_a_compatible_device_is_kept_with_the_mac_it_has() -> None:
    first = ensure()
    assert ensure(mac="02:00:00:00:00:99") == replace(first, up=True, carrier=True)


def test_the_mtu_and_the_state_of_a_kept_device_are_set_right() -> None:
    first = ensure()
    ip("link set flannel.1 down")
    second = ensure(mtu=1400)
    assert second.index == first.index
    assert "mtu 1400" in ip("link show up flannel.1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": 4789}, "its port is 8472, wanted is 4789"),
        ({"gbp": True}, "its gbp is False, wanted is True"),
    ],
)
def test_an_incompatible_device_is_rebuilt_and_the_reason_logged(
    caplog: pytest.LogCaptureFixture, change: dict[str, object], said: str
) -> None:
    first = ensure()
    wanted = settings(**change)
    second = ensure(wanted)
    assert second.index != first.index
    assert second.vxlan == wanted
    assert f"rebuilding flannel.1: {said}" in caplog.text


def test_a_device_moves_to_another_link_and_address_with_all_that_hangs_on_it() -> None:
    ip("link add eth1 type veth peer name far1")
    ip("addr add 192.0.3.1/24 dev eth1")
    first = ensure()
    ip("route add 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink")
    routes = ip("route show dev flannel.1")
    wanted = settings(parent=link_index("eth1"), local=IPv4Address("192.0.3.1"))
    assert ensure(wanted) == replace(first, vxlan=wanted, up=True, carrier=True)
    assert ip("route show dev flannel.1") == routes


def test_learning_is_changed_in_place() -> None:
    first = ensure()
    wanted = settings(learning=True)
    assert ensure(wanted) == replace(first, vxlan=wanted, up=True, carrier=True)


@pytest.mark.parametrize("change", [{"port": 4789}, {"port": 4789, "gbp": True}])
def test_a_device_works_on_while_its_successor_cannot_be_made(change: dict[str, object]) -> None:
    first = ensure()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 4789))
        with pytest.raises(KernelError, match="bind UDP port 4789"):
            ensure(settings(**change))
        assert call(lambda netlink: netlink.find_link("flannel.1")) == replace(
            first, up=True, carrier=True
        )
        assert "flannel-next" not in ip("link show")
    assert ensure(settings(**change)).vxlan == settings(**change)


def test_a_device_works_on_while_nothing_can_carry_it() -> None:
    first = ensure()
    for wanted in (settings(parent=4711), settings(parent=first.index)):
        with pytest.raises(KernelError):
            ensure(wanted)
        kept = call(lambda netlink: netlink.find_link("flannel.1"))
        assert kept == replace(first, up=True, carrier=True)


def test_a_successor_that_an_earlier_run_has_left_is_replaced() -> None:
    ensure()
    ip("link add flannel-next type vxlan id 5 dev eth0 dstport 4789")
    assert ensure(settings(port=4789)).vxlan == settings(port=4789)
    assert "flannel-next" not in ip("link show")


def test_the_published_mac_is_restored() -> None:
    first = ensure()
    ip("link set flannel.1 address 02:00:00:00:00:99")
    assert ensure().mac == "02:00:00:00:00:99"  # they will learn it from the lease
    ensure(published=True)
    assert ensure() == replace(first, up=True, carrier=True)


def test_something_else_of_that_name_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    ip("link add flannel.1 type bridge")
    assert ensure().kind == "vxlan"
    assert "it is a link of kind bridge, not vxlan" in caplog.text


def test_a_refusal_of_the_kernel_is_raised_with_its_reason() -> None:
    ip("link add taken type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472")
    with pytest.raises(
        KernelError, match=r"link flannel\.1: link taken has VNI 1 and port 8472: File exists"
    ):
        ensure()
    ip("link del taken")
    ip("link add taken up type vxlan external dstport 8472")  # as Cilium has it
    with pytest.raises(KernelError, match=r"UDP port 8472 for flannel\.1: link taken has it"):
        ensure()


def test_the_kernels_own_words_are_in_the_error() -> None:
    with pytest.raises(KernelError, match=r"link flannel\.1: Invalid argument \(MTU must be"):
        ensure(mtu=60)
    link = ensure()
    with pytest.raises(KernelError, match=r"MTU 60 on flannel\.1: Invalid argument \(mtu less "):
        ensure(mtu=60)
    route = Route(bytes((10, 5, 9, 0)), 24, bytes((203, 0, 113, 1)), link.index, False)
    with RtNetlink() as tables:
        (failure,) = tables.put([route])
    assert failure.why == "Network is unreachable (Nexthop has invalid gateway)"


def test_a_kernel_without_vxlan_is_named_and_what_works_there() -> None:
    """It does not know the kind of link; here its name is changed on the way to it."""

    class NoVxlan:
        def __init__(self, ipr: Any) -> None:
            self._ipr = ipr

        async def link(self, command: str, **attributes: Any) -> Any:
            if attributes.get("kind") == "vxlan":
                attributes = {"ifname": attributes["ifname"], "kind": "vxlan-of-tomorrow"}
            return await self._ipr.link(command, **attributes)

    config = NetworkConfig.from_json('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')
    address = IPv4Address("192.0.2.1")
    interface = ExternalInterface(link_index("eth0"), "eth0", 1500, address, address, ())

    async def publish(netlink: Netlink) -> None:
        real = netlink._ipr
        netlink._ipr = NoVxlan(real)
        try:
            with RtNetlink() as tables:
                await make_backend(config, interface, Kernel(netlink, tables)).lease_attrs("n1")
        finally:
            netlink._ipr = real

    with pytest.raises(BadNetworkConfig) as said:
        call(publish)
    assert str(said.value) == (
        "cannot create VXLAN link flannel.1: Operation not supported (Unknown device type): "
        "this kernel has no VXLAN; a network config that works without it has "
        '{"Backend": {"Type": "udp"}}'
    )


def test_the_device_has_the_address_of_the_lease_and_no_other_of_the_network() -> None:
    link = ensure()
    ip("addr add 10.5.9.0/32 dev flannel.1")
    ip("addr add 203.0.113.5/32 dev flannel.1")
    address = IPv4Address("10.5.1.0")
    for _ in range(2):
        call(lambda netlink: ensure_address(netlink, link, address, NETWORK, Repairs()))
        shown = ip("-o -4 addr show dev flannel.1")
        assert sorted(re.findall(r"inet (\S+)", shown)) == ["10.5.1.0/32", "203.0.113.5/32"]


def test_the_mac_is_the_same_at_every_boot_and_differs_between_hosts_and_networks() -> None:
    addresses = [IPv4Address(f"192.0.2.{n}") for n in range(1, 100)]
    ids = ("", "n1", "n2")
    macs = {vtep_mac(address, vni, i) for address in addresses for vni in (1, 2) for i in ids}
    assert len(macs) == 2 * len(addresses) * len(ids)
    assert vtep_mac(addresses[0], 1, "") == "02:b9:cd:14:2f:1f"
    assert vtep_mac(addresses[0], 1, "n1") == "66:7c:7d:b2:50:eb"
    for mac in macs:
        first = int(mac[:2], 16)
        assert first & 3 == 2  # locally administered, one host's


def test_devices_of_an_earlier_config_are_removed_and_only_those() -> None:
    for vni, address in ((1, "10.5.1.0"), (2, "10.5.1.0"), (3, "10.6.1.0")):
        ip(f"link add flannel.{vni} type vxlan id {vni} dev eth0 dstport 8472")
        ip(f"addr add {address}/32 dev flannel.{vni}")
    ip("link add mine type vxlan id 4 dev eth0 dstport 8472")
    ip("addr add 10.5.2.0/32 dev mine")
    ip("link add docker0 type bridge")
    ip("addr add 10.5.1.1/24 dev docker0")
    with RtNetlink() as tables:
        keep = Keep(NETWORK, IPv4Network("10.5.1.0/24"), "flannel.1")
        call(lambda netlink: remove_leftovers(Kernel(netlink, tables), keep))
    left = {link.name for link in call(lambda netlink: netlink.list_links())}
    assert {"flannel.1", "flannel.3", "mine", "docker0"} <= left
    assert "flannel.2" not in left
