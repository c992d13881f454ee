"""Underlay: waits for the external interface at the start, then watches it.

A working interface is kept. While the link in use is up and has its address, a default route over
another link, such as a VPN's, is reported but not followed: peers know this host by that address.
When the link or the address is lost, the best remaining one is used, until the lost one returns.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import takewhile
from time import monotonic
from typing import NoReturn

from flannel.conditions import Condition, Conditions
from flannel.errors import KernelError, NoInterface, UnderlayChanged
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface, InterfaceChoice
from flannel.kernel.interface_choice import Overlay, Past, choose, standing
from flannel.kernel.surroundings import Surroundings, look_around

log = logging.getLogger(__name__)

_POLL = 1.0
"""Seconds between two looks while no interface is usable, or the kernel refuses to answer."""

_RECHECK = 10.0
"""Seconds between two looks without a hint."""

_SETTLED = 1.0
"""Seconds for which a different choice must stay the same before it is followed. While a DHCP
client renews, or a link restarts, addresses and default routes differ or are absent for a moment.
"""
_DOUBTFUL = 10.0
"""The same if the interface in use is likely to return, or the new one to leave: a link without
carrier, an address that is floating or link-local."""

_FLAP = 300.0
"""Seconds. An address that returns within this time is used again, even if the present one is no
worse. A DHCP client needs a minute or two after a link has restarted; an address that was absent
for longer may be one that moves between hosts."""


class Underlay:
    """The external interface of this host, for as long as the daemon runs.

    :param choice: the operator's options.
    :ivar overlay: the addresses of this host that belong to the overlay.
    """

    def __init__(self, kernel: Kernel, choice: InterfaceChoice, conditions: Conditions) -> None:
        self.overlay = Overlay()
        self._kernel = kernel
        self._choice = choice
        self._conditions = conditions
        self._hint = asyncio.Event()
        self._used: ExternalInterface | None = None
        self._homes: dict[IPv4Address, None] = {}
        """The addresses that our lease has published; the host returns to earlier ones."""
        self._left: dict[IPv4Address, float] = {}
        """When each was given up. An absent one was given up before this process started."""
        self._began = monotonic()

    def look(self) -> None:
        """Look soon: something about links, addresses or routes may have changed."""
        self._hint.set()

    def prefer(self, addresses: Iterable[IPv4Address]) -> None:
        """Prefer ``addresses``, which a lease of this host has published."""
        self._homes |= dict.fromkeys(addresses)

    def is_settled(self, interface: ExternalInterface) -> bool:
        """Whether ``interface`` is still the choice, now that overlay and lease are known."""
        of_overlay = any(map(self.overlay.covers, (interface.address, interface.public_ip)))
        others = {each.ip for each in interface.networks} - {interface.address}
        return not of_overlay and others.isdisjoint(self._homes)

    async def wait(self) -> ExternalInterface:
        """Return the external interface as soon as there is one."""
        while True:
            try:
                return await self.find()
            except NoInterface as why:
                self._conditions.report(Condition.INTERFACE, f"{why}; waiting for it")
                await asyncio.sleep(_POLL)

    async def find(self) -> ExternalInterface:
        """Return the external interface.

        :raises NoInterface: none is usable now.
        """
        found = self._choose(await self._look_around(), self._used)
        self._conditions.clear(Condition.INTERFACE)
        return found

    async def watch(self, used: ExternalInterface, on_return: Callable[[], None]) -> NoReturn:
        """Compare ``used`` with the present choice, until they differ.

        :param on_return: called when an interface is usable again after none was.
        :raises UnderlayChanged: the choice is a different interface or address now.
        """
        self._used = used
        self.prefer([used.address])
        other: ExternalInterface | None = None
        due = 0.0
        self._hint = asyncio.Event()
        self._hint.set()  # it may have changed before we listened
        while True:
            await self._wait_for_hint(due if other is not None else None)
            found, patience = await self._look(used, on_return)
            if found is None or found == used:
                other = None
            elif found != other:
                other, due = found, monotonic() + patience
            elif monotonic() >= due:
                self._used = found
                self._left[used.address] = monotonic()
                raise UnderlayChanged(_difference(used, found))

    async def _wait_for_hint(self, due: float | None) -> None:
        """Wait for a hint, or until ``due``; None: until the next look without a hint."""
        pause = _RECHECK if due is None else max(0.0, due - monotonic())
        try:
            async with asyncio.timeout(pause):
                await self._hint.wait()
            if due is not None:  # another change: wait until it settles
                await asyncio.sleep(_SETTLED)
        except TimeoutError:
            pass
        self._hint.clear()

    async def _look(
        self, used: ExternalInterface, on_return: Callable[[], None]
    ) -> tuple[ExternalInterface | None, float]:
        """The present choice, or None if it is unknown; and for how long it must stay the same."""
        try:
            host = await self._look_around()
            found = self._choose(host, used)
        except NoInterface as why:
            self._conditions.report(Condition.INTERFACE, f"{why}; waiting for it")
            return None, 0.0
        except KernelError as why:
            self._conditions.report(
                Condition.UNDERLAY, f"cannot look at the external interface: {why}; trying again"
            )
            asyncio.get_running_loop().call_later(_POLL, self._hint.set)
            return None, 0.0
        self._conditions.clear(Condition.UNDERLAY)
        if self._conditions.clear(Condition.INTERFACE):
            log.info("external interface %s is back", found)
            self._hint.set()
            on_return()
        if not _is_same(found, used):
            return found, _patience(host, used, found)
        self._compare(host, used)
        if _reachable(found) == _reachable(used):
            found = replace(found, networks=used.networks)
        return found, _SETTLED

    async def _look_around(self) -> Surroundings:
        kernel = self._kernel
        return await look_around(kernel.netlink, kernel.tables, self._choice.can_reach)

    def _choose(self, host: Surroundings, used: ExternalInterface | None) -> ExternalInterface:
        """The present choice: ``used`` if it works, unless an earlier address has returned."""
        homes = list(self._homes)
        found = self._fresh(host, Past(used, self._with_links(homes), homes))
        if used is None or not _is_same(found, used):
            return found
        for home in takewhile(lambda each: each != used.address, homes):
            with suppress(NoInterface):
                again = self._fresh(host, Past(None, self._with_links([home]), [home]))
                if again.address == home and self._is_worth_a_return(host, used, again):
                    return again
        return found

    def _is_worth_a_return(
        self, host: Surroundings, used: ExternalInterface, again: ExternalInterface
    ) -> bool:
        here, there = (_standing(host, each.address) for each in (used, again))
        if here != there:
            return there < here
        was_short = monotonic() - self._left.get(again.address, self._began) < _FLAP
        return again.link != used.link or was_short

    def _fresh(self, host: Surroundings, past: Past) -> ExternalInterface:
        return choose(host, self._choice, self.overlay, past)

    def _with_links(self, homes: Sequence[IPv4Address]) -> Sequence[IPv4Address]:
        """The addresses of ``homes`` whose link is chosen independently of routes.

        -iface and -iface-regex name the link. -iface-can-reach decides at the start.
        """
        choice = self._choice
        is_asked_for = choice.can_reach is not None and self._used is None
        return () if choice.names or choice.patterns or is_asked_for else homes

    def _compare(self, host: Surroundings, used: ExternalInterface) -> None:
        """Report if a choice without regard to the past would be a different link."""
        try:
            other = self._fresh(host, Past())
        except NoInterface:
            other = used
        if other.link == used.link:
            self._conditions.clear(Condition.OTHER_INTERFACE)
            return
        if self._choice.can_reach is not None:
            reason = f"the way to {self._choice.can_reach} leads to {other}"
        elif self._choice.is_given:
            reason = f"a new choice would be {other}"
        else:
            reason = f"the default route leads to {other}"
        self._conditions.report(
            Condition.OTHER_INTERFACE, f"keeping external interface {used}, which works: {reason}"
        )


def _is_same(one: ExternalInterface, other: ExternalInterface) -> bool:
    return (one.link, one.address) == (other.link, other.address)


def _standing(host: Surroundings, ip: IPv4Address) -> tuple[bool, bool]:
    return min((standing(each) for each in host.having(ip)), default=(True, True))


def _patience(host: Surroundings, used: ExternalInterface, found: ExternalInterface) -> float:
    """For how long ``found``, a different link or address, must stay the choice."""
    here, there = (_standing(host, each.address) for each in (used, found))
    link, has_address = host.links.get(used.link), bool(host.having(used.address))
    is_better = found.link == used.link and has_address and there < here
    if found.address == used.address or is_better:
        return _SETTLED
    is_there = link is not None and link.up and has_address
    return _DOUBTFUL if is_there or any(there) else _SETTLED


def _reachable(interface: ExternalInterface) -> set[IPv4Network]:
    """The networks where peers may be; link-local ones only if the address in use is one."""
    return {
        each.network
        for each in interface.networks
        if each.network.prefixlen < each.max_prefixlen
        and each.ip.is_link_local == interface.address.is_link_local
    }


def _difference(before: ExternalInterface, now: ExternalInterface) -> str:
    if (before.link, before.name) != (now.link, now.name):
        return f"the external interface is {now} now, it was {before}"
    if (before.address, before.public_ip) != (now.address, now.public_ip):
        return f"the address of {now.name} is {now.address} now, it was {before.address}"
    if before.mtu != now.mtu:
        return f"the MTU of {now.name} is {now.mtu} now, it was {before.mtu}"
    if before.siblings != now.siblings:
        return f"packets of peers may arrive on {', '.join(now.uplinks)} now"
    networks = ", ".join(str(each) for each in now.networks)
    return f"the networks of {now.name} are {networks} now"
