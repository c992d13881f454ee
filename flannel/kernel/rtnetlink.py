"""RtNetlink: writes routes, nexthops, neighbours and FDB entries in batches, reads them by dump.

flanneld has three or four entries for each peer. A general netlink library, which sends them one by
one, takes 0.8 ms a peer. Here `flannel.kernel.rtmessages` packs many into one send, and the kernel
acknowledges only the last: 10 us a peer, little more than the kernel's own work (`make bench`
measures it). The kernel reports each error with the sequence number of its message.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from typing import NamedTuple, Self, TypeVar

from flannel.errors import KernelError, refusal
from flannel.kernel import rtlayout as rt
from flannel.kernel import rtmessages
from flannel.kernel.entries import PROTOCOL, Entry, Fdb, Neighbour, Nexthop

T = TypeVar("T")

# asm-generic/socket.h; Python's socket lacks them. They ignore the sysctl limits, and need
# CAP_NET_ADMIN, as all of this module does.
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER = 4 << 20
_LONGEST = 1 << 20
_TIMEVAL = struct.Struct("@ll")
_PATIENCE = 5
"""Seconds to wait for an answer. The kernel does its work during the send, and answers at once."""

_BATCH = 1024
"""Messages in one send. From 256 on, the cost of a message stays the same. A send holds the
kernel's rtnl lock, which other programs need: 3 to 5 ms for 1024 messages."""

_DUMP_TRIES = 5


class Failure(NamedTuple):
    """An entry that the kernel refused, its positive error number, and its own words, if any."""

    entry: Entry
    errno: int
    words: str = ""

    @property
    def why(self) -> str:
        """The reason, for messages."""
        return refusal(self.errno, self.words)


def open_socket(port: int) -> socket.socket:
    """A socket for `RtNetlink`, with this netlink port if it is free; 0: any port.

    :raises OSError: it cannot be opened.
    """
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        try:
            opened.bind((port, 0))
        except OSError:
            opened.bind((0, 0))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(_PATIENCE, 0))
    except OSError:
        opened.close()
        raise
    for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
        with suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    for option in (rt.NETLINK_CAP_ACK, rt.NETLINK_EXT_ACK, rt.NETLINK_GET_STRICT_CHK):
        # Before Linux 4.3, 4.12 and 4.20: longer replies, no explanations, unfiltered dumps.
        with suppress(OSError):
            opened.setsockopt(rt.SOL_NETLINK, option, 1)
    return opened


