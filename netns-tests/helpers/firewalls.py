"""The firewall of a namespace, kept while a test does something to it, and what the kernel has."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from private_network import run

from flannel.conditions import Conditions
from flannel.firewall.keeper import Firewall, Guard, Rules
from flannel.firewall.nft_table import TABLE
from flannel.firewall.nftables import Nftables
from flannel.firewall.peer_addresses import PEERS
from flannel.lease import Lease, LeaseAttrs

CONFIG = {"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}
NETWORK, SUBNET = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.5.0/24")
GUARD = Guard("flannel.1", "eth0", port=8472, vni=1)
RULES = Rules(NETWORK, SUBNET, masquerade=True, forward=True, guard=GUARD)

TOOLS = {
    "nft": {"nft": "nft"},
    **{
        f"iptables-{kind}": {
            "iptables": f"iptables-{kind}",
            "iptables-save": f"iptables-{kind}-save",
            "iptables-restore": f"iptables-{kind}-restore",
        }
        for kind in ("nft", "legacy")
    },
}
IPTABLES = pytest.mark.parametrize("iptables", ["iptables-nft", "iptables-legacy"])


def only(directory: Path, *tools: str) -> str:
    """A PATH on which there is nothing but these, and what starts flanneld in its namespace."""
    directory.mkdir(exist_ok=True)
    for tool in (*tools, "nsenter"):
        for name, target in TOOLS.get(tool, {tool: tool}).items():
            program = shutil.which(target)
            assert program is not None, target
            with suppress(FileExistsError):
                (directory / name).symlink_to(program)
    return str(directory)


class Peers:
    """Leases of hosts with the addresses 172.16.0.1 and on."""

    def __init__(self, n: int) -> None:
        self.leases = {each.subnet: each for each in map(lease, range(1, n + 1))}

    def move(self, number: int, to: int) -> IPv4Network:
        """Lease the subnet of one host to another, which has another address."""
        subnet = lease(number).subnet
        self.leases[subnet] = Lease(subnet, lease(to).attrs)
        return subnet

    @property
    def addresses(self) -> set[str]:
        return {str(each.attrs.public_ip) for each in self.leases.values()}


def lease(number: int) -> Lease:
    attrs = LeaseAttrs(IPv4Address("172.16.0.0") + number, "vxlan", {})
    return Lease(IPv4Network((int(NETWORK.network_address) + number * 16, 28)), attrs)


def keeping(
    work: Callable[[Firewall], Awaitable[None]],
    rules: Rules = RULES,
    peers: Peers | None = None,
    device: str = "",
    resync: float = 0.1,
    conditions: Conditions | None = None,
) -> Firewall:
    """Run ``work`` while the firewall is kept, looked at ten times a second."""
    peers = peers or Peers(2)
    firewall = Firewall(rules, lambda: peers.leases, resync, device, conditions)

    async def both() -> None:
        made = asyncio.Event()
        task = asyncio.create_task(firewall.keep(made.set))
        firewall.peers_changed(())
        await asyncio.wait_for(made.wait(), 200)
        try:
            await work(firewall)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(both())
    return firewall


async def nothing(_: Firewall) -> None:
    """Only that it is made."""


async def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the kernel's rules have no event
            await asyncio.sleep(0.02)


def ruleset() -> str:
    return run("nft", "-s", "list", "ruleset")


def listing() -> list[str]:
    """The ruleset, whatever the order of its tables."""
    return sorted(ruleset().splitlines())


def reaches_us() -> bool:
    """Whether our jump comes before what rejects everything."""
    text = ruleset()
    return text.index("jump FLANNEL-FWD") < text.index("reject")


def elements() -> set[str]:
    found = asyncio.run(Nftables("nft").read())
    return {each.text for each in found.elements if each.set == PEERS} if found else set()


def has_peer(number: int) -> bool:
    shown = f"{{ {lease(number).attrs.public_ip} }}"
    get = ("nft", "get", "element", "ip", TABLE, "peers", shown)
    return subprocess.run(get, capture_output=True).returncode == 0


def saved(iptables: str, table: str) -> str:
    text = run(f"{iptables}-save", "-t", table)
    return re.sub(r"^#.*\n|(?<=[A-Z]) \[\d+:\d+\]$", "", text, flags=re.MULTILINE)


def restore(iptables: str, text: str, *flags: str) -> None:
    done = subprocess.run(
        [f"{iptables}-restore", *flags], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
