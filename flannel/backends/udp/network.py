"""UdpNetwork: the peers' leases as the packet loop's table, and the loop in its threads.

Python is asked nothing for a packet. It opens the TUN device and the socket, hands them to C in
threads of their own, and looks at the counters now and then.
"""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from time import monotonic

from flannel.backends.udp import sockets, tun
from flannel.backends.udp.dataplane import GIVEN_UP, Dataplane, Settings, pack_route
from flannel.errors import BadLease, KernelError
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Entry, Key
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, Peers
from flannel.once import Once

log = logging.getLogger(__name__)

_WATCH = 1.0
"""Seconds between two looks at the counters, and between attempts to carry on."""

_TELL_DROPS = 60.0
"""Seconds between two log lines about dropped packets."""

_TRAFFIC = {
    *("tx_packets", "tx_bytes", "rx_packets", "rx_bytes", "given_up"),
    *("tx_batches", "rx_batches", "rx_writes", "tx_alone", "icmp_sent", "icmp_limited"),
}
"""The counters that do not count drops."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What does not change in the life of a network."""

    settings: Settings
    interface: ExternalInterface
    n_threads: int


class UdpNetwork:
    """Serves one lease over the TUN device."""

    device = tun.NAME
    guard = None  # the packet loop itself takes only what peers send

    def __init__(self, kernel: Kernel, tunnel: Tunnel) -> None:
        self.mtu = tunnel.settings.mtu
        self._kernel = kernel
        self._tunnel = tunnel
        self._dataplane = Dataplane(tunnel.settings)
        self._routes: dict[IPv4Network, bytes] = {}
        self._peers_known = asyncio.Event()
        self._carrying = asyncio.Event()
        self._bad_leases = Once(log)
        self._said = Once(log)
        self._told: dict[str, int] = {}
        self._told_at = monotonic()

    def stats(self) -> dict[str, int]:
        """The packet loop's counters; see ``struct flannel_stats`` in csrc/dataplane.cdef."""
        return self._dataplane.stats()

    def counters(self) -> Mapping[str, int]:
        """See `flannel.backends.Network`."""
        return {name: count for name, count in self.stats().items() if name not in _TRAFFIC}

    def trouble(self) -> str:
        """See `flannel.backends.Network`."""
        if self._carrying.is_set():
            return ""
        if self._said.told("run") or not self._peers_known.is_set():
            return self._said.told("run")
        return "the packet loop is not running"

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        """See `flannel.backends.Network`."""
        before = self._routes.copy()
        for subnet in peers.keys() | before.keys() if changed is None else changed:
            self._plan(subnet, peers.get(subnet))
        if self._routes != before:
            self._dataplane.set_routes(self._routes.values())
        self._peers_known.set()
        if changed is None:
            await self._carrying.wait()
            await self._ensure_device()

    def _plan(self, subnet: IPv4Network, lease: Lease | None) -> None:
        if lease is not None:
            try:
                self._routes[subnet] = self.plan(lease)
            except BadLease as why:
                self._bad_leases.warn(subnet, f"cannot use lease {lease}: {why}")
            else:
                self._bad_leases.forget(subnet)
                return
        else:
            self._bad_leases.forget(subnet)
        self._routes.pop(subnet, None)

    def plan(self, lease: Lease) -> bytes:
        """The entry for one peer in the packet loop's table.

        Whatever backend its lease names: all that udp has to know is the address, and upstream's
        udp, which names none, takes every lease too.

        :raises BadLease: it has the address of this host.
        """
        attrs = lease.attrs
        interface = self._tunnel.interface
        if attrs.public_ip in (interface.address, interface.public_ip):
            raise BadLease(f"{attrs.public_ip} is the address of this host")
        return pack_route(lease.subnet, attrs.public_ip)

    def holds(self, at: Key) -> Entry | None:
        """It writes none of them."""

    async def run(self) -> None:
        """Carry packets until cancelled; a device that is deleted is made again."""
        while True:
            try:
                async with self._attached() as ended:
                    await self._watch(ended)
            except _DeviceGone:
                self._kernel.repairs.note("it was gone")
                await asyncio.sleep(self._kernel.repairs.pause)
            except KernelError as why:
                self._said.warn("run", f"cannot carry packets: {why}; trying again")
                await asyncio.sleep(_WATCH)

    @asynccontextmanager
    async def _attached(self) -> AsyncIterator["asyncio.Future[list[None]]"]:
        """The loop's threads, running; the future is done when one of them has failed."""
        tunnel = self._tunnel
        store, n, port = self._kernel.descriptors, tunnel.n_threads, tunnel.settings.port
        await tun.ensure_usable(self._kernel, tunnel.settings.network, n)
        # They stay open in the store, so that what comes before the next loop runs waits for it.
        device = tun.attached(store, n)
        udp_fds = sockets.bound(store, tunnel.interface.address, port, n)
        self._dataplane.set(replace(tunnel.settings, merge_udp=device.has_uso))
        await self._ensure_device()
        await self._peers_known.wait()  # without them, all that waits there would be dropped
        with ExitStack() as stack:
            stack.callback(self._tell_drops)  # all of them: the threads have ended then
            stop = stack.enter_context(_event())
            threads = stack.enter_context(ThreadPoolExecutor(n, "packets"))
            # On the way out: first this, then wait for the threads.
            stack.callback(os.eventfd_write, stop, 1)
            loop = asyncio.get_running_loop()
            runs = [
                loop.run_in_executor(threads, self._dataplane.run, queue, udp, stop)
                for queue, udp in zip(device.queues, udp_fds, strict=True)
            ]
            log.info("carrying packets between %s and UDP port %d", tun.NAME, port)
            self._carrying.set()
            try:
                # When the device goes, all of them fail: of the others it forgets why.
                yield asyncio.gather(*runs)
            finally:
                self._carrying.clear()

    async def _watch(self, ended: "asyncio.Future[list[None]]") -> None:
        """Tell what the loop drops, until it ends."""
        while True:
            done, _ = await asyncio.wait([ended], timeout=_WATCH)
            if done:
                error = ended.exception()
                number = error.errno if isinstance(error, OSError) else None
                if number is None:
                    raise RuntimeError("the packet loop has ended by itself") from error
                if number in (errno.ENODEV, errno.EBADFD):
                    raise _DeviceGone
                raise KernelError(f"read from {tun.NAME}", number) from error
            self._tell()
            self._said.forget("run")

    async def _ensure_device(self) -> None:
        await tun.ensure_device(self._kernel, self._tunnel.settings)

    def _tell(self) -> None:
        """Log what the loop has given up, and now and then what it has dropped."""
        stats = self.stats()
        for bit, what in GIVEN_UP.items():
            if stats["given_up"] & bit:
                self._said.warn(bit, f"this kernel or the link has no {what}")
        if monotonic() - self._told_at >= _TELL_DROPS:
            self._tell_drops()

    def _tell_drops(self) -> None:
        stats = self.stats()
        moved = {
            name: stats[name] - self._told.get(name, 0)
            for name in stats.keys() - _TRAFFIC
            if stats[name] != self._told.get(name, 0)
        }
        if moved:
            counts = ", ".join(f"{name} {count}" for name, count in sorted(moved.items()))
            log.warning("packets dropped since the last such line: %s", counts)
        self._told, self._told_at = stats, monotonic()


class _DeviceGone(Exception):
    """Somebody has deleted the TUN device."""


@contextmanager
def _event() -> Iterator[int]:
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        yield event
    finally:
        os.close(event)
