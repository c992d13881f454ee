"""Host: what this host has, as the kernel and the programs of the firewall report it."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from flannel.cli.rulesets import iptables as iptables_rules
from flannel.cli.rulesets import nft as nft_rules
from flannel.cli.rulesets.own_guard import drops_forged, without_guard
from flannel.cli.rulesets.verdict import Chain
from flannel.firewall import mark_conflicts
from flannel.firewall.listing import read_rules
from flannel.kernel.links import Address, Link
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink


@dataclass
class Host:
    """Links and addresses of this host, and the means to read more.

    :ivar tables: routes, ARP and FDB entries.
    :ivar chains: the firewall's, by table.
    :ivar drops_forged: whether flanneld's guard checks the sources of forwarded packets.
    :ivar marking: other programs' rules that use the guard's bit of the packet mark.
    :ivar unseen: the parts of the firewall that could not be read, and why.
    :ivar sysctls: the directory of the kernel's settings for IPv4.
    """

    netlink: Netlink
    tables: RtNetlink
    links: dict[int, Link]
    addresses: list[Address]
    chains: dict[str, dict[str, Chain]] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    marking: list[str] = field(default_factory=list)
    drops_forged: bool = False
    sysctls: Path = Path("/proc/sys/net/ipv4")

    @classmethod
    async def look(cls, netlink: Netlink, tables: RtNetlink) -> "Host":
        """Read links and addresses.

        :raises KernelError: they cannot be read.
        """
        links = {link.index: link for link in await netlink.list_links()}
        return cls(netlink, tables, links, await netlink.list_addresses())

    def sysctl(self, name: str) -> int | None:
        """A number below ``net.ipv4``; None: this kernel does not have it."""
        try:
            return int((self.sysctls / name).read_text())
        except (OSError, ValueError):
            return None

    def link(self, name: str) -> Link | None:
        """The link called ``name``."""
        return next((link for link in self.links.values() if link.name == name), None)

    def name(self, index: int) -> str:
        """A link's name."""
        return self.links[index].name if index in self.links else f"link {index}"

    async def read_firewall(self, bit: int = 0) -> None:
        """Fill `chains`, `unseen` and `marking`.

        :param bit: of the packet mark.
        """
        listing = await read_rules()
        self.unseen += listing.unread
        for program, _, text in listing.iptables:
            self.chains |= iptables_rules.parse(text, program)
        if listing.nft:
            try:
                self.chains |= nft_rules.parse(listing.nft, skip=listing.doubled)
            except nft_rules.NotARuleset as why:
                self.unseen.append(f"cannot read what nft -j list ruleset prints: {why}")
            else:
                self.marking += mark_conflicts.in_nft(listing.nft, bit, listing.doubled)
        self.marking += mark_conflicts.in_iptables(listing.iptables, bit)
        self.drops_forged = drops_forged(self.chains)
        self.chains = without_guard(self.chains)


def first_container(subnet: IPv4Network) -> IPv4Address:
    """The address that docker gives to the first container."""
    return subnet.network_address + 2
