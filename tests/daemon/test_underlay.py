"""Underlay: which external interface is kept, left and returned to, and after how many seconds."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from fake_host import ETH0, FakeHost
from virtual_time import Clock

from flannel.conditions import Condition, Conditions
from flannel.daemon import underlay as module
from flannel.daemon.underlay import Underlay
from flannel.errors import NoInterface, UnderlayChanged
from flannel.kernel.interface import ExternalInterface, InterfaceChoice
from flannel.kernel.interface_choice import Overlay
from flannel.kernel.links import Link, Way
from flannel.kernel.rtmessages import FoundRoute
from flannel.network_config import NetworkConfig

ANYWHERE = IPv4Network("0.0.0.0/0")
VPN = IPv4Address("172.31.9.6")
FAR = IPv4Address("203.0.113.1")
HOUR = 3600.0


class Host(FakeHost):
    """A host with eth0 and an Underlay, whose links and routes tests change."""

    def __init__(self, clock: Clock, choice: InterfaceChoice | None = None) -> None:
        super().__init__()
        clock.rule(module)
        self.clock = clock
        self.conditions = Conditions(module.log)
        self.underlay = Underlay(self.kernel, choice or InterfaceChoice(), self.conditions)
        self.returns = 0

    def add_vpn(self) -> None:
        """A link with the better default route."""
        self.netlink.add(Link(9, "tun9", "tun", 1400, True, ""))
        self.netlink.address(9, f"{VPN}/24")
        self.tables.foreign.append(FoundRoute(ANYWHERE, None, 9, 0))
        self.tables.foreign[0] = replace(self.tables.foreign[0], metric=600)

    def remove_vpn(self) -> None:
        del self.netlink.links[9]
        self.tables.foreign.pop()

    def set_link(self, index: int, **changes: object) -> None:
        self.netlink.links[index] = replace(self.netlink.links[index], **changes)  # type: ignore[arg-type]

    def remove_address(self, text: str) -> None:
        kept = [each for each in self.netlink.addresses if str(each.interface) != text]
        self.netlink.addresses[:] = kept

    def start(self) -> ExternalInterface:
        return self.clock.run(self.underlay.wait())

    def watch(
        self, *changes: tuple[float, Callable[[], None]], used: ExternalInterface = ETH0
    ) -> tuple[str, float]:
        """Watch while the host changes at these seconds, each time with a hint.

        :return: why the run ended, and after how many seconds; "" if it went on for an hour.
        """
        began = self.clock.now

        async def watching() -> str:
            loop = asyncio.get_running_loop()
            for seconds, change in changes:
                loop.call_later(seconds, change)
                loop.call_later(seconds, self.underlay.look)
            try:
                async with asyncio.timeout(HOUR):
                    await self.underlay.watch(used, self._returned)
            except UnderlayChanged as why:
                return str(why)
            except TimeoutError:
                return ""

        return self.clock.run(watching()), self.clock.now - began

    def _returned(self) -> None:
        self.returns += 1

    def text(self, condition: Condition) -> str:
        return self.conditions.text(condition)


@pytest.fixture
def host(clock: Clock) -> Host:
    return Host(clock)


def test_an_interface_that_is_there_is_found_at_once(host: Host) -> None:
    assert host.start() == ETH0
    assert host.text(Condition.INTERFACE) == ""


def test_an_interface_that_is_late_is_waited_for(host: Host) -> None:
    host.set_link(2, up=False)
    began = host.clock.now

    async def both() -> ExternalInterface:
        asyncio.get_running_loop().call_later(7.5, lambda: host.set_link(2, up=True))
        return await host.underlay.wait()

    assert host.clock.run(both()) == ETH0
    assert 7.5 <= host.clock.now - began <= 8.5


def test_the_reason_for_waiting_is_a_condition(host: Host) -> None:
    host.tables.foreign.clear()
    with pytest.raises(NoInterface, match="no default route"):
        host.clock.run(host.underlay.find())
    with pytest.raises(TimeoutError):
        host.clock.run(asyncio.wait_for(host.underlay.wait(), 5))
    assert host.text(Condition.INTERFACE).endswith("wait until there is; waiting for it")


def test_a_host_that_does_not_change_is_served_on(host: Host) -> None:
    assert host.watch() == ("", HOUR)


class TestVpn:
    """A link with a better default route comes."""

    def test_a_better_default_route_is_reported_and_not_followed(self, host: Host) -> None:
        assert host.watch((5, host.add_vpn)) == ("", HOUR)
        assert host.text(Condition.OTHER_INTERFACE) == (
            "keeping external interface eth0 with address 192.0.2.1, which works: "
            "the default route leads to tun9 with address 172.31.9.6"
        )

    def test_a_better_interface_that_disappears_is_forgotten(self, host: Host) -> None:
        host.watch((5, host.add_vpn), (50, host.remove_vpn))
        assert host.text(Condition.OTHER_INTERFACE) == ""

    def test_a_vpn_is_used_while_the_link_is_down_and_left_when_the_link_is_back(
        self, host: Host
    ) -> None:
        host.add_vpn()
        why, seconds = host.watch((5, lambda: host.set_link(2, up=False)))
        assert why == (
            "the external interface is tun9 with address 172.31.9.6 now, "
            "it was eth0 with address 192.0.2.1"
        )
        assert 6 <= seconds <= 8
        used = host.start()
        assert (used.name, used.address) == ("tun9", VPN)
        why, seconds = host.watch((5, lambda: host.set_link(2, up=True)), used=used)
        assert why.startswith("the external interface is eth0 with address 192.0.2.1 now")
        assert 15 <= seconds <= 17
        assert host.start() == ETH0

    def test_a_link_that_is_back_for_a_moment_is_not_returned_to(self, host: Host) -> None:
        host.add_vpn()
        host.watch((5, lambda: host.set_link(2, up=False)))
        used = host.start()
        why, _ = host.watch(
            (5, lambda: host.set_link(2, up=True)),
            (9, lambda: host.set_link(2, up=False)),
            used=used,
        )
        assert why == ""

    def test_a_link_that_loses_its_carrier_is_left_later(self, host: Host) -> None:
        host.add_vpn()
        why, seconds = host.watch((5, lambda: host.set_link(2, carrier=False)))
        assert why.startswith("the external interface is tun9")
        assert 15 <= seconds <= 17

    def test_a_carrier_that_returns_soon_moves_nothing(self, host: Host) -> None:
        host.add_vpn()
        lost, back = (lambda each=each: host.set_link(2, carrier=each) for each in (False, True))
        assert host.watch((5, lost), (11, back)) == ("", HOUR)

    def test_the_very_first_start_takes_the_better_default_route(self, host: Host) -> None:
        host.add_vpn()
        assert host.start().name == "tun9"

    def test_the_link_of_the_published_address_is_chosen_at_a_start(self, host: Host) -> None:
        host.add_vpn()
        host.underlay.prefer([ETH0.address])
        assert host.start() == ETH0
        host.watch()
        assert "leads to tun9" in host.text(Condition.OTHER_INTERFACE)

    def test_the_published_address_is_used_when_it_is_added_later(self, host: Host) -> None:
        host.add_vpn()
        host.underlay.prefer([ETH0.address])
        host.set_link(2, up=False)
        used = host.start()
        assert used.name == "tun9"
        why, seconds = host.watch((5, lambda: host.set_link(2, up=True)), used=used)
        assert why.startswith("the external interface is eth0")
        assert 15 <= seconds <= 17


class TestTheOperatorsWord:
    """It decides at a start, independently of the published address."""

    def test_the_named_interface_is_used(self, clock: Clock) -> None:
        host = Host(clock, InterfaceChoice(names=["tun9"]))
        host.add_vpn()
        host.underlay.prefer([ETH0.address])
        used = host.start()
        assert used.name == "tun9"
        assert host.watch(used=used) == ("", HOUR)
        assert host.text(Condition.OTHER_INTERFACE) == ""

    def test_the_first_of_two_names_is_returned_to(self, clock: Clock) -> None:
        host = Host(clock, InterfaceChoice(names=["eth0", "tun9"]))
        host.add_vpn()
        assert host.start() == ETH0
        host.watch((5, lambda: host.set_link(2, up=False)))
        used = host.start()
        assert used.name == "tun9"
        why, _ = host.watch((5, lambda: host.set_link(2, up=True)), used=used)
        assert why.startswith("the external interface is eth0")

    def test_a_better_one_of_two_names_is_reported(self, clock: Clock) -> None:
        host = Host(clock, InterfaceChoice(names=["eth0", "tun9"]))
        host.add_vpn()
        host.set_link(2, up=False)
        used = host.start()
        assert host.watch((5, lambda: host.set_link(2, up=True)), used=used) == ("", HOUR)
        assert "a new choice would be eth0" in host.text(Condition.OTHER_INTERFACE)

    def test_the_interface_that_reaches_the_address_is_used(self, clock: Clock) -> None:
        host = Host(clock, InterfaceChoice(can_reach=FAR))
        host.add_vpn()
        host.underlay.prefer([ETH0.address])
        host.netlink.ways[FAR] = Way(9, None, VPN)
        assert host.start().name == "tun9"

    def test_another_way_to_the_address_is_reported_and_not_followed(self, clock: Clock) -> None:
        host = Host(clock, InterfaceChoice(can_reach=FAR))
        host.netlink.ways[FAR] = Way(2, None, ETH0.address)
        assert host.start() == ETH0
        host.add_vpn()
        moved = Way(9, None, VPN)
        assert host.watch((5, lambda: host.netlink.ways.update({FAR: moved}))) == ("", HOUR)
        assert "the way to 203.0.113.1 leads to tun9" in host.text(Condition.OTHER_INTERFACE)


class TestAddresses:
    """Several on one link; they come and go."""

    def test_a_different_one_is_followed_when_ours_is_removed(self, host: Host) -> None:
        def change() -> None:
            host.remove_address("192.0.2.1/24")
            host.netlink.address(2, "192.0.2.77/24")

        why, seconds = host.watch((5, change))
        assert why == "the address of eth0 is 192.0.2.77 now, it was 192.0.2.1"
        assert 6 <= seconds <= 8

    @pytest.mark.parametrize("poor", ["192.0.2.100/32", "169.254.7.7/16"])
    def test_a_floating_or_link_local_one_is_followed_later_and_left_soon(
        self, host: Host, poor: str
    ) -> None:
        host.netlink.address(2, poor)
        why, seconds = host.watch((5, lambda: host.remove_address("192.0.2.1/24")))
        assert why.startswith(f"the address of eth0 is {poor.partition('/')[0]} now")
        assert 15 <= seconds <= 17
        used = host.start()
        back = (5, lambda: host.netlink.address(2, "192.0.2.1/24"))
        why, seconds = host.watch(back, used=used)
        assert why.startswith("the address of eth0 is 192.0.2.1 now")
        assert 6 <= seconds <= 8

    @pytest.mark.parametrize(("away", "is_returned_to"), [(60, True), (1000, False)])
    def test_an_address_that_is_as_good_is_left_again_after_a_short_time_only(
        self, host: Host, away: float, is_returned_to: bool
    ) -> None:
        host.netlink.address(2, "192.0.2.100/24")
        why, _ = host.watch((5, lambda: host.remove_address("192.0.2.1/24")))
        assert why.startswith("the address of eth0 is 192.0.2.100 now")
        used = host.start()
        why, _ = host.watch((away, lambda: host.netlink.address(2, "192.0.2.1/24")), used=used)
        assert why.startswith("the address of eth0 is 192.0.2.1 now") is is_returned_to

    def test_an_address_published_before_this_process_is_returned_to(self, host: Host) -> None:
        host.underlay.prefer([ETH0.address])
        host.remove_address("192.0.2.1/24")
        host.netlink.address(2, "192.0.2.100/24")
        used = host.start()
        assert str(used.address) == "192.0.2.100"
        why, _ = host.watch((30, lambda: host.netlink.address(2, "192.0.2.1/24")), used=used)
        assert why.startswith("the address of eth0 is 192.0.2.1 now")

    def test_our_address_that_returns_soon_is_not_replaced_by_a_floating_one(
        self, host: Host
    ) -> None:
        host.netlink.address(2, "192.0.2.100/32")
        gone = (5, lambda: host.remove_address("192.0.2.1/24"))
        back = (10, lambda: host.netlink.address(2, "192.0.2.1/24"))
        assert host.watch(gone, back) == ("", HOUR)

    def test_a_floating_one_that_was_published_is_kept_beside_a_better_one(
        self, host: Host
    ) -> None:
        host.netlink.address(2, "192.0.2.100/32")
        host.underlay.prefer([IPv4Address("192.0.2.100")])
        used = host.start()
        assert str(used.address) == "192.0.2.100"
        assert host.watch(used=used) == ("", HOUR)

    def test_an_address_that_moves_to_another_link_is_followed_soon(self, host: Host) -> None:
        def enslave() -> None:
            host.netlink.add(Link(9, "br0", "bridge", 1500, True, ""))
            host.set_link(2, master=9)
            host.remove_address("192.0.2.1/24")
            host.netlink.address(9, "192.0.2.1/24")
            host.tables.foreign[0] = replace(host.tables.foreign[0], link=9)

        why, seconds = host.watch((5, enslave))
        assert why.startswith("the external interface is br0 with address 192.0.2.1 now")
        assert 6 <= seconds <= 8

    def test_an_address_of_a_new_network_ends_the_run_and_a_floating_one_does_not(
        self, host: Host
    ) -> None:
        floating = (5, lambda: host.netlink.address(2, "192.0.2.100/32"))
        beside = (6, lambda: host.netlink.address(2, "192.0.2.101/24"))
        link_local = (7, lambda: host.netlink.address(2, "169.254.7.7/16"))
        assert host.watch(floating, beside, link_local) == ("", HOUR)
        why, _ = host.watch((5, lambda: host.netlink.address(2, "198.51.100.7/24")))
        assert why.startswith("the networks of eth0 are 192.0.2.1/24")

    def test_a_settled_interface_is_not_looked_at_again(self, host: Host) -> None:
        several = replace(ETH0, networks=(*ETH0.networks, IPv4Interface("192.0.2.9/24")))
        assert host.underlay.is_settled(several)
        host.underlay.prefer([ETH0.address])
        assert host.underlay.is_settled(several)
        host.underlay.prefer([IPv4Address("192.0.2.9")])
        assert not host.underlay.is_settled(several)
        assert host.underlay.is_settled(ETH0)
        config = NetworkConfig.from_json('{"Network": "192.0.0.0/16"}')
        host.underlay.overlay = Overlay(config)
        assert not host.underlay.is_settled(ETH0)


def test_a_different_mtu_ends_the_watch_once_it_has_settled(host: Host) -> None:
    why, seconds = host.watch((5, lambda: host.set_link(2, mtu=1400)))
    assert why == "the MTU of eth0 is 1400 now, it was 1500"
    assert 6 <= seconds <= 8


def test_a_change_for_a_moment_is_ignored(host: Host) -> None:
    smaller, back = (lambda each=each: host.set_link(2, mtu=each) for each in (1400, 1500))
    assert host.watch((5, smaller), (5.5, back)) == ("", HOUR)


def test_a_change_is_noticed_without_a_hint(host: Host) -> None:
    async def watching() -> None:
        asyncio.get_running_loop().call_later(5, lambda: host.set_link(2, mtu=1400))
        await host.underlay.watch(ETH0, lambda: None)

    began = host.clock.now
    with pytest.raises(UnderlayChanged, match="MTU"):
        host.clock.run(watching())
    assert host.clock.now - began <= 22


def test_an_interface_that_disappears_and_returns_does_not_end_the_run(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    down, up = (lambda each=each: host.set_link(2, up=each) for each in (False, True))
    assert host.watch((5, down), (300, up)) == ("", HOUR)
    assert host.returns == 1
    assert host.text(Condition.INTERFACE) == ""
    assert caplog.messages == [
        "cannot use interface eth0: it is down; waiting for it",
        "external interface eth0 with address 192.0.2.1 is back",
    ]


def test_a_kernel_that_does_not_answer_is_asked_again(host: Host) -> None:
    host.netlink.refuses["list_links"] = 105  # ENOBUFS
    again = (60, lambda: host.netlink.refuses.clear())
    why, _ = host.watch(again, (61, lambda: host.set_link(2, mtu=1400)))
    assert "MTU" in why
    assert host.text(Condition.UNDERLAY) == ""


def test_links_of_the_overlay_are_never_used_even_if_ours_is_lost(host: Host) -> None:
    host.netlink.add(Link(9, "docker0", "bridge", 1500, True, ""))
    host.netlink.address(9, "172.17.0.1/16")
    host.tables.foreign.append(FoundRoute(ANYWHERE, None, 9, 1003))
    assert host.watch((5, lambda: host.set_link(2, up=False))) == ("", HOUR)
    assert host.text(Condition.INTERFACE) == "cannot use interface eth0: it is down; waiting for it"
