"""Does docker's bridge fit the lease? Docker reads subnet and MTU only when it starts.

Nothing is changed here: a restart of docker stops its containers, so the operator decides when.
"""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Interface

from flannel.conditions import Condition
from flannel.kernel.host import DOCKER_BRIDGE
from flannel.kernel.links import Address, Link
from flannel.kernel.netlink import Netlink


@dataclass(frozen=True, slots=True)
class Misfit:
    """A fault of docker's bridge that a restart of docker repairs.

    :ivar what: the value found, and the value expected.
    :ivar why: the consequence for containers.
    """

    condition: Condition
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; restart docker with what mk-docker-opts writes"


async def glance(netlink: Netlink) -> object:
    """A value that changes with the bridge: when it is made or removed, or its addresses change.

    A link that joins or leaves the bridge may not change it; listing all links would cost more.

    :raises KernelError: the bridge cannot be read.
    """
    bridge = await netlink.find_link(DOCKER_BRIDGE)
    if bridge is None:
        return None
    addresses = [each for each in await netlink.list_addresses() if each.link == bridge.index]
    return bridge, addresses


async def find_misfits(netlink: Netlink, subnet: IPv4Interface, mtu: int) -> list[Misfit]:
    """The faults that a restart of docker repairs; empty if the bridge fits, or there is none.

    :param subnet: FLANNEL_SUBNET: the address that the bridge should have.
    :param mtu: FLANNEL_MTU, in bytes.
    :raises KernelError: links or addresses cannot be listed.
    """
    return misfits(subnet, mtu, await netlink.list_links(), await netlink.list_addresses())


def misfits(
    subnet: IPv4Interface, mtu: int, links: Collection[Link], addresses: Collection[Address]
) -> list[Misfit]:
    """`find_misfits` without I/O: the same, from links and addresses already listed."""
    bridge = next(
        (link for link in links if link.name == DOCKER_BRIDGE and link.kind == "bridge"), None
    )
    if bridge is None:
        return []
    found = []
    has = [str(each.interface) for each in addresses if each.link == bridge.index]
    if str(subnet) not in has:
        found.append(
            Misfit(
                Condition.DOCKER_SUBNET,
                f"{DOCKER_BRIDGE} has {' and '.join(has) or 'no address'}, not {subnet} of the "
                "lease",
                "other hosts do not reach the containers here",
            )
        )
    # The bridge itself has MTU 1500 until its first container starts. A smaller MTU is not a fault.
    largest = max((link.mtu for link in links if link.master == bridge.index), default=0)
    if largest > mtu:
        found.append(
            Misfit(
                Condition.DOCKER_MTU,
                f"{DOCKER_BRIDGE} has containers with MTU {largest}, and the overlay carries {mtu}",
                "their large packets are refused or lost",
            )
        )
    return found
