"""The TUN device under another name, or enslaved. Links in memory."""

import asyncio
import errno
from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from fake_kernel import FakeNetlink, FakeTables

from flannel.backends.udp import tun
from flannel.backends.udp.dataplane import Settings
from flannel.errors import KernelError
from flannel.kernel.doors import Kernel
from flannel.kernel.links import Link
from flannel.kernel.rtmessages import FoundRoute

OURS = Link(4, "flannel0", "tun", 1472, True, "", alias="flannel")
SETTINGS = Settings(IPv4Network("10.5.0.0/16"), IPv4Network("10.5.1.0/24"), 1472, 8285)
QUEUE = 99


class Host:
    """Links, and the name of the device that the kept queue is attached to; "" for none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *links: Link, queue: str = "") -> None:
        self.netlink = FakeNetlink(*links)
        self.tables = FakeTables()
        self.kernel = Kernel(self.netlink, self.tables)
        monkeypatch.setattr(self.kernel.descriptors.__class__, "held", lambda *_: (QUEUE,))
        monkeypatch.setattr(tun, "_attached_to", lambda fd: queue if fd == QUEUE else "")
        monkeypatch.setattr(tun, "_disable_ipv6", lambda: None)

    def find(self) -> Link | None:
        return asyncio.run(tun.find(self.kernel))

    def noted(self) -> str:
        self.kernel.repairs.commit("flannel0")
        return self.kernel.repairs.last.removeprefix("repaired flannel0: ")


def test_the_device_is_found_by_its_name_beside_other_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch, replace(OURS, index=9, name="x"), OURS, queue="x")
    assert host.find() == OURS
    assert host.netlink.calls == []


@pytest.mark.parametrize(
    ("alias", "queue"), [("flannel", ""), ("", "x"), ("mine", "x")],
    ids=["known by its alias", "known by a queue", "with another alias"],
)  # fmt: skip
def test_a_renamed_device_gets_its_name_back(
    monkeypatch: pytest.MonkeyPatch, alias: str, queue: str
) -> None:
    renamed = replace(OURS, name="x", alias=alias)
    host = Host(monkeypatch, replace(renamed, index=2, name="vpn", alias=""), renamed, queue=queue)
    assert host.find() == replace(renamed, name="flannel0")
    assert host.noted() == "its name was x"


def test_a_renamed_device_that_kept_its_name_as_an_alternative_name_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch, replace(OURS, name="x"))
    host.netlink.altnames["flannel0"] = OURS.index
    assert host.find() == OURS
    assert host.netlink.altnames == {}


@pytest.mark.parametrize(
    "other",
    [
        Link(4, "vpn", "tun", 1472, True, ""),
        Link(4, "x", "bridge", 1472, True, "", alias="flannel"),
    ],
)
def test_a_device_of_others_is_not_taken(monkeypatch: pytest.MonkeyPatch, other: Link) -> None:
    host = Host(monkeypatch, other)
    assert host.find() is None
    assert host.netlink.calls == []
    with pytest.raises(KernelError) as raised:
        asyncio.run(tun.ensure_device(host.kernel, SETTINGS))
    assert raised.value.errno == errno.ENODEV


def test_a_device_that_is_found_is_released_named_and_given_our_alias(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vrf = Link(9, "vrf0", "vrf", 65536, True, "")
    host = Host(monkeypatch, replace(OURS, master=9, alias="", up=False), vrf)
    host.tables.whole.append(FoundRoute(SETTINGS.network, None, 4, 0))
    host.netlink.address(4, "10.5.1.0/32")
    asyncio.run(tun.ensure_device(host.kernel, SETTINGS))
    assert host.netlink.by_name("flannel0") == OURS
    assert host.noted() == "it belonged to vrf0; it was down"
