"""udp: whole packets in UDP datagrams, carried by a loop in C between a TUN device and a socket.

For hosts whose kernel has no VXLAN, and for networks that let only plain UDP through. The wire
format is that of upstream's udp backend, whose daemon may run on other hosts.

    network    the loop's threads, the sockets, the table of hosts
    tun        the TUN device
    sockets    the UDP sockets
    dataplane  the Python face of csrc/
"""

import logging
from dataclasses import dataclass

from flannel.backends import Backend, Network, mtu
from flannel.backends.traits import UDP
from flannel.backends.udp import tun
from flannel.backends.udp.dataplane import ENCAP_LEN, Settings
from flannel.backends.udp.network import Tunnel, UdpNetwork
from flannel.document import BadDocument, Members
from flannel.errors import BadNetworkConfig
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

log = logging.getLogger(__name__)

_MAX_THREADS = 64


@dataclass(frozen=True, slots=True)
class UdpConfig:
    """The Backend object of the network config, for type udp.

    ``mtu`` is that of the underlay; 0 means that of the external interface.
    """

    port: int
    mtu: int
    threads: int
    source_check: bool
    ecn: bool

    @classmethod
    def from_config(cls, config: NetworkConfig) -> "UdpConfig":
        """Parse and validate.

        :raises BadNetworkConfig: naming the key, its value and the rule.
        """
        members = Members(config.backend, "Backend.")
        try:
            return cls(
                port=members.integer("Port", 0, 0, 65535) or UDP.port,
                mtu=mtu.read(members, ENCAP_LEN),
                threads=members.integer("Threads", 1, 1, _MAX_THREADS),
                source_check=members.boolean("SourceCheck", True),
                ecn=members.boolean("ECN"),
            )
        except BadDocument as why:
            raise BadNetworkConfig(f"cannot use the network config: {why}") from None


def check_config(config: NetworkConfig) -> int | None:
    """See `flannel.backends.check_config`."""
    return UdpConfig.from_config(config).port


def make_backend(config: NetworkConfig, interface: ExternalInterface, kernel: Kernel) -> Backend:
    """See `flannel.backends.make_backend`."""
    return UdpBackend(config, UdpConfig.from_config(config), interface, kernel)


class UdpBackend:
    """Publishes the public address; upstream names no BackendType for it."""

    def __init__(
        self,
        config: NetworkConfig,
        udp: UdpConfig,
        interface: ExternalInterface,
        kernel: Kernel,
    ) -> None:
        self._config = config
        self._udp = udp
        self._interface = interface
        self._kernel = kernel

    async def lease_attrs(self, node_id: str) -> LeaseAttrs:
        """See `flannel.backends.Backend`."""
        self._kernel.claims.claim(tun.NAME)
        return LeaseAttrs(self._interface.public_ip, UDP.published_as, node_id=node_id)

    async def start(self, lease: Lease) -> Network:
        """See `flannel.backends.Backend`."""
        udp = self._udp
        if not udp.source_check:
            log.warning(
                "Backend.SourceCheck is false: all who reach UDP port %d of this host can send to "
                "its containers, from any source address",
                udp.port,
            )
        settings = Settings(
            network=self._config.network,
            subnet=lease.subnet,
            mtu=mtu.of_overlay(udp.mtu, self._interface.mtu, ENCAP_LEN),
            port=udp.port,
            check_source=udp.source_check,
            ecn=udp.ecn,
        )
        await tun.find(self._kernel)  # under another name it would pass for a stale one
        return UdpNetwork(self._kernel, Tunnel(settings, self._interface, udp.threads))
