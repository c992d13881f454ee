"""What this host has, as the kernel and its tools tell."""

import shutil
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from flannel import programs
from flannel.cli.rulesets import iptables as iptables_rules
from flannel.cli.rulesets import nft as nft_rules
from flannel.cli.rulesets.verdict import Chain
from flannel.errors import CannotRun
from flannel.handover import subnet_env
from flannel.kernel.links import Address, Link
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink

_PATIENCE = 10.0


@dataclass
class Host:
    """Links and addresses, and the doors to ask for more.

    :ivar tables: routes, ARP and FDB entries.
    :ivar chains: the firewall's, by table.
    :ivar unseen: the parts of the firewall that could not be read, and why.
    """

    netlink: Netlink
    tables: RtNetlink
    links: dict[int, Link]
    addresses: list[Address]
    chains: dict[str, dict[str, Chain]] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)

    @classmethod
    async def look(cls, netlink: Netlink, tables: RtNetlink) -> "Host":
        """Read links and addresses."""
        links = {link.index: link for link in await netlink.list_links()}
        return cls(netlink, tables, links, await netlink.list_addresses())

    def link(self, name: str) -> Link | None:
        """The link called ``name``."""
        return next((link for link in self.links.values() if link.name == name), None)

    def name(self, index: int) -> str:
        """A link's name."""
        return self.links[index].name if index in self.links else f"link {index}"

    async def read_firewall(self) -> None:
        """Fill `chains`."""
        has_iptables = False
        for tool in ("iptables-save", "iptables-legacy-save"):
            if shutil.which(tool) is None or (tool != "iptables-save" and not has_legacy_tables()):
                continue
            text = await self._output(tool)
            if text is not None:
                has_iptables |= tool == "iptables-save"
                self.chains |= iptables_rules.parse(text, tool.removesuffix("-save"))
        if shutil.which("nft") is None:
            if not has_iptables:
                self.unseen.append("the firewall: there is neither nft nor iptables-save")
            return
        text = await self._output("nft", "-j", "list", "ruleset")
        if text is not None:
            try:
                self.chains |= nft_rules.parse(text, skip_iptables=has_iptables)
            except (ValueError, KeyError, TypeError) as why:
                self.unseen.append(f"nftables: what nft prints cannot be read: {why}")

    async def _output(self, *argv: str) -> str | None:
        try:
            done = await programs.run(argv, timeout=_PATIENCE)
        except CannotRun as why:
            self.unseen.append(str(why))
            return None
        if done.status != 0:
            self.unseen.append(f"cannot run {argv[0]}: {done.complaint}")
            return None
        return done.stdout.decode(errors="replace")


def has_legacy_tables() -> bool:
    """Whether somebody uses iptables of the kind before nftables; to list them would load it."""
    try:
        return bool(Path("/proc/thread-self/net/ip_tables_names").read_text().strip())
    except OSError:
        return False


def sysctl(name: str) -> int | None:
    """A number below /proc/sys/net/ipv4; None: there is no such file."""
    try:
        return int(Path("/proc/sys/net/ipv4", name).read_text())
    except (OSError, ValueError):
        return None


def saved_subnet(path: Path) -> subnet_env.SubnetEnv | None:
    """What subnet.env says; None if it is not there."""
    return subnet_env.read(path)


def first_container(subnet: IPv4Network) -> IPv4Address:
    """The address that docker gives to the first container."""
    return subnet.network_address + 2
