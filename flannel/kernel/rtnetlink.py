"""Many routes, nexthops, neighbours and FDB entries at once: written in batches, read by dump.

A daemon has three or four entries for each peer. Sent one by one through a general netlink
library that is 0.8 ms a peer; packed by `flannel.kernel.rtmessages`, many in one send and only the
last acknowledged, it is little more than the kernel's own work, 10 us (`make bench` measures it).
Errors need no acknowledgement: the kernel reports each with its message's sequence number.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from typing import NamedTuple, Self

from flannel.errors import KernelError
from flannel.kernel import rtmessages as rt
from flannel.kernel.entries import PROTOCOL, Entry, Fdb, Neighbour, Nexthop

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 12  # linux/netlink.h
# asm-generic/socket.h, not in Python's socket: they ignore the sysctl limits and need
# CAP_NET_ADMIN, as everything here does.
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER = 4 << 20

_BATCH = 1024
"""Messages in one send. From 256 on the cost of a message is flat; more would hold the kernel's
rtnl lock longer than other programs on the host may like (1024 is 3 to 5 ms)."""

_DUMP_TRIES = 5


class Failure(NamedTuple):
    """An entry that the kernel refused, and its positive error number."""

    entry: Entry
    errno: int


class RtNetlink:
    """A socket for bulk work on the routing, nexthop, neighbour and FDB tables.

    Not thread-safe. The kernel does its work within the call, so nothing here ever waits for
    anything else. Every method may raise `KernelError`; after one it is not known what was
    written, and the tables have to be read again.

    :ivar port: what the kernel calls this socket in its messages about what was changed by it.
    :ivar has_nexthops: the kernel knows nexthop objects (Linux 5.3 and later).
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        except OSError as error:
            raise KernelError("open a netlink socket", error.errno or errno.EIO) from error
        self._socket.bind((0, 0))
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        for option in (_NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
            with suppress(OSError):  # before Linux 4.3 and 4.20: longer replies, unfiltered dumps
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0
        self.port: int = self._socket.getsockname()[0]
        self.has_nexthops = self._probe_nexthops()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def put(self, entries: Sequence[Entry], *, replace: bool = True) -> list[Failure]:
        """Add entries, or write them over what has their key.

        :param replace: False makes an existing key a failure (EEXIST).
        """
        return self._write(
            entries,
            lambda entry, n, flags: rt.put_message(entry, n, flags, replace=replace),
        )

    def delete(self, entries: Sequence[Entry]) -> list[Failure]:
        """Remove entries; those that are absent do not count as failures."""
        absent = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
        failures = self._write(entries, rt.delete_message)
        return [failure for failure in failures if failure.errno not in absent]

    def list_own(self, network: IPv4Network, link: int = 0) -> list[Entry]:
        """Routes and nexthops that are ours to keep or remove, routes first.

        Ours is what carries our protocol number and leads into ``network``, and, whoever made
        it, every route with a gateway over ``link``, our device.
        """
        low, high = int(network.network_address), int(network.broadcast_address)
        # The routes first: who removes a nexthop takes its routes along. Between the two dumps that
        # leaves a route whose nexthop is not known, which is no route, and both are written again;
        # the other way round a route would be, that names a nexthop which is not there.
        dump = self._dump(rt.RTM_GETROUTE, rt.ROUTES_REQUEST, "list routes")
        hops = self.list_nexthops()
        by_id = {hop.id: hop for hop, _ in hops}
        own: list[Entry] = [
            route
            for each in dump
            if (route := rt.parse_route(each, by_id)) is not None
            and (
                (link and route.link == link)
                or (route.protocol == PROTOCOL and low <= int.from_bytes(route.dst, "big") <= high)
            )
        ]
        own += (hop for hop, protocol in hops if protocol == PROTOCOL and low <= hop.id <= high)
        return own

    def list_foreign_routes(self) -> list[rt.FoundRoute]:
        """The unicast IPv4 routes of the main table that other programs, or people, have made."""
        dump = self._dump(rt.RTM_GETROUTE, rt.ROUTES_REQUEST, "list routes")
        return [route for each in dump if (route := rt.parse_foreign_route(each)) is not None]

    def list_blackholes(self) -> set[IPv4Network]:
        """The destinations of our blackhole routes, which `list_own` leaves out."""
        dump = self._dump(rt.RTM_GETROUTE, rt.BLACKHOLES_REQUEST, "list blackhole routes")
        return {found for each in dump if (found := rt.parse_blackhole(each)) is not None}

    def list_nexthops(self) -> list[tuple[Nexthop, int]]:
        """Every nexthop object with one IPv4 gateway, and its protocol."""
        if not self.has_nexthops:
            return []
        dump = self._dump(rt.RTM_GETNEXTHOP, rt.NEXTHOPS_REQUEST, "list nexthops")
        return [found for each in dump if (found := rt.parse_nexthop(each)) is not None]

    def list_neighbours(self, link: int) -> list[Neighbour]:
        """The permanent IPv4 neighbours of a link."""
        dump = self._dump(rt.RTM_GETNEIGH, rt.neighbours_request(link), "list neighbours")
        return [entry for each in dump if (entry := rt.parse_neighbour(each, link)) is not None]

    def list_fdb(self, link: int) -> list[Fdb]:
        """The permanent FDB entries of a VXLAN link."""
        dump = self._dump(rt.RTM_GETNEIGH, rt.fdb_request(link), "list the FDB")
        return [entry for each in dump if (entry := rt.parse_fdb(each, link)) is not None]

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
                Failure(batch[n - first], number)
                for n, number in self._read_acks(last)
                if number and n >= first
            )
        return failures

    def _read_acks(self, last: int) -> Iterator[tuple[int, int]]:
        """Yield (sequence number, error number) until the acknowledgement of ``last``."""
        while True:
            for kind, _, sequence, payload in self._receive():
                if kind == rt.NLMSG_ERROR:
                    yield sequence, _error_number(payload)
                    if sequence == last:
                        return

    def _dump(self, kind: int, request: bytes, doing: str) -> list[bytes]:
        """The payloads of a dump; taken again when the table changed under it."""
        for _ in range(_DUMP_TRIES):
            self._sequence += 1
            length = rt.HEADER.size + len(request)
            flags = rt.NLM_F_REQUEST | rt.NLM_F_DUMP
            self._send(rt.HEADER.pack(length, kind, flags, self._sequence, 0) + request)
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
                    continue  # the late rest of a request that failed
                if flags & rt.NLM_F_DUMP_INTR:
                    whole = False
                if kind == rt.NLMSG_DONE:
                    return payloads, whole
                if kind == rt.NLMSG_ERROR:
                    raise KernelError(doing, _error_number(payload))
                payloads.append(payload)

    def _probe_nexthops(self) -> bool:
        self.has_nexthops = True
        try:
            self.list_nexthops()
        except KernelError as error:
            if error.errno == errno.EOPNOTSUPP:
                return False
            raise
        return True

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelError("write to netlink", error.errno or errno.EIO) from error

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of one datagram: (type, flags, sequence number, payload)."""
        try:
            data = self._socket.recv(1 << 20)
        except OSError as error:  # ENOBUFS among them: replies were lost
            raise KernelError("read from netlink", error.errno or errno.EIO) from error
        offset = 0
        while offset + rt.HEADER.size <= len(data):
            length, kind, flags, sequence, _ = rt.HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + rt.HEADER.size : offset + length]
            offset += (length + 3) & ~3


def _error_number(payload: bytes) -> int:
    number: int = struct.unpack_from("=i", payload)[0]
    return -number
