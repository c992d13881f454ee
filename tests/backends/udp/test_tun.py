"""The TUN device: made, found, attached to and restored, with the driver of tests/helpers."""

import asyncio
import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from fake_kernel import FakeNetlink, FakeTables
from fake_tun import ONE_QUEUE, SEVERAL_QUEUES, FakeTun

from flannel.backends.udp import tun
from flannel.backends.udp.dataplane import Settings
from flannel.errors import KernelError
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Route
from flannel.kernel.links import Link
from flannel.kernel.rtmessages import FoundRoute

NETWORK, SUBNET = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.15.0/24")
SETTINGS = Settings(NETWORK, SUBNET, 1472, 8285)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel(FakeNetlink(), FakeTables())
    yield made
    made.descriptors.retain("flannel0/queue", lambda _fd: False)


@pytest.fixture
def netlink(kernel: Kernel) -> FakeNetlink:
    assert isinstance(kernel.netlink, FakeNetlink)
    return kernel.netlink


@pytest.fixture
def tables(kernel: Kernel) -> FakeTables:
    assert isinstance(kernel.tables, FakeTables)
    return kernel.tables


@pytest.fixture
def driver(
    kernel: Kernel, netlink: FakeNetlink, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeTun]:
    made = FakeTun(netlink, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def device(kernel: Kernel, netlink: FakeNetlink, tables: FakeTables, driver: FakeTun) -> Link:
    """The device, attached to and as it should be."""
    tun.attached(kernel.descriptors, 1)
    link = netlink.by_name("flannel0")
    netlink.links[link.index] = replace(link, up=True, mtu=1472, alias="flannel")
    netlink.address(link.index, "10.1.15.0/32")
    tables.whole.append(FoundRoute(NETWORK, None, link.index, 0))
    return netlink.by_name("flannel0")


def repairs(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The texts noted since the last call."""
    caplog.clear()
    kernel.repairs.commit("flannel0")
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("machine", "tunsetiff", "tungetiff", "tungetdevnetns"),
    [
        ("x86_64", 0x400454CA, 0x800454D2, 0x54E3),
        ("i686", 0x400454CA, 0x800454D2, 0x54E3),
        ("aarch64", 0x400454CA, 0x800454D2, 0x54E3),
        ("riscv64", 0x400454CA, 0x800454D2, 0x54E3),
        ("s390x", 0x400454CA, 0x800454D2, 0x54E3),
        ("ppc64le", 0x800454CA, 0x400454D2, 0x200054E3),
        ("mips64", 0x800454CA, 0x400454D2, 0x200054E3),
    ],
)
def test_requests_are_those_of_the_kernels_headers_for_the_machine(
    machine: str, tunsetiff: int, tungetiff: int, tungetdevnetns: int
) -> None:
    """As a C compiler for it prints TUNSETIFF, TUNGETIFF and TUNGETDEVNETNS."""
    assert tun.request("_IOW", 202, machine) == tunsetiff
    assert tun.request("_IOR", 210, machine) == tungetiff
    assert tun.request("_IO", 227, machine) == tungetdevnetns


class TestAttaching:
    @pytest.mark.parametrize(("n", "flags"), [(1, ONE_QUEUE), (3, SEVERAL_QUEUES)])
    def test_a_device_is_made_with_a_queue_for_each_thread_and_outlives_them(
        self, kernel: Kernel, driver: FakeTun, n: int, flags: int
    ) -> None:
        made = tun.attached(kernel.descriptors, n)
        assert [driver.queues[fd] for fd in made.queues] == n * ["flannel0"]
        assert driver.flags == {"flannel0": flags}
        assert driver.persistent == {"flannel0"}
        assert made.has_uso
        assert set(driver.set_offloads) == set(made.queues)

    def test_queues_of_the_store_are_kept(self, kernel: Kernel, driver: FakeTun) -> None:
        before = tun.attached(kernel.descriptors, 2).queues
        assert tun.attached(kernel.descriptors, 3).queues[:2] == before
        assert tun.attached(kernel.descriptors, 2).queues == before

    def test_queues_of_a_deleted_device_are_replaced(self, kernel: Kernel, driver: FakeTun) -> None:
        tun.attached(kernel.descriptors, 1)
        driver.delete()
        (queue,) = tun.attached(kernel.descriptors, 1).queues
        assert driver.queues == {queue: "flannel0"}

    def test_queues_of_a_device_in_another_namespace_are_replaced_and_it_ends(
        self, kernel: Kernel, driver: FakeTun
    ) -> None:
        tun.attached(kernel.descriptors, 1)
        driver.move_away()
        (queue,) = tun.attached(kernel.descriptors, 1).queues
        assert driver.queues == {queue: "flannel0"}
        assert driver.persistent == {"flannel0"}

    @pytest.mark.parametrize(
        ("offloads", "lacks"),
        [
            (0xFF, None),
            (0x0F, "no UDP super-packets (Linux 6.2 has them)"),
            (0, "no super-packets, it will be slow"),
        ],
    )
    def test_offloads_that_the_kernel_lacks_are_named(
        self,
        kernel: Kernel,
        driver: FakeTun,
        caplog: pytest.LogCaptureFixture,
        offloads: int,
        lacks: str | None,
    ) -> None:
        driver.offloads = offloads
        made = tun.attached(kernel.descriptors, 1)
        assert made.has_uso == (offloads == 0xFF)
        assert set(driver.set_offloads.values()) == {offloads & 0x6B}
        wanted = [] if lacks is None else [f"flannel0: this kernel's TUN device has {lacks}"]
        assert [record.getMessage() for record in caplog.records] == wanted

    def test_a_kernel_without_the_driver_is_named(self, kernel: Kernel, driver: FakeTun) -> None:
        driver.refuses["/dev/net/tun"] = errno.ENOENT
        with pytest.raises(KernelError, match="cannot open /dev/net/tun: No such file"):
            tun.attached(kernel.descriptors, 1)

    def test_a_device_that_another_process_has_is_busy_and_nothing_leaks(
        self, kernel: Kernel, driver: FakeTun
    ) -> None:
        theirs = driver.open()
        driver.queues[theirs], driver.flags["flannel0"] = "flannel0", ONE_QUEUE
        with pytest.raises(KernelError, match="cannot attach to flannel0: Device or resource busy"):
            tun.attached(kernel.descriptors, 1)
        assert list(driver.queues) == [theirs]
        os.close(theirs)


class TestUsable:
    def test_without_a_device_there_is_nothing_to_do(
        self, kernel: Kernel, netlink: FakeNetlink, driver: FakeTun
    ) -> None:
        asyncio.run(tun.ensure_usable(kernel, NETWORK, 1))
        assert netlink.calls == []

    def test_a_device_of_an_earlier_run_stays(
        self, kernel: Kernel, netlink: FakeNetlink, driver: FakeTun, device: Link
    ) -> None:
        asyncio.run(tun.ensure_usable(kernel, NETWORK, 1))
        kernel.descriptors.retain("flannel0/queue", lambda _fd: False)  # without systemd
        driver.queues.clear()
        asyncio.run(tun.ensure_usable(kernel, NETWORK, 1))
        assert netlink.calls == []
        assert driver.queues == {}

    def test_a_link_of_another_kind_is_left_alone(
        self, kernel: Kernel, netlink: FakeNetlink, driver: FakeTun
    ) -> None:
        netlink.add(Link(7, "flannel0", "bridge", 1500, True, ""))
        with pytest.raises(KernelError, match="flannel0: a link of kind bridge has it"):
            asyncio.run(tun.ensure_usable(kernel, NETWORK, 1))
        assert netlink.calls == []

    def test_a_device_of_another_network_is_deleted(
        self,
        kernel: Kernel,
        netlink: FakeNetlink,
        driver: FakeTun,
        device: Link,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        netlink.address(device.index, "10.9.3.0/32")
        asyncio.run(tun.ensure_usable(kernel, NETWORK, 1))
        assert netlink.calls == ["delete_link flannel0"]
        assert "it has address 10.9.3.0/32 of another network" in caplog.text

    @pytest.mark.parametrize(
        ("before", "after", "reason"),
        [(1, 2, "it was made for one thread"), (2, 1, "it was made for several threads")],
    )
    def test_a_device_for_another_number_of_threads_is_deleted(
        self,
        kernel: Kernel,
        netlink: FakeNetlink,
        driver: FakeTun,
        caplog: pytest.LogCaptureFixture,
        before: int,
        after: int,
        reason: str,
    ) -> None:
        tun.attached(kernel.descriptors, before)
        asyncio.run(tun.ensure_usable(kernel, NETWORK, after))
        assert netlink.calls == ["delete_link flannel0"]
        assert reason in caplog.text

    def test_a_device_that_another_process_has_is_not_deleted(
        self, kernel: Kernel, netlink: FakeNetlink, driver: FakeTun, device: Link
    ) -> None:
        kernel.descriptors.retain("flannel0/queue", lambda _fd: False)
        driver.refuses[tun.request("_IOW", 202)] = errno.EBUSY
        with pytest.raises(KernelError, match="cannot attach to flannel0: Device or resource busy"):
            asyncio.run(tun.ensure_usable(kernel, NETWORK, 1))
        assert netlink.calls == []


class TestRestoring:
    def test_a_new_device_is_set_up_and_its_second_comparison_finds_no_repair(
        self,
        kernel: Kernel,
        netlink: FakeNetlink,
        tables: FakeTables,
        driver: FakeTun,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        tun.attached(kernel.descriptors, 1)
        asyncio.run(tun.ensure_device(kernel, SETTINGS))
        link = netlink.by_name("flannel0")
        assert (link.up, link.mtu) == (True, 1472)
        assert netlink.addresses_of("flannel0") == ["10.1.15.0/32"]
        assert netlink.routes == {NETWORK: link.index}
        tables.whole.append(FoundRoute(NETWORK, None, link.index, 0))
        netlink.calls.clear()
        repairs(kernel, caplog)
        asyncio.run(tun.ensure_device(kernel, SETTINGS))
        assert netlink.calls == []
        assert repairs(kernel, caplog) == []

    def test_without_a_device_the_error_names_that(
        self, kernel: Kernel, netlink: FakeNetlink
    ) -> None:
        with pytest.raises(KernelError, match="cannot find link flannel0") as raised:
            asyncio.run(tun.ensure_device(kernel, SETTINGS))
        assert raised.value.errno == errno.ENODEV

    @pytest.mark.parametrize(
        ("changes", "noted"),
        [
            ({"mtu": 1300}, "its MTU was 1300"),
            ({"up": False}, "it was down"),
            ({"master": 9}, "it belonged to br0"),
            ({"name": "flannel7"}, "its name was flannel7"),
        ],
    )
    def test_a_change_of_the_link_is_reverted_and_noted(
        self,
        kernel: Kernel,
        netlink: FakeNetlink,
        driver: FakeTun,
        device: Link,
        caplog: pytest.LogCaptureFixture,
        changes: dict[str, object],
        noted: str,
    ) -> None:
        netlink.add(Link(9, "br0", "bridge", 1500, True, ""))
        netlink.links[device.index] = replace(device, **changes)  # type: ignore[arg-type]
        asyncio.run(tun.ensure_device(kernel, SETTINGS))
        assert netlink.links[device.index] == device
        (line,) = repairs(kernel, caplog)
        assert noted in line

    def test_a_foreign_address_is_removed_after_the_right_one_is_added(
        self, kernel: Kernel, netlink: FakeNetlink, device: Link, caplog: pytest.LogCaptureFixture
    ) -> None:
        netlink.addresses.clear()
        netlink.address(device.index, "10.1.99.1/24")
        asyncio.run(tun.ensure_device(kernel, SETTINGS))
        assert netlink.addresses_of("flannel0") == ["10.1.15.0/32"]
        assert netlink.calls[-2:] == ["ensure_address 10.1.15.0/32", "delete_address 10.1.99.1/24"]
        (line,) = repairs(kernel, caplog)
        assert "its address 10.1.15.0 was gone" in line
        assert "it had address 10.1.99.1/24" in line

    @pytest.mark.parametrize("leads", [None, 2], ids=["nowhere", "elsewhere"])
    def test_the_route_of_the_network_leads_to_the_device(
        self,
        kernel: Kernel,
        netlink: FakeNetlink,
        tables: FakeTables,
        device: Link,
        caplog: pytest.LogCaptureFixture,
        leads: int | None,
    ) -> None:
        tables.whole = [] if leads is None else [FoundRoute(NETWORK, None, leads, 0)]
        asyncio.run(tun.ensure_device(kernel, SETTINGS))
        assert netlink.routes == {NETWORK: device.index}
        (line,) = repairs(kernel, caplog)
        assert "the route to 10.1.0.0/16 was gone" in line

    def test_routes_of_another_backend_are_deleted(
        self, kernel: Kernel, tables: FakeTables, device: Link
    ) -> None:
        subnet = IPv4Network("10.1.16.0/24").network_address.packed
        tables.intrude(Route(subnet, 24, subnet, device.index))
        asyncio.run(tun.ensure_device(kernel, SETTINGS))
        assert tables.of_kind(Route) == []

    def test_a_sysctl_that_cannot_be_written_does_not_stop_the_device(
        self,
        kernel: Kernel,
        netlink: FakeNetlink,
        driver: FakeTun,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def refuse(_path: Path, _text: str) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(Path, "write_text", refuse)
        tun.attached(kernel.descriptors, 1)
        with caplog.at_level(logging.WARNING):
            asyncio.run(tun.ensure_device(kernel, SETTINGS))
        assert netlink.by_name("flannel0").up
        assert "cannot switch off IPv6 on flannel0: Read-only file system" in caplog.text
