"""Whether the range of a network config fits the present addresses of hosts."""

from collections.abc import Iterable
from typing import Any

from flannel import backends
from flannel.cli.context import Context
from flannel.errors import KernelError, NoInterface
from flannel.handover import subnet_env
from flannel.kernel.host import DOCKER_BRIDGE, Claim, docker_takes, overlap
from flannel.kernel.interface import InterfaceChoice
from flannel.kernel.interface_choice import choose
from flannel.kernel.surroundings import Surroundings, look_around
from flannel.lease import Lease
from flannel.network_config import NetworkConfig
from flannel.options.table import Options


async def range_report(
    context: Context, config: NetworkConfig, leases: Iterable[Lease]
) -> dict[str, Any]:
    """Members of the report on ``config`` that are about addresses.

    :return: ``overlap``: the address or route of this host in that range, or the address that it
        would publish, if a container may get that; ``docker0``: the address
        of docker's bridge in it, and what follows; ``refused``: the leases whose hosts cannot be
        served. The first two are empty if this host's addresses cannot be read.
    """
    leases = tuple(leases)
    env = subnet_env.read(context.options.subnet_file)
    own = {env.subnet.network} if env is not None else set()
    gateways = {lease.attrs.public_ip for lease in leases}
    claim = Claim(config, backends.route_length(config), own, gateways)
    found: dict[str, Any] = {
        "overlap": "",
        "docker0": "",
        "refused": [str(each) for each in leases if config.may_lease(each.attrs.public_ip)],
    }
    try:
        async with context.kernel() as kernel:
            reach = context.options.iface_can_reach
            host = await look_around(kernel.netlink, kernel.tables, reach)
    except KernelError:
        return found
    taken = overlap(host, claim)
    if not taken and not any(host.having(address) for address in gateways):
        taken = own_address(context.options, host, config)  # `refused` has it if it holds a lease
    return {**found, "overlap": taken, "docker0": docker_report(host, claim)}


def own_address(options: Options, host: Surroundings, config: NetworkConfig) -> str:
    """The address that this host would publish, if a container may get it; else "". Pure."""
    choice = InterfaceChoice(
        names=options.iface,
        patterns=options.iface_regex,
        can_reach=options.iface_can_reach,
        public_ip=options.public_ip,
    )
    try:
        interface = choose(host, choice)
    except NoInterface:
        return ""
    for address in (interface.address, interface.public_ip):
        if config.may_lease(address):
            return f"its own address {address} among those that are leased to containers"
    return ""


def docker_report(host: Surroundings, claim: Claim) -> str:
    """The consequence of docker's bridge for the network; "" if there is none. Pure."""
    bridge = next((link for link in host.links.values() if link.name == DOCKER_BRIDGE), None)
    for each in host.on(bridge.index) if bridge is not None else ():
        if each.interface.ip in claim.config.network and not claim.is_own(each.interface.network):
            taken = docker_takes(host, claim)
            until = f"; packets for {taken} go to it until then" if taken else ""
            return f"docker0 has {each.interface}: restart docker when flanneld is ready{until}"
    return ""


def range_lines(report: dict[str, Any]) -> list[str]:
    """The lines of a report's members for people."""
    lines = []
    if report["overlap"]:
        lines.append(f"  NOT FOR THIS HOST: it has {report['overlap']}, in that network")
    if report["docker0"]:
        lines.append(f"  {report['docker0']}")
    lines += [
        f"  REFUSED: the host of lease {each}: a container may get its address"
        for each in report["refused"]
    ]
    return lines
