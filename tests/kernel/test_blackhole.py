"""The blackhole route of the own subnet: kept with its flag, removed without."""

import asyncio
import errno
import logging
from collections.abc import Callable
from ipaddress import IPv4Network

import pytest
from fake_kernel import FakeNetlink, FakeTables

from flannel.conditions import Condition, Conditions
from flannel.kernel import blackhole
from flannel.kernel.doors import Kernel

SUBNET, OLD = IPv4Network("10.5.1.0/24"), IPv4Network("10.5.7.0/24")


class Host:
    """Tables that show what the netlink has added, and a keeper that looks at once again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blackhole, "_RESYNC", 0)
        self.netlink, tables = FakeNetlink(), FakeTables()
        tables.blackholes = self.netlink.blackholes
        self.kernel = Kernel(self.netlink, tables)
        self.conditions = Conditions(logging.getLogger("test"))

    async def keep_until(self, subnet: IPv4Network | None, *conditions: Callable[[], bool]) -> None:
        """Keep, until each of the conditions was true in turn."""
        keeping = asyncio.create_task(blackhole.keep(self.kernel, subnet, self.conditions))
        try:
            for condition in conditions:
                async with asyncio.timeout(30):
                    while not condition():  # noqa: ASYNC110 - nobody tells of it
                        await asyncio.sleep(0)
        finally:
            keeping.cancel()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_the_route_of_the_subnet_is_the_only_one(host: Host) -> None:
    host.netlink.blackholes.add(OLD)
    asyncio.run(host.keep_until(SUBNET, lambda: host.netlink.blackholes == {SUBNET}))


def test_a_deleted_route_is_restored(host: Host) -> None:
    def delete() -> bool:
        host.netlink.blackholes.clear()
        return True

    def is_there() -> bool:
        return host.netlink.blackholes == {SUBNET}

    asyncio.run(host.keep_until(SUBNET, is_there, delete, is_there))
    assert host.netlink.calls == [f"add_blackhole {SUBNET}"] * 2


def test_without_the_flag_a_leftover_route_is_removed_once(host: Host) -> None:
    host.netlink.blackholes.add(OLD)
    asyncio.run(asyncio.wait_for(blackhole.keep(host.kernel, None, host.conditions), 30))
    assert host.netlink.blackholes == set()


@pytest.mark.parametrize("subnet", [SUBNET, None])
def test_a_refusal_is_a_condition_until_it_is_over(host: Host, subnet: IPv4Network | None) -> None:
    method = "add_blackhole" if subnet else "delete_blackhole"
    if not subnet:
        host.netlink.blackholes.add(OLD)
    host.netlink.refuses[method] = errno.EPERM

    def allow() -> bool:
        assert "Operation not permitted; trying again" in host.conditions.text(Condition.BLACKHOLE)
        host.netlink.refuses.clear()
        return True

    asyncio.run(
        host.keep_until(
            subnet,
            lambda: bool(host.conditions.text(Condition.BLACKHOLE)),
            allow,
            lambda: not host.conditions.text(Condition.BLACKHOLE),
        )
    )
    assert host.netlink.blackholes == ({subnet} if subnet else set())
