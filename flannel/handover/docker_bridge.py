"""Does docker's bridge fit the lease? Docker takes subnet and MTU when it starts, and only then.

Nothing is changed here: to restart docker stops its containers, and that is the operator's to say.
"""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Interface

from flannel.conditions import Condition
from flannel.kernel.links import Address, Link
from flannel.kernel.netlink import Netlink

NAME = "docker0"
"""dockerd's own default; with its option ``--bridge`` another is used, of which we know nothing."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """Something about docker's bridge that a restart of docker repairs.

    :ivar what: what there is, and what should be.
    :ivar why: what comes of it.
    """

    condition: Condition
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; restart docker with what mk-docker-opts writes"


async def glance(netlink: Netlink) -> object:
    """Something that differs as soon as the bridge does: it is made, removed, or has moved.

    A link that joins or leaves it may not show here; to list all links of the host costs more.

    :raises KernelError: it cannot be read.
    """
    bridge = await netlink.find_link(NAME)
    if bridge is None:
        return None
    addresses = [each for each in await netlink.list_addresses() if each.link == bridge.index]
    return bridge, addresses


async def find_misfits(netlink: Netlink, subnet: IPv4Interface, mtu: int) -> list[Misfit]:
    """What has to be mended by a restart of docker; empty where all fits or no bridge is there.

    :param subnet: FLANNEL_SUBNET: the address that the bridge should have.
    :param mtu: FLANNEL_MTU, in bytes.
    :raises KernelError: links or addresses cannot be listed.
    """
    return misfits(subnet, mtu, await netlink.list_links(), await netlink.list_addresses())


def misfits(
    subnet: IPv4Interface, mtu: int, links: Collection[Link], addresses: Collection[Address]
) -> list[Misfit]:
    """`find_misfits`, of values."""
    bridge = next((link for link in links if link.name == NAME and link.kind == "bridge"), None)
    if bridge is None:
        return []
    found = []
    has = [str(each.interface) for each in addresses if each.link == bridge.index]
    if str(subnet) not in has:
        found.append(
            Misfit(
                Condition.DOCKER_SUBNET,
                f"{NAME} has {' and '.join(has) or 'no address'}, not {subnet} of the lease",
                "other hosts do not reach the containers here",
            )
        )
    # The bridge itself says 1500 until the first container is there. Smaller is no fault.
    largest = max((link.mtu for link in links if link.master == bridge.index), default=0)
    if largest > mtu:
        found.append(
            Misfit(
                Condition.DOCKER_MTU,
                f"{NAME} has containers with MTU {largest}, and the overlay carries {mtu}",
                "their large packets are refused or lost",
            )
        )
    return found
