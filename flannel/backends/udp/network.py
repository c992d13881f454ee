"""UdpNetwork: the peers' leases as the packet loop's table, and the loop in its threads.

No packet passes through Python. It opens the TUN device and the sockets, hands them to C in threads
of their own, and reads the counters once a second.
"""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Network
from time import monotonic

from flannel.backends.udp import sockets, threads, tun
from flannel.backends.udp.dataplane import DROPS, GIVEN_UP, Dataplane, Settings, pack_route
from flannel.errors import BadLease, KernelError
from flannel.firewall.rules import Guard
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Entry, Key
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, Peers
from flannel.once import Once

log = logging.getLogger(__name__)

_WATCH = 1.0
"""Seconds between two readings of the counters, and between two attempts to carry packets."""

_DROPS_LOGGED = 60.0
"""Seconds between two log lines about dropped packets."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The part of a network that stays the same while it runs."""

    settings: Settings
    interface: ExternalInterface
    n_threads: int


class UdpNetwork:
    """Serves one lease over the TUN device."""

    device = tun.NAME

    def __init__(self, kernel: Kernel, tunnel: Tunnel) -> None:
        self.mtu = tunnel.settings.mtu
        # The packet loop checks arriving packets itself, except for the link they arrive on.
        self.guard = Guard(
            tun.NAME,
            tunnel.interface.name,
            port=tunnel.settings.port,
            siblings=tunnel.interface.siblings,
        )
        self._kernel = kernel
        self._tunnel = tunnel
        self._dataplane = Dataplane(tunnel.settings)
        self._routes: dict[IPv4Network, bytes] = {}
        self._routes_of_loop: dict[IPv4Network, bytes] = {}
        self._peers_known = asyncio.Event()
        self._carrying = asyncio.Event()
        self._is_gone = False
        self._bad_leases = Once(log)
        self._warned = Once(log)
        self._logged: dict[str, int] = {}
        self._logged_at = monotonic()

    def stats(self) -> dict[str, int]:
        """The packet loop's counters; see ``struct flannel_stats`` in csrc/dataplane.cdef."""
        return self._dataplane.stats()

    def counters(self) -> Mapping[str, int]:
        """See `flannel.backends.Network`."""
        stats = self.stats()
        return {name: stats[name] for name in DROPS}

    def trouble(self) -> str:
        """See `flannel.backends.Network`."""
        if self._carrying.is_set():
            return ""
        if self._warned.message_of("run") or not self._peers_known.is_set():
            return self._warned.message_of("run")
        return "the packet loop is not running"

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        """See `flannel.backends.Network`."""
        for subnet in peers.keys() | self._routes.keys() if changed is None else changed:
            self._plan(subnet, peers.get(subnet))
        self._bad_leases.summarize()
        if self._routes != self._routes_of_loop:
            self._set_routes()
        self._peers_known.set()
        if changed is None:
            await self._keep_device()

    def _set_routes(self) -> None:
        try:
            self._dataplane.set_routes(self._routes.values())
        except OSError as error:
            number = error.errno or errno.ENOMEM
            raise KernelError("hand the peers to the packet loop", number) from error
        self._routes_of_loop = self._routes.copy()

    async def _keep_device(self) -> None:
        while True:
            await self._carrying.wait()
            try:
                await self._ensure_device()
                return
            except KernelError as why:
                if why.errno != errno.ENODEV:
                    raise
            # The threads notice it if somebody has deleted the device. If somebody has moved it
            # to another network namespace, they go on there and must be ended.
            if self._carrying.is_set():
                self._carrying.clear()
                self._is_gone = True

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

        The backend type of the lease does not matter: udp needs the address only, and upstream's
        udp, whose leases have no type, accepts every lease too.

        :raises BadLease: it has the address of this host.
        """
        attrs = lease.attrs
        interface = self._tunnel.interface
        if attrs.public_ip in (interface.address, interface.public_ip):
            raise BadLease(f"{attrs.public_ip} is the address of this host")
        return pack_route(lease.subnet, attrs.public_ip)

    def holds(self, at: Key) -> Entry | None:
        """See `flannel.backends.Network`: this one writes no entries of its peers."""

    async def run(self) -> None:
        """Carry packets until cancelled; make the device again when it is deleted."""
        while True:
            try:
                async with self._attached() as runs:
                    await self._watch(runs)
            except _DeviceGone:
                self._kernel.repairs.note("it was gone")
                await asyncio.sleep(self._kernel.repairs.pause)
            except (KernelError, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                self._warned.warn("run", f"cannot carry packets: {why}; trying again")
                await asyncio.sleep(_WATCH)

    @asynccontextmanager
    async def _attached(self) -> AsyncIterator["list[Future[None]]"]:
        """The loop in its threads, each with a future that is done when it has ended."""
        self._is_gone = False
        tunnel = self._tunnel
        store, n, port = self._kernel.descriptors, tunnel.n_threads, tunnel.settings.port
        await tun.ensure_usable(self._kernel, tunnel.settings.network, n)
        # The store keeps them open, so that packets wait in them until the next loop runs.
        device = tun.attached(store, n)
        udp_fds = sockets.bound(store, tunnel.interface.address, port, n, self._kernel.mark)
        self._dataplane.set(replace(tunnel.settings, merge_udp=device.has_uso))
        await self._ensure_device()
        await self._peers_known.wait()  # without peers the loop would drop the waiting packets
        with ExitStack() as stack:
            stack.callback(self._log_drops)  # after the threads have ended: all drops
            stop = stack.enter_context(_event())
            runs = stack.enter_context(
                threads.parked.running(
                    [
                        partial(self._dataplane.run, queue, udp, stop)
                        for queue, udp in zip(device.queues, udp_fds, strict=True)
                    ]
                )
            )
            # At the end: first this, then wait for the threads.
            stack.callback(os.eventfd_write, stop, 1)
            log.info("carrying packets between %s and UDP port %d", tun.NAME, port)
            self._carrying.set()
            try:
                yield runs
            finally:
                self._carrying.clear()

    async def _watch(self, runs: "list[Future[None]]") -> None:
        """Log the loop's drops until one of its threads ends."""
        ends = [asyncio.wrap_future(run) for run in runs]
        for end in ends:  # all fail when the device is deleted, and the first reason is enough
            end.add_done_callback(lambda end: end.cancelled() or end.exception())
        while True:
            done, _ = await asyncio.wait(ends, timeout=_WATCH, return_when=asyncio.FIRST_COMPLETED)
            if self._is_gone and not done:
                raise _DeviceGone
            if done:
                raise _reason(done.pop().exception())
            self._log()
            self._warned.forget("run")

    async def _ensure_device(self) -> None:
        taken = await tun.ensure_device(self._kernel, self._tunnel.settings)
        if taken:
            what = (
                f"packets for {taken} go to docker0, not to other hosts, until docker is restarted"
            )
            self._warned.warn("docker", what)
        elif self._warned.forget("docker"):
            log.info("packets of the whole network go to other hosts: docker0 has left its range")

    def _log(self) -> None:
        """Log the features that the loop has given up, and the drops of each minute."""
        stats = self.stats()
        for bit, feature in GIVEN_UP.items():
            if stats["given_up"] & bit:
                self._warned.warn(bit, f"this kernel or the link has no {feature}")
        if monotonic() - self._logged_at >= _DROPS_LOGGED:
            self._log_drops()

    def _log_drops(self) -> None:
        stats = self.stats()
        drops = {
            name: stats[name] - self._logged.get(name, 0)
            for name in DROPS
            if stats[name] != self._logged.get(name, 0)
        }
        if drops:
            counts = ", ".join(f"{name} {count}" for name, count in sorted(drops.items()))
            log.warning("packets dropped since the last such line: %s", counts)
        self._logged, self._logged_at = stats, monotonic()


class _DeviceGone(Exception):
    """The TUN device has been deleted, or moved to another network namespace."""


def _reason(error: BaseException | None) -> Exception:
    """Why a thread of the packet loop has ended, as an exception to raise."""
    if not isinstance(error, OSError) or error.errno is None:
        raise RuntimeError("the packet loop has ended by itself") from error
    if error.errno in (errno.ENODEV, errno.EBADFD):
        return _DeviceGone()
    return KernelError("wait for packets", error.errno)


@contextmanager
def _event() -> Iterator[int]:
    try:
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except OSError as error:
        raise KernelError("make an event descriptor", error.errno or errno.EIO) from error
    try:
        yield event
    finally:
        os.close(event)
