"""The Python face of ``csrc/``; the only user of the compiled module.

``csrc/dataplane.cdef`` lists all that can be called there; ``csrc/dataplane.c`` explains how it
works.
"""

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from flannel.backends.udp._dataplane import ffi, lib

ENCAP_LEN: int = lib.FLANNEL_ENCAP_LEN
"""Bytes that the tunnel adds to each packet: a device's MTU is the external link's less this."""

GIVEN_UP = {
    lib.FLANNEL_NO_UDP_SEGMENT: "UDP_SEGMENT, packets are sent one by one",
    lib.FLANNEL_NO_UDP_GRO: "UDP_GRO, packets are received one by one",
}
"""The missing feature, and its effect, for each bit of the counter ``given_up``."""

_ROUTE = struct.Struct("=III")  # struct flannel_route


@dataclass(frozen=True, slots=True)
class Settings:
    """The host that a dataplane runs on; see ``struct flannel_settings``."""

    network: IPv4Network
    subnet: IPv4Network
    mtu: int
    port: int
    check_source: bool = True
    ecn: bool = False
    merge_udp: bool = False

    @property
    def error_source(self) -> IPv4Address:
        """The source of ICMP errors to senders on this host.

        The first address of the network, which usually no host has, because leases begin behind
        it; otherwise the last. The kernel drops errors that come from an address of its own.
        """
        first, last = self.network.network_address, self.network.broadcast_address
        return last if first in self.subnet else first


def pack_route(subnet: IPv4Network, host: IPv4Address) -> bytes:
    """One route, as `Dataplane.set_routes` takes them."""
    return _ROUTE.pack(int(subnet.network_address), subnet.prefixlen, int(host))


class Dataplane:
    """Carries packets between TUN devices and sockets; all methods can be called by any thread.

    dataplane = Dataplane(settings)
    dataplane.set_routes(pack_route(subnet, host) for ...)
    dataplane.run(tun, udp, stop)           # in a thread of its own; returns when stop is readable
    dataplane.stats()["rx_packets"]
    """

    def __init__(self, settings: Settings) -> None:
        made = ffi.new("flannel_dataplane **")
        _check("set up the packet loop", lib.flannel_new(made, _settings(settings)))
        self._dataplane = ffi.gc(made[0], lib.flannel_free)

    def set(self, settings: Settings) -> None:
        """Change the settings while packets flow.

        :raises OSError: ``EINVAL``: they contradict themselves. The old ones stay.
        """
        _check("change the packet loop", lib.flannel_set(self._dataplane, _settings(settings)))

    def set_routes(self, routes: Iterable[bytes]) -> None:
        """Replace all routes while packets flow.

        :param routes: each made by `pack_route`, no two for one subnet.
        :raises OSError: the old ones stay.
        """
        packed = b"".join(routes)
        table = ffi.from_buffer("struct flannel_route[]", packed)
        n = len(packed) // _ROUTE.size
        _check("set routes", lib.flannel_set_routes(self._dataplane, table, n))

    def stats(self) -> dict[str, int]:
        """All counters by name, of 64 bits, `DROPS` included; see ``struct flannel_stats``."""
        stats = ffi.new("struct flannel_stats *")
        lib.flannel_get_stats(self._dataplane, stats)
        traffic = {name: getattr(stats, name) for name in _TRAFFIC}
        return traffic | {name: getattr(stats.drops, name) for name in DROPS}

    def run(self, tun: int, udp: int, stop: int) -> None:
        """Carry packets until the descriptor ``stop`` is readable. The interpreter is not held.

        :param tun: a descriptor of `flannel.backends.udp.tun`, or one that behaves alike.
        :param udp: a UDP socket's descriptor.
        :raises OSError: ``ENODEV`` or ``EBADFD``: the TUN device is gone.
        """
        _check("carry packets", lib.flannel_run(self._dataplane, tun, udp, stop))


DROPS: tuple[str, ...] = tuple(name for name, _ in ffi.typeof("struct flannel_drops").fields)
"""The names of the counters of dropped packets."""

_TRAFFIC: tuple[str, ...] = tuple(
    name for name, _ in ffi.typeof("struct flannel_stats").fields if name != "drops"
)


def _settings(settings: Settings) -> object:
    flags = (
        (lib.FLANNEL_CHECK_SOURCE if settings.check_source else 0)
        | (lib.FLANNEL_ECN if settings.ecn else 0)
        | (lib.FLANNEL_MERGE_UDP if settings.merge_udp else 0)
    )
    return ffi.new(
        "struct flannel_settings *",
        {
            "network": int(settings.network.network_address),
            "network_len": settings.network.prefixlen,
            "subnet": int(settings.subnet.network_address),
            "subnet_len": settings.subnet.prefixlen,
            "error_source": int(settings.error_source),
            "mtu": settings.mtu,
            "port": settings.port,
            "flags": flags,
        },
    )


def _check(doing: str, result: int) -> None:
    if result < 0:
        raise OSError(-result, f"cannot {doing}: {os.strerror(-result)}")
