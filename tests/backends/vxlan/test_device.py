"""The VXLAN link: made, kept, repaired, found again under another name. Links in memory."""

import asyncio
import errno
import logging
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from vxlan_host import ETH0, MAC, OTHER_MAC, OURS, SETTINGS, Host

from flannel.backends.vxlan.device import ensure_address, vtep_mac
from flannel.backends.vxlan.link import incompatibility
from flannel.errors import KernelError
from flannel.kernel.links import Link


@pytest.fixture(autouse=True)
def no_ipv6_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flannel.kernel.sysctls.refuse_ipv6", lambda *_: None)


def test_a_missing_link_is_made(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    host = Host()
    link = host.ensure()
    assert host.ours == replace(OURS, index=link.index)
    assert "made flannel.1: VNI 1, port 8472, MAC 02:00:00:00:00:01" in caplog.text
    assert host.noted() == "it was gone"


def test_a_link_as_wanted_is_not_touched() -> None:
    host = Host(OURS)
    assert host.ensure() == OURS
    assert host.netlink.calls == []
    assert host.noted() == ""


def test_a_link_of_an_earlier_version_gets_the_alias_and_is_not_repaired() -> None:
    host = Host(replace(OURS, alias=""))
    assert host.ensure().alias == "flannel"
    assert host.ours.alias == "flannel"
    assert host.noted() == ""


def test_an_alias_that_somebody_else_gave_stays() -> None:
    host = Host(replace(OURS, alias="mine"))
    host.ensure()
    assert host.ours.alias == "mine"


@pytest.mark.parametrize(
    ("change", "noted"),
    [
        ({"mac": OTHER_MAC}, f"its MAC was {OTHER_MAC}"),
        ({"mtu": 1300}, "its MTU was 1300"),
        ({"up": False}, "it was down"),
    ],
)
def test_changes_by_others_are_reverted_and_noted(change: dict[str, object], noted: str) -> None:
    host = Host(replace(OURS, **change))  # type: ignore[arg-type] # each names a real field
    host.ensure()
    assert host.ours == OURS
    assert host.noted() == noted


def test_before_the_lease_a_link_keeps_its_mac() -> None:
    host = Host(replace(OURS, mac=OTHER_MAC))
    assert host.ensure(published=False).mac == OTHER_MAC
    assert host.ours.mac == OTHER_MAC


def test_a_link_that_was_enslaved_is_released_and_the_bridge_named() -> None:
    host = Host(replace(OURS, master=9), Link(9, "br0", "bridge", 1500, True, ""))
    host.ensure()
    assert host.ours == OURS
    assert host.noted() == "it belonged to br0"


def test_a_link_leaves_a_master_that_is_not_found() -> None:
    host = Host(replace(OURS, master=9))
    host.ensure()
    assert host.ours.master == 0
    assert host.noted() == "it belonged to another link"


def test_another_underlay_is_followed_in_place(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    host = Host(OURS)
    moved = replace(SETTINGS, parent=3, local=IPv4Address("192.0.3.1"))
    assert host.ensure(moved) == replace(OURS, vxlan=moved)
    assert host.ours.index == OURS.index
    assert "moved flannel.1 to address 192.0.3.1" in caplog.text


def test_learning_is_changed_in_place() -> None:
    host = Host(OURS)
    wanted = replace(SETTINGS, learning=True)
    assert host.ensure(wanted) == replace(OURS, vxlan=wanted)


def test_a_change_that_the_kernel_refuses_leaves_the_link_unchanged() -> None:
    host = Host(OURS)
    host.netlink.refuses["move_vxlan"] = errno.EINVAL
    with pytest.raises(KernelError, match=r"move vxlan flannel\.1: Invalid argument"):
        host.ensure(replace(SETTINGS, parent=4711))
    assert host.ours == OURS


def test_a_kernel_that_cannot_move_the_link_gets_another(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(OURS)
    host.netlink.refuses["move_vxlan"] = errno.EOPNOTSUPP
    moved = replace(SETTINGS, local=IPv4Address("192.0.3.1"))
    assert host.ensure(moved).vxlan == moved
    assert "rebuilding flannel.1: its local is 192.0.2.1, wanted is 192.0.3.1" in caplog.text
    assert host.noted() == ""  # nobody has damaged it


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": 4789}, "its port is 8472, wanted is 4789"),
        ({"gbp": True}, "its gbp is False, wanted is True"),
    ],
)
@pytest.mark.parametrize("published", [True, False])
def test_a_link_that_cannot_have_the_settings_is_rebuilt(
    caplog: pytest.LogCaptureFixture, change: dict[str, object], said: str, published: bool
) -> None:
    host = Host(replace(OURS, mac=OTHER_MAC))
    wanted = replace(SETTINGS, **change)  # type: ignore[arg-type] # each names a real field
    link = host.ensure(wanted, published=published)
    assert link.vxlan == wanted
    # Peers know the old MAC until they read another in our lease.
    assert link.mac == (MAC if published else OTHER_MAC)
    assert f"rebuilding flannel.1: {said}" in caplog.text


def test_a_link_of_another_kind_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(Link(4, "flannel.1", "bridge", 1500, True, OTHER_MAC))
    link = host.ensure(published=False)
    assert (link.kind, link.mac) == ("vxlan", MAC)
    assert "it is a link of kind bridge, not vxlan" in caplog.text


def test_a_network_card_of_that_name_is_named(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(Link(4, "flannel.1", "", 1500, True, OTHER_MAC))
    host.netlink.refuses["delete_link"] = errno.EOPNOTSUPP
    with pytest.raises(KernelError):
        host.ensure()
    assert "it is a link of kind hardware, not vxlan" in caplog.text


def test_another_refusal_is_passed_on() -> None:
    host = Host()
    host.netlink.refuses["create_vxlan"] = errno.EOPNOTSUPP
    with pytest.raises(KernelError, match="Operation not supported"):
        host.ensure()


def test_a_link_that_vanishes_at_once_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()

    async def create(name: str, **_: object) -> None:
        """Somebody has deleted it."""

    monkeypatch.setattr(host.netlink, "create_vxlan", create)
    with pytest.raises(KernelError, match=r"find link flannel\.1, made just now: No such device"):
        host.ensure()


def test_a_link_of_others_that_has_the_port_is_named() -> None:
    cilium = replace(OURS, index=9, name="cilium_vxlan", alias="", vxlan=replace(SETTINGS, vni=0))
    host = Host(replace(OURS, up=False), cilium)
    host.netlink.refuses["bring_up"] = errno.EADDRINUSE
    with pytest.raises(KernelError, match=r"for flannel\.1: link cilium_vxlan has it: Address"):
        host.ensure()


def test_a_port_that_another_program_has_is_named() -> None:
    host = Host(replace(OURS, up=False))
    host.netlink.refuses["bring_up"] = errno.EADDRINUSE
    with pytest.raises(KernelError, match=r"bind UDP port 8472 for flannel\.1: Address already"):
        host.ensure()
    host.netlink.refuses["bring_up"] = errno.EPERM
    with pytest.raises(KernelError, match=r"bring up flannel\.1: Operation not permitted"):
        host.ensure()


def test_the_address_of_the_lease_is_the_only_one_of_the_network() -> None:
    host = Host(OURS)
    for text in ("10.5.9.0/32", "10.5.1.0/24", "203.0.113.5/32"):
        host.netlink.address(OURS.index, text)
    host.netlink.address(ETH0.index, "10.5.9.1/32")
    network = IPv4Network("10.5.0.0/16")
    for _ in range(2):
        work = ensure_address(host.netlink, OURS, IPv4Address("10.5.1.0"), network, host.repairs)
        asyncio.run(work)
        assert sorted(host.netlink.addresses_of("flannel.1")) == ["10.5.1.0/32", "203.0.113.5/32"]
    assert host.netlink.addresses_of("eth0") == ["10.5.9.1/32"]
    noted = host.noted()
    assert noted.startswith("its address 10.5.1.0 was gone; it had address 10.5.")
    assert "it had address 10.5.9.0/32" in noted
    assert "it had address 10.5.1.0/24" in noted


def test_the_mac_is_the_same_at_every_boot_and_differs_between_hosts_and_networks() -> None:
    macs = {
        vtep_mac(IPv4Address(f"192.0.2.{n}"), vni, node_id)
        for n in range(1, 50)
        for vni in (1, 2)
        for node_id in ("", "n1", "n2")
    }
    assert len(macs) == 49 * 2 * 3
    assert vtep_mac(IPv4Address("192.0.2.1"), 1, "") == "02:b9:cd:14:2f:1f"
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)  # locally administered, one host's


def test_only_a_difference_makes_a_link_unusable() -> None:
    assert incompatibility(OURS, SETTINGS) == ""
    assert incompatibility(ETH0, SETTINGS) == "it is a link of kind hardware, not vxlan"
    wanted = replace(SETTINGS, vni=2)
    assert incompatibility(OURS, wanted) == "its vni is 1, wanted is 2"
