"""Monitor: gives hints when the kernel reports that something of ours may have changed.

It gives only hints: after one, the kernel's tables are read and compared by the same path as at
the start. A superfluous message costs one comparison. After an error of the socket, such as ENOBUFS
when the kernel dropped messages, the socket is opened anew and the hint is `ANYTHING`.

Our own writes cause messages too. A filter drops those of `flannel.kernel.rtnetlink`, which are
thousands. Two kinds carry no port at all: VXLAN's FDB messages (vxlan_fdb_notify in
drivers/net/vxlan), and the removal of an ARP entry (neigh_cleanup_and_release in net/core). They
are compared with the entries that we believe to exist.
"""

import asyncio
import enum
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Self

from flannel.errors import KernelError
from flannel.kernel import rtlayout as rt
from flannel.kernel import rtmessages, rtnotices
from flannel.kernel.entries import Entry, Key, Neighbour, key
from flannel.kernel.subscription import Notice, Subscription

log = logging.getLogger(__name__)

QUIET = 0.05
"""Seconds from the first message to the hint, as changes often come in series."""

_BATCH = 512
"""Messages read before other tasks get a turn."""

_RETRY = 1.0
"""Seconds between two attempts to open the socket anew."""


class Hint(enum.Flag):
    """What may have changed."""

    NOTHING = 0
    OVERLAY = enum.auto()
    """The network's own device, its addresses, or an entry that leads into the network."""
    UNDERLAY = enum.auto()
    """The external interface, its addresses, or the default route."""


ANYTHING = Hint.OVERLAY | Hint.UNDERLAY


@dataclass(frozen=True, slots=True)
class Watched:
    """The parts of the network to watch.

    :ivar device: the name of the network's own link; "" if it has none.
    :ivar external: the name of the external interface.
    :ivar holds: returns the entry that we believe the kernel to hold at a key.
    """

    network: IPv4Network
    device: str
    external: str
    holds: Callable[[Key], Entry | None]


