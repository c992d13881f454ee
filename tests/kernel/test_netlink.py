"""Links and addresses through pyroute2: what it is asked, what becomes of its errors.

Most of it with a stand-in for pyroute2; what only the kernel can answer is in netns-tests.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, TypeVar

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from flannel.errors import KernelError
from flannel.kernel import netlink as module
from flannel.kernel.links import Address, Link, VxlanSettings, Way
from flannel.kernel.netlink import Netlink

T = TypeVar("T")

ADDRESS = IPv4Address("192.0.2.9")
SETTINGS = VxlanSettings(1, 3, IPv4Address("192.0.2.1"), 8472, False, False)
LINK = Link(4, "flannel.1", "vxlan", 1450, True, "02:00:00:00:00:01", SETTINGS)


class Message(dict[str, Any]):
    """A message of pyroute2's: fields by item, attributes by `get`."""

    def get_nested(self, *path: str) -> Any:
        found: Any = self
        for name in path:
            found = (found or {}).get(name)
        return found


class Socket:
    """Stands for AsyncIPRoute.

    :ivar answers: for the next calls: messages, or an exception to be raised; None: no answer ever.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def __getattr__(self, what: str) -> Callable[..., Awaitable[Any]]:
        async def call(command: Any, **arguments: Any) -> Any:
            assert self.is_open
            self._world.calls.append((what, command, arguments))
            answer = self._world.answers.pop(0) if self._world.answers else []
            if isinstance(answer, Exception):
                raise answer
            if answer is None:
                await asyncio.get_running_loop().create_future()
            return Answer(answer)

        return call


class Answer(list[Message]):
    """What a dump yields, and what a single request returns."""

    async def __aiter__(self) -> AsyncIterator[Message]:
        for message in list(self):
            yield message


class World:
    """All sockets that were opened, and the calls on them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sockets: list[Socket] = []
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.answers: list[Any] = []
        self.open_errors: list[OSError] = []
        monkeypatch.setattr("flannel.kernel.pyroute2_part.AsyncIPRoute", self._open)

    def _open(self, *, ext_ack: bool) -> Socket:
        if self.open_errors:
            raise self.open_errors.pop(0)
        self.sockets.append(Socket(self))
        return self.sockets[-1]

    def call(self, function: Callable[[Netlink], Awaitable[T]], *answers: Any) -> T:
        self.answers = list(answers)

        async def main() -> T:
            async with Netlink() as netlink:
                return await function(netlink)

        return asyncio.run(main())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def link_message(**changes: Any) -> Message:
    data = {
        "attrs": [
            ("IFLA_VXLAN_ID", 1),
            ("IFLA_VXLAN_LINK", 3),
            ("IFLA_VXLAN_LOCAL", "192.0.2.1"),
            ("IFLA_VXLAN_PORT", 8472),
            ("IFLA_VXLAN_LEARNING", 0),
        ]
    }
    message = {
        "index": 4,
        "ifname": "flannel.1",
        "flags": 0x11003,
        "mtu": 1450,
        "address": "02:00:00:00:00:01",
        "linkinfo": {"kind": "vxlan", "data": data},
    }
    return Message(message | changes)


class TestLinks:
    """Reading them."""

    def test_a_vxlan_link_is_read_with_its_settings(self, world: World) -> None:
        assert world.call(lambda n: n.list_links(), [link_message()]) == [LINK]
        assert world.calls == [("link", "dump", {})]

    def test_flags_of_a_vxlan_link_are_read(self, world: World) -> None:
        data = {"attrs": [("IFLA_VXLAN_LEARNING", 1), ("IFLA_VXLAN_GBP", None)]}
        message = link_message(linkinfo={"kind": "vxlan", "data": data})
        (link,) = world.call(lambda n: n.list_links(), [message])
        assert link.vxlan == VxlanSettings(0, 0, None, 0, True, True)

    def test_hardware_has_no_kind_and_perhaps_no_mac(self, world: World) -> None:
        message = Message(index=1, ifname="tun0", flags=0, mtu=1500)
        (link,) = world.call(lambda n: n.list_links(), [message])
        assert link == Link(1, "tun0", "", 1500, False, "", carrier=False)

    def test_master_and_alias_are_read(self, world: World) -> None:
        message = link_message(master=9, ifalias="flannel")
        (link,) = world.call(lambda n: n.list_links(), [message])
        assert link == replace(LINK, master=9, alias="flannel")

    def test_a_link_is_found_by_its_name(self, world: World) -> None:
        assert world.call(lambda n: n.find_link("flannel.1"), [link_message()]) == LINK
        assert world.calls[0][2] == {"ifname": "flannel.1"}

    def test_a_link_that_does_not_exist_is_not_found(self, world: World) -> None:
        absent = NetlinkError(errno.ENODEV, "No such device")
        assert world.call(lambda n: n.find_link("x"), absent) is None
        with pytest.raises(KernelError, match="look at link x: Operation not permitted"):
            world.call(lambda n: n.find_link("x"), NetlinkError(errno.EPERM, ""))

    def test_addresses_are_read_in_the_kernels_order(self, world: World) -> None:
        messages = [
            Message(index=3, local="192.0.2.1", address="192.0.2.1", prefixlen=24, scope=0),
            Message(index=4, address="10.5.1.0", prefixlen=32, scope=253),
        ]
        assert world.call(lambda n: n.list_addresses(), messages) == [
            Address(3, IPv4Interface("192.0.2.1/24"), 0),
            Address(4, IPv4Interface("10.5.1.0/32"), 253),
        ]


