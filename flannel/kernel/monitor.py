"""Monitor: hears from the kernel when something of ours may have changed.

It gives hints and nothing more: what is there is read by whoever acts on one, on the same path as
at start. So a message too many costs a comparison, and one that was lost is made up for by the
next comparison; when the kernel says that it has dropped some (ENOBUFS), that counts as a hint.

What we write ourselves comes back as messages too. Those of `flannel.kernel.rtnetlink`, thousands,
carry its port and a socket filter in the kernel drops them; so it does with the ARP traffic of
other links. Two kinds carry no port, whoever is behind them: VXLAN's FDB messages
(vxlan_fdb_notify in drivers/net/vxlan), and that an ARP entry is gone
(neigh_cleanup_and_release in net/core). They are compared with what we believe to be there.
"""

import asyncio
import enum
import errno
import socket
import struct
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Self

from flannel.errors import KernelError
from flannel.kernel import rtmessages as rt
from flannel.kernel.entries import Entry, Key, Neighbour, key

QUIET = 0.05
"""Seconds from the first message to the hint: who takes one thing away often takes several."""

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1  # linux/netlink.h
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
_BUFFER = 4 << 20

# enum rtnetlink_groups: links, neighbours and FDB, IPv4 addresses, IPv4 routes, nexthops.
_GROUPS = (1, 3, 5, 7)
_GROUP_NEXTHOP = 32  # Linux 5.3

_BATCH = 512
"""Messages read before other tasks get a turn."""

# linux/filter.h: load 32 or 16 bits in network order; jump if equal; end with that many bytes.
_LOAD_32, _LOAD_16, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")


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
    """What is ours.

    :ivar device: the name of the network's own link; "" if it has none.
    :ivar external: the name of the external interface.
    :ivar holds: what we believe the kernel to hold at a key.
    """

    network: IPv4Network
    device: str
    external: str
    holds: Callable[[Key], Entry | None]


class Monitor:
    """A subscription to the kernel's messages; ``with Monitor(tables.port) as monitor: ...``.

    :param own_port: the netlink port of the socket that writes our entries.
    """

    def __init__(self, own_port: int) -> None:
        self._own_port = own_port
        self._watched: Watched | None = None
        self._device = self._external = 0
        self._range = range(0)
        self._on_hint: Callable[[Hint], None] = lambda _: None
        self._hint = Hint.NOTHING
        self._unsigned: dict[Key, Entry | None] = {}
        """What the messages without a port say."""
        self._timer: asyncio.TimerHandle | None = None
        self.overruns = 0
        self.last_port = 0
        """Who made the last change that was not ours: a netlink port, often a process id."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
        except OSError as error:
            raise KernelError("open a netlink socket", error.errno or errno.EIO) from error
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)

    def __enter__(self) -> Self:
        self._attach_filter()
        try:
            self._socket.bind((0, 0))
            for group in _GROUPS:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise KernelError("follow the kernel's changes", error.errno or errno.EIO) from error
        with suppress(OSError):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _GROUP_NEXTHOP)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

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
        if self._device != before:
            self._attach_filter()

    def _read(self) -> None:
        """Read what has come. Once there is a hint, what follows tells nothing new: it waits."""
        hint = self._drain()
        if (hint or self._unsigned) and self._timer is None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            self._timer = loop.call_later(QUIET, self._tell)
        self._hint |= hint

    def _tell(self) -> None:
        self._timer = None
        self._hint |= self._drain()
        asyncio.get_running_loop().add_reader(self._socket, self._read)
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
        hint = Hint.NOTHING
        for _ in range(_BATCH):
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1  # the socket works on, some messages are lost
                hint = ANYTHING
                continue
            # One message a datagram, as notifications come.
            _, kind, _, _, port = rt.HEADER.unpack_from(data)
            about = self._about(kind, data[rt.HEADER.size :])
            if about:
                hint |= about
                self.last_port = port
        return hint

    def _about(self, kind: int, payload: bytes) -> Hint:
        if kind in (rt.RTM_NEWNEIGH, rt.RTM_DELNEIGH):
            return self._about_neighbour(kind == rt.RTM_NEWNEIGH, payload)
        if kind in (rt.RTM_NEWROUTE, rt.RTM_DELROUTE):
            return self._about_route(payload)
        if kind in (rt.RTM_NEWNEXTHOP, rt.RTM_DELNEXTHOP):
            return Hint.OVERLAY if rt.parse_nexthop_id(payload) in self._range else Hint.NOTHING
        if kind in (rt.RTM_NEWADDR, rt.RTM_DELADDR):
            return self._about_link(rt.parse_address_link(payload))
        if kind in (rt.RTM_NEWLINK, rt.RTM_DELLINK):
            index, name = rt.parse_link_name(payload)
            return self._about_link(index) or self._about_name(name)
        return Hint.NOTHING

    def _about_link(self, index: int) -> Hint:
        if index == self._device:
            return Hint.OVERLAY
        # What stands on the external interface falls and rises with it.
        return ANYTHING if index == self._external else Hint.NOTHING

    def _about_name(self, name: str) -> Hint:
        """Of a link that is new, and may be called as ours was."""
        if self._watched is None or name not in (self._watched.device, self._watched.external):
            return Hint.NOTHING
        return ANYTHING

    def _about_route(self, payload: bytes) -> Hint:
        found = rt.parse_route_change(payload)
        if found is None:
            return Hint.NOTHING
        dst, link, is_own = found
        if dst is None:  # the default route
            return Hint.UNDERLAY
        if is_own or dst in self._range or (link and link == self._device):
            return Hint.OVERLAY
        return Hint.NOTHING

    def _about_neighbour(self, is_there: bool, payload: bytes) -> Hint:
        family, link = rt.parse_neighbour_link(payload)
        if not self._device or link != self._device:
            return Hint.NOTHING
        if family == socket.AF_INET:
            if is_there:
                return Hint.OVERLAY
            self._unsigned[Neighbour, rt.parse_neighbour_ip(payload), link] = None
            return Hint.NOTHING
        fdb = rt.parse_fdb(payload, link)
        if fdb is not None:
            # The last message of each key is what counts, and it is not the time to judge yet.
            self._unsigned[key(fdb)] = fdb if is_there else None
        return Hint.NOTHING

    def _attach_filter(self) -> None:
        """Drop our own messages and other links' neighbours before they are queued."""
        # It loads in network order what lies there in host order.
        program = [
            (_LOAD_32, 0, 0, 12),  # nlmsg_pid
            (_JUMP_EQUAL, 6, 0, socket.htonl(self._own_port)),
            (_LOAD_16, 0, 0, 4),  # nlmsg_type
            (_JUMP_EQUAL, 1, 0, socket.htons(rt.RTM_NEWNEIGH)),
            (_JUMP_EQUAL, 0, 2, socket.htons(rt.RTM_DELNEIGH)),
            (_LOAD_32, 0, 0, rt.HEADER.size + 4),  # ndm_ifindex
            (_JUMP_EQUAL, 0, 1, socket.htonl(self._device)),
            (_RETURN, 0, 0, 1 << 16),
            (_RETURN, 0, 0, 0),
        ]
        code = array("B", b"".join(_INSTRUCTION.pack(*each) for each in program))
        address, _ = code.buffer_info()
        # It is a saving: `_about` judges for itself. A kernel without it may still be followed.
        with suppress(OSError):
            self._socket.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(program), address)
            )


def _index(name: str) -> int:
    if name:
        with suppress(OSError):
            return socket.if_nametoindex(name)
    return 0