class RtNetlink:
    """A socket for bulk work on the routing, nexthop, neighbour and FDB tables.

    Not thread-safe. The kernel does its work during the call, so no method waits for anything else.
    Every method may raise `KernelError`; after that the caller must read the tables again, because
    some entries may have been written. After an error of the socket itself, such as ENOBUFS, the
    next call opens a new socket.

    :param open_: opens the socket.
    :ivar port: the netlink port; the kernel's notices of our own changes contain it.
    :ivar has_nexthops: the kernel has nexthop objects (Linux 5.3 and later).
    """

    def __init__(self, open_: Callable[[int], socket.socket] = open_socket) -> None:
        self._open = open_
        self._socket: socket.socket | None = None
        self._sequence = 0
        self.port = 0
        self._connect()
        self.has_nexthops = self._probe_nexthops()

    def _connect(self) -> socket.socket:
        if self._socket is None:
            try:
                self._socket = self._open(self.port)
            except OSError as error:
                raise KernelError("open a netlink socket", error.errno or errno.EIO) from error
            self.port = self._socket.getsockname()[0]
        return self._socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def put(self, entries: Sequence[Entry]) -> list[Failure]:
        """Add entries, or overwrite those with the same keys.

        The kernel refuses a nexthop whose id is in use (EEXIST).
        """
        return self._write(entries, rtmessages.put_message)

    def delete(self, entries: Sequence[Entry]) -> list[Failure]:
        """Delete entries; a missing entry is not a failure."""
        absent = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
        failures = self._write(entries, rtmessages.delete_message)
        return [failure for failure in failures if failure.errno not in absent]

    def list_own(self, network: IPv4Network, link: int = 0) -> list[Entry]:
        """Our routes and nexthops, routes first.

        Ours are those with our protocol number that lead into ``network``, and all routes with a
        gateway over ``link``, our device, no matter which program made them.
        """
        low, high = int(network.network_address), int(network.broadcast_address)
        # Routes are dumped first, because the kernel deletes a nexthop's routes along with it. If
        # that happens between the two dumps, the route names an unknown nexthop, is left out, and
        # both are written again. With nexthops first, a nexthop that is gone would be listed.
        dump = self.dump(rt.RTM_GETROUTE, rtmessages.ROUTES_REQUEST, "list routes")
        hops = self.list_nexthops()
        by_id = {hop.id: hop for hop, _ in hops}
        own: list[Entry] = [
            route
            for each in dump
            if (route := rtmessages.parse_route(each, by_id)) is not None
            and (
                (link and route.link == link)
                or (route.protocol == PROTOCOL and low <= int.from_bytes(route.dst, "big") <= high)
            )
        ]
        own += (hop for hop, protocol in hops if protocol == PROTOCOL and low <= hop.id <= high)
        return own

    def list_foreign_routes(self) -> list[rtmessages.FoundRoute]:
        """The unicast IPv4 routes of the main table that do not have our protocol number."""
        dump = self.dump(rt.RTM_GETROUTE, rtmessages.ROUTES_REQUEST, "list routes")
        return _found(map(rtmessages.parse_foreign_route, dump))

    def list_routes_to(self, dst: IPv4Network) -> list[rtmessages.FoundRoute]:
        """The unicast IPv4 routes of the main table whose destination is exactly ``dst``."""
        dump = self.dump(rt.RTM_GETROUTE, rtmessages.ROUTES_REQUEST, "list routes")
        return [
            route for route in _found(map(rtmessages.parse_any_route, dump)) if route.dst == dst
        ]

    def list_direct(self) -> list[rtmessages.FoundRoute]:
        """Our routes over a link without a gateway, which `list_own` leaves out."""
        dump = self.dump(rt.RTM_GETROUTE, rtmessages.ROUTES_REQUEST, "list routes")
        return _found(map(rtmessages.parse_direct_route, dump))

    def list_blackholes(self) -> set[IPv4Network]:
        """The destinations of our blackhole routes, which `list_own` leaves out."""
        dump = self.dump(rt.RTM_GETROUTE, rtmessages.BLACKHOLES_REQUEST, "list blackhole routes")
        return set(_found(map(rtmessages.parse_blackhole, dump)))

    def list_nexthops(self) -> list[tuple[Nexthop, int]]:
        """Every nexthop object with one IPv4 gateway, and its protocol."""
        if not self.has_nexthops:
            return []
        dump = self.dump(rt.RTM_GETNEXTHOP, rtmessages.NEXTHOPS_REQUEST, "list nexthops")
        return _found(map(rtmessages.parse_nexthop, dump))

    def list_neighbours(self, link: int) -> list[Neighbour]:
        """The permanent IPv4 neighbours of a link."""
        dump = self.dump(rt.RTM_GETNEIGH, rtmessages.neighbours_request(link), "list neighbours")
        return _found(rtmessages.parse_neighbour(each, link) for each in dump)

    def list_fdb(self, link: int) -> list[Fdb]:
        """The permanent FDB entries of a VXLAN link."""
        dump = self.dump(rt.RTM_GETNEIGH, rtmessages.fdb_request(link), "list the FDB")
        return _found(rtmessages.parse_fdb(each, link) for each in dump)

    def _write(
        self, entries: Sequence[Entry], message: Callable[[Entry, int, int], bytes]
    ) -> list[Failure]:
        failures: list[Failure] = []
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            first = self._sequence + 1
            last = self._sequence = self._sequence + len(batch)
            messages = [message(entry, n, 0) for n, entry in enumerate(batch[:-1], first)]
            messages.append(message(batch[-1], last, rt.NLM_F_ACK))
            self._send(b"".join(messages))
            failures += (
                Failure(batch[n - first], number, words)
                for n, number, words in self._read_acks(last)
                if number and n >= first
            )
        return failures

    def _read_acks(self, last: int) -> Iterator[tuple[int, int, str]]:
        """Yield (sequence number, error number, words) until the acknowledgement of ``last``."""
        while True:
            for kind, flags, sequence, payload in self._receive():
                if kind == rt.NLMSG_ERROR:
                    yield sequence, _error_number(payload), rt.explanation(flags, payload)
                    if sequence == last:
                        return

    def request(self, kind: int, doing: str, *parts: bytes) -> None:
        """Send one message, made of a body and attributes, and wait for the acknowledgement."""
        self._sequence += 1
        flags = rt.NLM_F_REQUEST | rt.NLM_F_ACK
        self._send(rt.message(kind, self._sequence, flags, *parts))
        for sequence, number, words in self._read_acks(self._sequence):
            if number and sequence == self._sequence:
                raise KernelError(doing, number, words)

    def dump(self, kind: int, request: bytes, doing: str) -> list[bytes]:
        """The payloads of a dump; repeated if the table changed during the dump."""
        for _ in range(_DUMP_TRIES):
            self._sequence += 1
            flags = rt.NLM_F_REQUEST | rt.NLM_F_DUMP
            self._send(rt.message(kind, self._sequence, flags, request))
            payloads, whole = self._read_dump(doing)
            if whole:
                return payloads
        raise KernelError(doing, errno.EINTR)

    def _read_dump(self, doing: str) -> tuple[list[bytes], bool]:
        payloads: list[bytes] = []
        whole = True
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue  # a late answer to an earlier request that failed
                if flags & rt.NLM_F_DUMP_INTR:
                    whole = False
                if kind == rt.NLMSG_DONE:
                    return payloads, whole
                if kind == rt.NLMSG_ERROR:
                    number, words = _error_number(payload), rt.explanation(flags, payload)
                    raise KernelError(doing, number, words)
                payloads.append(payload)

    def _probe_nexthops(self) -> bool:
        self.has_nexthops = True
        try:
            self.dump(rt.RTM_GETNEXTHOP, rtmessages.NO_NEXTHOPS_REQUEST, "list nexthops")
        except KernelError as error:
            if error.errno == errno.EOPNOTSUPP:
                return False
            raise
        return True

    def _send(self, data: bytes) -> None:
        connected = self._connect()
        try:
            connected.send(data)
        except OSError as error:
            raise self._broken("write to netlink", error) from error

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of one datagram: (type, flags, sequence number, payload)."""
        connected = self._connect()
        try:
            data = connected.recv(_LONGEST)
        except OSError as error:  # for example ENOBUFS: replies were lost
            raise self._broken("read from netlink", error) from error
        offset = 0
        while offset + rt.HEADER.size <= len(data):
            length, kind, flags, sequence, _ = rt.HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + rt.HEADER.size : offset + length]
            offset += rt.aligned(length)

    def _broken(self, doing: str, error: OSError) -> KernelError:
        """Close the socket, so that no answer to the failed request is taken for a later one."""
        self._disconnect()
        number = error.errno or errno.EIO
        return KernelError(doing, errno.ETIMEDOUT if number == errno.EAGAIN else number)


def _found(parsed: Iterable[T | None]) -> list[T]:
    return [each for each in parsed if each is not None]


def _error_number(payload: bytes) -> int:
    (number,) = rt.ERROR.unpack_from(payload)
    return -int(number)