class Monitor:
    """A subscription to the kernel's messages; ``with Monitor(tables.port) as monitor: ...``.

    :param own_port: the netlink port of the socket that writes our entries.
    :param subscribe: opens the socket.
    :ivar last_port: the netlink port of the socket that made the last change of ours by others,
        often a process id.
    """

    def __init__(
        self, own_port: int, subscribe: Callable[[int], Subscription] = Subscription
    ) -> None:
        self.last_port = 0
        self._own_port = own_port
        self._subscribe = subscribe
        self._subscription: Subscription | None = None
        self._watched: Watched | None = None
        self._device = self._external = 0
        self._range = range(0)
        self._on_hint: Callable[[Hint], None] = lambda _: None
        self._hint = Hint.NOTHING
        self._unsigned: dict[Key, Entry | None] = {}
        """By key, what the messages without a port report."""
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Begin to receive.

        :raises KernelError: the socket cannot be opened.
        """
        self._subscription = self._subscribe(self._own_port)
        asyncio.get_running_loop().add_reader(self._subscription, self._read)
        return self

    def __exit__(self, *exc: object) -> None:
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        self._close()

    def watch(self, watched: Watched, on_hint: Callable[[Hint], None]) -> None:
        """Begin to give hints about ``watched``, instead of what was watched before."""
        self._watched, self._on_hint = watched, on_hint
        network = watched.network
        self._range = range(int(network.network_address), int(network.broadcast_address) + 1)
        self._hint = Hint.NOTHING
        self._unsigned.clear()
        self._find_links()

    def _find_links(self) -> None:
        assert self._watched is not None
        before = self._device
        self._device = _index(self._watched.device)
        self._external = _index(self._watched.external)
        if self._device != before and self._subscription is not None:
            self._subscription.focus(self._device)

    def _read(self) -> None:
        """Read the waiting messages; after a hint the rest are left unread, as they add nothing."""
        hint = self._drain()
        if hint or self._unsigned:
            self._tell_soon()
        self._hint |= hint

    def _tell_soon(self) -> None:
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        if self._subscription is not None:
            loop.remove_reader(self._subscription)
        self._timer = loop.call_later(QUIET, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._hint |= self._drain()
        if self._subscription is not None:
            asyncio.get_running_loop().add_reader(self._subscription, self._read)
        if self._watched is None:
            return
        holds = self._watched.holds
        if any(holds(each) != entry for each, entry in self._unsigned.items()):
            self._hint |= Hint.OVERLAY
        self._unsigned.clear()
        hint, self._hint = self._hint, Hint.NOTHING
        if hint:
            self._find_links()
            self._on_hint(hint)

    def _drain(self) -> Hint:
        if self._subscription is None:
            return Hint.NOTHING
        try:
            notices = self._subscription.read(_BATCH)
        except KernelError as why:
            log.debug("%s; opening the socket anew and comparing everything", why)
            self._close()
            self._open()
            return ANYTHING
        hint = Hint.NOTHING
        for notice in notices:
            about = self._about(notice)
            if about:
                hint |= about
                self.last_port = notice.port
        return hint

    def _open_later(self) -> None:
        self._retry = None
        self._open()
        if self._subscription is not None:
            self._hint |= ANYTHING
            self._tell_soon()

    def _open(self) -> None:
        """Open the socket; on failure try again later, while the regular comparisons go on."""
        try:
            self._subscription = self._subscribe(self._own_port)
        except KernelError as why:
            log.debug("%s; trying again", why)
            self._retry = asyncio.get_running_loop().call_later(_RETRY, self._open_later)
            return
        self._subscription.focus(self._device)

    def _close(self) -> None:
        if self._subscription is not None:
            asyncio.get_running_loop().remove_reader(self._subscription)
            self._subscription.close()
            self._subscription = None

    def _about(self, notice: Notice) -> Hint:
        kind, payload = notice.kind, notice.payload
        if kind in (rt.RTM_NEWNEIGH, rt.RTM_DELNEIGH):
            return self._about_neighbour(kind == rt.RTM_NEWNEIGH, payload)
        if kind in (rt.RTM_NEWROUTE, rt.RTM_DELROUTE):
            return self._about_route(payload)
        if kind in (rt.RTM_NEWNEXTHOP, rt.RTM_DELNEXTHOP):
            is_inside = rtnotices.parse_nexthop_id(payload) in self._range
            return Hint.OVERLAY if is_inside else Hint.NOTHING
        if kind in (rt.RTM_NEWADDR, rt.RTM_DELADDR):
            return self._about_link(rtnotices.parse_address_link(payload))
        if kind in (rt.RTM_NEWLINK, rt.RTM_DELLINK):
            index, name = rtnotices.parse_link_name(payload)
            return self._about_link(index) or self._about_name(name)
        return Hint.NOTHING

    def _about_link(self, index: int) -> Hint:
        if index == self._device:
            return Hint.OVERLAY
        # The overlay's device depends on the external interface.
        return ANYTHING if index == self._external else Hint.NOTHING

    def _about_name(self, name: str) -> Hint:
        """A link that is new may have the name that ours had."""
        if self._watched is None or name not in (self._watched.device, self._watched.external):
            return Hint.NOTHING
        return ANYTHING

    def _about_route(self, payload: bytes) -> Hint:
        found = rtnotices.parse_route_change(payload)
        if found is None:
            return Hint.NOTHING
        if found.dst is None:  # the default route
            return Hint.UNDERLAY
        is_over_device = found.link != 0 and found.link == self._device
        if found.is_own or found.dst in self._range or is_over_device:
            return Hint.OVERLAY
        return Hint.NOTHING

    def _about_neighbour(self, is_there: bool, payload: bytes) -> Hint:
        family, link = rtnotices.parse_neighbour_link(payload)
        if not self._device or link != self._device:
            return Hint.NOTHING
        if family == socket.AF_INET:
            if is_there:
                return Hint.OVERLAY
            self._unsigned[Neighbour, rtnotices.parse_neighbour_ip(payload), link] = None
            return Hint.NOTHING
        fdb = rtmessages.parse_fdb(payload, link)
        if fdb is not None:
            # The last message of each key counts, and it is too early to judge.
            self._unsigned[key(fdb)] = fdb if is_there else None
        return Hint.NOTHING


def _index(name: str) -> int:
    if name:
        with suppress(OSError):
            return socket.if_nametoindex(name)
    return 0