class TestWays:
    """find_way."""

    @pytest.mark.parametrize(
        ("answer", "way"),
        [
            ({"oif": 3, "type": 1}, Way(3, None, None)),
            (
                {"oif": 3, "gateway": "192.0.2.254", "prefsrc": "192.0.2.1", "type": 1},
                Way(3, IPv4Address("192.0.2.254"), IPv4Address("192.0.2.1")),
            ),
            ({"oif": 1, "type": 2}, Way(1, None, None, local=True)),
        ],
    )
    def test_the_kernels_choice_is_read(
        self, world: World, answer: dict[str, Any], way: Way
    ) -> None:
        assert world.call(lambda n: n.find_way(ADDRESS), [Message(answer)]) == way
        assert world.calls[0][2] == {"dst": "192.0.2.9"}

    @pytest.mark.parametrize(
        "number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL]
    )
    def test_without_a_route_there_is_no_way(self, world: World, number: int) -> None:
        assert world.call(lambda n: n.find_way(ADDRESS), NetlinkError(number, "")) is None

    def test_the_kernels_own_words_are_kept(self, world: World) -> None:
        refusal = NetlinkError(errno.EINVAL, "mtu too small")
        with pytest.raises(KernelError, match=r"Invalid argument \(mtu too small\)$"):
            world.call(lambda n: n.ensure_link_up(LINK, 60), refusal)

    def test_another_error_of_the_kernel_is_raised(self, world: World) -> None:
        with pytest.raises(KernelError, match=r"look up the route to 192\.0\.2\.9: Cannot alloc"):
            world.call(lambda n: n.find_way(ADDRESS), NetlinkError(errno.ENOMEM, ""))


def network(text: str) -> IPv4Network:
    return IPv4Network(text)


CHANGES: list[tuple[Callable[[Netlink], Awaitable[None]], tuple[str, str, dict[str, Any]]]] = [
    (lambda n: n.set_mac(LINK, "02:00:00:00:00:09"),
     ("link", "set", {"index": 4, "address": "02:00:00:00:00:09"})),
    (lambda n: n.set_alias(LINK, "flannel"), ("link", "set", {"index": 4, "ifalias": "flannel"})),
    (lambda n: n.release_link(LINK), ("link", "set", {"index": 4, "master": 0})),
    (lambda n: n.rename_link(LINK, "x"), ("link", "set", {"index": 4, "ifname": "x"})),
    (lambda n: n.delete_altname(LINK, "x"), ("link", "property_del", {"index": 4, "altname": "x"})),
    (lambda n: n.delete_link(LINK), ("link", "del", {"index": 4})),
    (lambda n: n.ensure_link_up(LINK, 1400), ("link", "set", {"index": 4, "mtu": 1400})),
    (lambda n: n.ensure_link_up(replace(LINK, up=False), 1450),
     ("link", "set", {"index": 4, "state": "up"})),
    (lambda n: n.ensure_address(LINK, IPv4Interface("10.5.1.0/32")),
     ("addr", "add", {"index": 4, "address": "10.5.1.0", "prefixlen": 32})),
    (lambda n: n.delete_address(LINK, IPv4Interface("10.5.1.0/32")),
     ("addr", "del", {"index": 4, "address": "10.5.1.0", "prefixlen": 32})),
    (lambda n: n.replace_route(network("10.5.0.0/16"), LINK),
     ("route", "replace", {"dst": "10.5.0.0/16", "oif": 4, "scope": 253, "proto": 102})),
    (lambda n: n.add_blackhole(network("10.5.1.0/24")),
     ("route", "add", {"dst": "10.5.1.0/24", "type": "blackhole", "priority": 2**32 - 1,
                       "proto": 102})),
    (lambda n: n.delete_blackhole(network("10.5.1.0/24")),
     ("route", "del", {"dst": "10.5.1.0/24", "type": "blackhole", "priority": 2**32 - 1,
                       "proto": 102})),
    (lambda n: n.create_vxlan("flannel.1", mac="02:00:00:00:00:01", mtu=1450, settings=SETTINGS),
     ("link", "add", {"ifname": "flannel.1", "kind": "vxlan", "address": "02:00:00:00:00:01",
                      "mtu": 1450, "vxlan_id": 1, "vxlan_link": 3, "vxlan_local": "192.0.2.1",
                      "vxlan_port": 8472, "vxlan_learning": False})),
    (lambda n: n.create_vxlan("f", mac="m", mtu=1,
                              settings=replace(SETTINGS, local=None, gbp=True, learning=True)),
     ("link", "add", {"ifname": "f", "kind": "vxlan", "address": "m", "mtu": 1, "vxlan_id": 1,
                      "vxlan_link": 3, "vxlan_port": 8472, "vxlan_learning": True,
                      "vxlan_gbp": True})),
    (lambda n: n.move_vxlan(LINK, replace(SETTINGS, parent=7)),
     ("link", "set", {"index": 4, "kind": "vxlan", "vxlan_id": 1, "vxlan_link": 7,
                      "vxlan_learning": False, "vxlan_local": "192.0.2.1"})),
]  # fmt: skip


