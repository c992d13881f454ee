"""Links, addresses and paths of this host, as values. Pure.

`flannel.kernel.netlink` reads them from the kernel.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface


@dataclass(frozen=True, slots=True)
class VxlanSettings:
    """The settings that two VXLAN links must share; the kernel fixes most when a link is made.

    :ivar parent: index of the link that carries the tunnel.
    """

    vni: int
    parent: int
    local: IPv4Address | None
    port: int
    learning: bool
    gbp: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface.

    :ivar kind: the kernel's name of the driver's kind; "" for hardware.
    :ivar vxlan: set for kind "vxlan" only.
    :ivar master: the index of the bridge, bond or VRF that it belongs to; 0: none.
    :ivar carrier: the link could send packets if it were up.
    :ivar alias: a text that stays with the link when it is renamed or moved.
    """

    index: int
    name: str
    kind: str
    mtu: int
    up: bool
    mac: str
    vxlan: VxlanSettings | None = None
    master: int = 0
    carrier: bool = True
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 address on the link with index ``link``; ``scope`` 0 is global, 253 the link.

    :ivar deprecated: its preferred lifetime is over: not for new connections.
    """

    link: int
    interface: IPv4Interface
    scope: int
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """Where the kernel would send a packet.

    :ivar link: index of the link that the packet leaves by.
    :ivar via: the gateway; None: the destination is on that link.
    :ivar source: the address of this host that the packet would carry.
    :ivar local: the destination is this host itself.
    """

    link: int
    via: IPv4Address | None
    source: IPv4Address | None
    local: bool = False
