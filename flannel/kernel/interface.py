"""ExternalInterface: the link and the address by which other hosts reach this one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface


@dataclass(frozen=True, slots=True)
class InterfaceChoice:
    """What the operator asked for; `flannel.kernel.interface_choice` has the order."""

    names: Sequence[str] = ()
    """Names or addresses."""
    patterns: Sequence[re.Pattern[str]] = ()
    can_reach: IPv4Address | None = None
    public_ip: IPv4Address | None = None

    @property
    def is_given(self) -> bool:
        """Whether the operator asked for an interface."""
        return bool(self.names or self.patterns or self.can_reach is not None)

    def describe(self) -> str:
        """What the interface must be like, for messages."""
        wanted = []
        if self.names:
            wanted.append(f"is called or has address {', '.join(self.names)} (-iface)")
        if self.patterns:
            texts = ", ".join(pattern.pattern for pattern in self.patterns)
            wanted.append(f"matches {texts} (-iface-regex)")
        if self.can_reach is not None:
            wanted.append(f"reaches {self.can_reach} (-iface-can-reach)")
        return " or ".join(wanted)


@dataclass(frozen=True, slots=True)
class ExternalInterface:
    """Where the overlay leaves and enters this host.

    :ivar address: an address of this host, used as the outer source.
    :ivar public_ip: the address that peers send to: the same, unless this host is behind NAT.
    :ivar networks: the link's own networks with our address in each; hosts inside one of them are
        reached without a router.
    :ivar siblings: the names of other links on which packets of peers may arrive: each link with an
        address in one of `networks` answers ARP requests for ours as well (arp_ignore in
        ip-sysctl.rst), and those to an address of loopback come in on any default route's.
    """

    link: int
    name: str
    mtu: int
    address: IPv4Address
    public_ip: IPv4Address
    networks: tuple[IPv4Interface, ...]
    siblings: tuple[str, ...] = ()

    @property
    def uplinks(self) -> tuple[str, ...]:
        """The names of all links on which packets of peers may arrive."""
        return self.name, *self.siblings

    def is_on_link(self, address: IPv4Address) -> bool:
        """Whether ``address`` is on a network of this link."""
        return any(address in interface.network for interface in self.networks)

    def __str__(self) -> str:
        public = "" if self.public_ip == self.address else f", public address {self.public_ip}"
        return f"{self.name} with address {self.address}{public}"