@pytest.mark.parametrize(("change", "call"), CHANGES)
def test_a_change_is_one_request(
    world: World,
    change: Callable[[Netlink], Awaitable[None]],
    call: tuple[str, str, dict[str, Any]],
) -> None:
    world.call(change)
    assert world.calls == [call]
    with pytest.raises(KernelError, match="Operation not permitted"):
        world.call(change, NetlinkError(errno.EPERM, ""))


def test_a_link_that_is_up_with_its_mtu_is_not_touched(world: World) -> None:
    world.call(lambda n: n.ensure_link_up(LINK, 1450))
    assert world.calls == []


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda n: n.delete_link(LINK), errno.ENODEV),
        (lambda n: n.ensure_address(LINK, IPv4Interface("10.5.1.0/32")), errno.EEXIST),
        (lambda n: n.delete_address(LINK, IPv4Interface("10.5.1.0/32")), errno.EADDRNOTAVAIL),
        (lambda n: n.add_blackhole(network("10.5.1.0/24")), errno.EEXIST),
        (lambda n: n.delete_blackhole(network("10.5.1.0/24")), errno.ESRCH),
    ],
)
def test_a_change_that_is_made_already_is_not_an_error(
    world: World, change: Callable[[Netlink], Awaitable[None]], number: int
) -> None:
    world.call(change, NetlinkError(number, ""))


def test_a_link_that_must_be_down_for_another_name_is_taken_down(world: World) -> None:
    world.call(lambda n: n.rename_link(LINK, "x"), NetlinkError(errno.EBUSY, ""))
    assert [arguments for _, _, arguments in world.calls] == [
        {"index": 4, "ifname": "x"},
        {"index": 4, "state": "down"},
        {"index": 4, "ifname": "x"},
    ]


class TestBrokenSockets:
    """The socket itself fails: pyroute2 can do nothing more with it."""

    @pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
    def test_an_error_of_the_socket_is_over_at_the_next_call(
        self, world: World, number: int
    ) -> None:
        async def scenario(netlink: Netlink) -> None:
            with pytest.raises(KernelError, match="cannot list links") as raised:
                await netlink.list_links()
            assert raised.value.errno == number
            assert await netlink.list_links() == [LINK]

        world.call(scenario, os_error(number), [link_message()])
        assert [each.is_open for each in world.sockets] == [False, False]

    def test_a_missing_answer_is_a_timeout(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_PATIENCE", 0.01)

        async def scenario(netlink: Netlink) -> None:
            with pytest.raises(KernelError) as raised:
                await netlink.list_links()
            assert raised.value.errno == errno.ETIMEDOUT
            monkeypatch.setattr(module, "_PATIENCE", 30)
            assert await netlink.list_links() == [LINK]

        world.call(scenario, None, [link_message()])
        assert len(world.sockets) == 2

    def test_a_socket_that_cannot_be_opened_is_opened_by_the_next_call(self, world: World) -> None:
        async def scenario(netlink: Netlink) -> None:
            with pytest.raises(KernelError, match="No buffer space"):
                await netlink.list_links()
            world.open_errors = [os_error(errno.EMFILE)]
            with pytest.raises(KernelError, match="cannot list links: Too many open files"):
                await netlink.list_links()
            assert await netlink.list_links() == [LINK]

        world.call(scenario, os_error(errno.ENOBUFS), [link_message()])

    def test_a_refusal_of_the_kernel_leaves_the_socket_open(self, world: World) -> None:
        async def scenario(netlink: Netlink) -> None:
            with pytest.raises(KernelError):
                await netlink.delete_link(LINK)
            await netlink.list_links()
            assert world.sockets[0].is_open

        world.call(scenario, NetlinkError(errno.ENOBUFS, ""))
        assert len(world.sockets) == 1


def test_requests_wait_for_each_other(world: World) -> None:
    async def scenario(netlink: Netlink) -> None:
        first = asyncio.create_task(netlink.list_links())
        second = asyncio.create_task(netlink.list_addresses())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [what for what, _, _ in world.calls] == ["link"]
        first.cancel()
        await second
        assert [what for what, _, _ in world.calls] == ["link", "addr"]

    world.call(scenario, None, [])
