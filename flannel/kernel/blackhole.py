"""The blackhole route for this host's own subnet, which -ip-blackhole-route asks for.

Where no bridge has the subnet, not yet or not any more, a packet to one of its addresses would
follow the default route out of this host, and perhaps come back. Whatever else leads to the
subnet, as the route that comes with docker's bridge, goes before this one: its metric is the
largest there is.
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

    :param subnet: to be dropped; None removes what an earlier run has left, and returns.
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
