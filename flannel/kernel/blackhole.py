"""The blackhole route for this host's own subnet, made with -ip-blackhole-route.

While no bridge has the subnet, a packet to one of its addresses would follow the default route out
of this host, and might be sent back. The blackhole route drops it. Every other route to the subnet,
such as that of docker's bridge, is preferred: the blackhole route has the largest metric.
"""

import asyncio
from ipaddress import IPv4Network

from flannel.conditions import Condition, Conditions
from flannel.errors import KernelError
from flannel.kernel.doors import Kernel

_RESYNC = 5.0
"""Seconds between two looks."""


async def keep(kernel: Kernel, subnet: IPv4Network | None, conditions: Conditions) -> None:
    """Keep the route until cancelled.

    :param subnet: the own subnet; None: remove the route of an earlier run, and return.
    """
    wanted = set() if subnet is None else {subnet}
    while True:
        try:
            await _ensure(kernel, wanted)
            conditions.clear(Condition.BLACKHOLE)
            if not wanted:
                return
        except KernelError as why:
            conditions.report(Condition.BLACKHOLE, f"{why}; trying again")
        await asyncio.sleep(_RESYNC)


async def _ensure(kernel: Kernel, wanted: set[IPv4Network]) -> None:
    found = kernel.tables.list_blackholes()
    for subnet in wanted - found:
        await kernel.netlink.add_blackhole(subnet)
    for subnet in found - wanted:
        await kernel.netlink.delete_blackhole(subnet)
