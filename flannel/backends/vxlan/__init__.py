"""vxlan: each peer's subnet behind its VTEP, reached through the kernel's VXLAN link.

The link does not learn and nothing is flooded: routes, ARP and forwarding entries are all given,
so four table entries (nexthop, route, ARP, FDB) reach a peer, and no packet waits for an answer.

    device   the VXLAN link compared with the wanted one: address, MAC, MTU
    link     ... and how it is found, made, replaced
    network  the entries for each peer
"""

import errno
from dataclasses import dataclass

from flannel.backends import Backend, Network, mtu
from flannel.backends.traits import UDP, VXLAN
from flannel.backends.vxlan.device import (
    ensure_address,
    ensure_device,
    vtep_mac,
)
from flannel.backends.vxlan.network import VxlanNetwork
from flannel.document import BadDocument, Members
from flannel.errors import BadNetworkConfig, KernelError
from flannel.firewall.rules import Guard
from flannel.kernel.doors import Kernel
from flannel.kernel.host import vxlan_name
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Link, VxlanSettings
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

OVERHEAD = 50
"""Bytes around a packet: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348, 5)."""

_MAX_VNI = 9_999_999
"""VNIs have 24 bits, but flannel.<VNI> must fit the 15 characters of a link's name."""


@dataclass(frozen=True, slots=True)
class VxlanConfig:
    """The Backend object of the network config, for type vxlan.

    ``mtu`` is that of the underlay; 0 means that of the external interface.
    """

    vni: int
    port: int
    mtu: int
    gbp: bool
    learning: bool
    direct_routing: bool

    @classmethod
    def from_config(cls, config: NetworkConfig) -> "VxlanConfig":
        """Parse and validate.

        :raises BadNetworkConfig: naming the key, its value and the rule.
        """
        members = Members(config.backend, "Backend.")
        try:
            return cls(
                vni=members.integer("VNI", 1, 0, _MAX_VNI),
                port=members.integer("Port", 0, 0, 65535) or VXLAN.port,
                mtu=mtu.read(members, OVERHEAD),
                gbp=members.boolean("GBP"),
                learning=members.boolean("Learning"),
                direct_routing=members.boolean("DirectRouting"),
            )
        except BadDocument as why:
            raise BadNetworkConfig(f"cannot use the network config: {why}") from None


def check_config(config: NetworkConfig) -> int | None:
    """See `flannel.backends.check_config`."""
    return VxlanConfig.from_config(config).port


def make_backend(config: NetworkConfig, interface: ExternalInterface, kernel: Kernel) -> Backend:
    """See `flannel.backends.make_backend`."""
    return VxlanBackend(config, VxlanConfig.from_config(config), interface, kernel)


class VxlanBackend:
    """Makes the link, publishes its MAC."""

    def __init__(
        self,
        config: NetworkConfig,
        vxlan: VxlanConfig,
        interface: ExternalInterface,
        kernel: Kernel,
    ) -> None:
        self._config = config
        self._vxlan = vxlan
        self._interface = interface
        self._kernel = kernel
        self._mtu = mtu.of_overlay(vxlan.mtu, interface.mtu, OVERHEAD)
        self._mac = ""

    async def lease_attrs(self, node_id: str) -> LeaseAttrs:
        """See `flannel.backends.Backend`.

        :raises BadNetworkConfig: this kernel has no VXLAN; names the backend that it can run.
        """
        self._kernel.claims.claim(vxlan_name(self._vxlan.vni))
        self._mac = vtep_mac(self._interface.public_ip, self._vxlan.vni, node_id)
        try:
            link = await self._ensure_device(published=False)
        except KernelError as error:
            if error.errno != errno.EOPNOTSUPP:  # rtnetlink's answer to an unknown kind of link
                raise
            raise BadNetworkConfig(
                f"{error}: this kernel has no VXLAN; a network config that works without it has "
                f'{{"Backend": {{"Type": "{UDP.type}"}}}}'
            ) from error
        self._mac = link.mac  # a kept device has its own; should it be deleted, peers know this one
        data = {"VtepMAC": link.mac}
        return LeaseAttrs(self._interface.public_ip, VXLAN.published_as, data, node_id)

    async def start(self, lease: Lease) -> Network:
        """See `flannel.backends.Backend`."""
        await self._ensure_link(lease)
        return VxlanNetwork(
            kernel=self._kernel,
            network=self._config.network,
            interface=self._interface,
            mtu=self._mtu,
            guard=self._guard(),
            direct_routing=self._vxlan.direct_routing,
            ensure_link=lambda: self._ensure_link(lease),
        )

    def _guard(self) -> Guard:
        vxlan, interface = self._vxlan, self._interface
        return Guard(
            device=vxlan_name(vxlan.vni),
            interface=interface.name,
            addresses=tuple(sorted({interface.address, interface.public_ip})),
            port=vxlan.port,
            vni=vxlan.vni,
            routed=vxlan.direct_routing,
            siblings=interface.siblings,
        )

    async def _ensure_device(self, *, published: bool) -> Link:
        vxlan, interface = self._vxlan, self._interface
        return await ensure_device(
            self._kernel.netlink,
            mac=self._mac,
            mtu=self._mtu,
            # The outer source must be an address that this host has, or the kernel drops every
            # packet: never the public address.
            settings=VxlanSettings(
                vni=vxlan.vni,
                parent=interface.link,
                local=interface.address,
                port=vxlan.port,
                learning=vxlan.learning,
                gbp=vxlan.gbp,
            ),
            repairs=self._kernel.repairs,
            published=published,
        )

    async def _ensure_link(self, lease: Lease) -> Link:
        link = await self._ensure_device(published=True)
        await ensure_address(
            self._kernel.netlink,
            link,
            lease.subnet.network_address,
            self._config.network,
            self._kernel.repairs,
        )
        return link
