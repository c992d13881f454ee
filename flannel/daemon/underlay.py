"""Underlay: the external interface: waited for at the start, then watched for changes."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from typing import NoReturn

from flannel.conditions import Condition, Conditions
from flannel.errors import KernelError, NoInterface, UnderlayChanged
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface, InterfaceChoice, find_external_interface

log = logging.getLogger(__name__)

_POLL = 1.0
"""Seconds between two looks while there is no interface to use, or the kernel refuses to answer."""

_RECHECK = 10.0
"""Seconds between two looks without a hint."""

_SETTLED = 1.0
"""Seconds that a different choice has to stay the same before it is followed. While a DHCP client
renews, or a link restarts, addresses and default routes differ for a moment, or are absent."""


class Underlay:
    """The external interface of this host, for as long as the daemon runs.

    :param choice: what the operator asked for.
    """

    def __init__(self, kernel: Kernel, choice: InterfaceChoice, conditions: Conditions) -> None:
        self._kernel = kernel
        self._choice = choice
        self._conditions = conditions
        self._hint = asyncio.Event()

    def look(self) -> None:
        """Look soon: something about links, addresses or routes may have changed."""
        self._hint.set()

    async def wait(self) -> ExternalInterface:
        """Return the external interface as soon as there is one."""
        while True:
            try:
                interface = await self._find()
            except NoInterface as why:
                self._conditions.report(Condition.INTERFACE, f"{why}; waiting for it")
                await asyncio.sleep(_POLL)
            else:
                self._conditions.clear(Condition.INTERFACE)
                return interface

    async def watch(self, used: ExternalInterface, on_return: Callable[[], None]) -> NoReturn:
        """Compare ``used`` with what would be chosen now, until they differ.

        :param on_return: called when there is an interface to use again after there was none.
        :raises UnderlayChanged: the network has to be served over a different interface or address.
        """
        other: ExternalInterface | None = None
        self._hint.set()  # it may have changed before we listened
        while True:
            try:
                async with asyncio.timeout(_RECHECK if other is None else _SETTLED):
                    await self._hint.wait()
                if other is not None:  # something has changed again: begin to wait anew
                    await asyncio.sleep(_SETTLED)
            except TimeoutError:
                pass
            self._hint.clear()
            found = await self._look(used, on_return)
            if found is None or found == used:
                other = None
            elif found == other:
                raise UnderlayChanged(_difference(used, found))
            else:
                other = found

    async def _find(self) -> ExternalInterface:
        kernel = self._kernel
        return await find_external_interface(kernel.netlink, kernel.tables, self._choice)

    async def _look(
        self, used: ExternalInterface, on_return: Callable[[], None]
    ) -> ExternalInterface | None:
        try:
            found = await self._find()
        except NoInterface as why:
            self._conditions.report(Condition.INTERFACE, f"{why}; waiting for it")
            return None
        except KernelError as why:
            self._conditions.report(
                Condition.UNDERLAY, f"cannot look at the external interface: {why}; trying again"
            )
            asyncio.get_running_loop().call_later(_POLL, self._hint.set)
            return None
        self._conditions.clear(Condition.UNDERLAY)
        if self._conditions.clear(Condition.INTERFACE):
            log.info("external interface %s is back", found)
            self._hint.set()
            on_return()
        return _as_used(found, used)


def _as_used(found: ExternalInterface, used: ExternalInterface) -> ExternalInterface:
    """``found`` with the address in use, if it still has that: a second one is no change."""
    if found.link != used.link:
        return found
    if used.address in (each.ip for each in found.networks):
        public = used.public_ip if found.public_ip == found.address else found.public_ip
        found = replace(found, address=used.address, public_ip=public)
    if _reachable(found) == _reachable(used):
        found = replace(found, networks=used.networks)
    return found


def _reachable(interface: ExternalInterface) -> set[IPv4Network]:
    """The networks that have more hosts than this one; an address moves between hosts as /32."""
    return {each.network for each in interface.networks if each.network.prefixlen < 32}


def _difference(before: ExternalInterface, now: ExternalInterface) -> str:
    if (before.link, before.name) != (now.link, now.name):
        return f"the external interface is {now} now, it was {before}"
    if (before.address, before.public_ip) != (now.address, now.public_ip):
        return f"the address of {now.name} is {now.address} now, it was {before.address}"
    if before.mtu != now.mtu:
        return f"the MTU of {now.name} is {now.mtu} now, it was {before.mtu}"
    networks = ", ".join(str(each) for each in now.networks)
    return f"the networks of {now.name} are {networks} now"
