"""Does a bridge of this host fit the lease? docker0, or another that has the lease's address.

Docker reads subnet and MTU of docker0 only when it starts. A host can as well leave docker0 as
docker makes it, and have its containers in a docker network, or a network of another program, whose
bridge has the lease's first address. Nothing is changed here: a restart of docker stops its
containers, so the operator decides when.
"""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Interface

from flannel.conditions import Condition
from flannel.kernel.host import DOCKER_BRIDGE
from flannel.kernel.links import Address, Link
from flannel.kernel.netlink import Netlink

_RESTART = "restart docker with what mk-docker-opts writes"
_EMPTY = "docker takes the lease's when it starts with what mk-docker-opts writes"
"""For a bridge without containers: they may get another network, and docker0 may stay."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A fault of the bridge of the containers.

    :ivar what: the value found, and the value expected.
    :ivar why: the consequence for containers.
    :ivar remedy: what repairs it.
    """

    condition: Condition
    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.remedy}"


async def glance(netlink: Netlink) -> object:
    """A value that changes with docker0, and with the addresses of this host while there is one.

    A link that joins or leaves the bridge may not change it; listing all links would cost more.

    :raises KernelError: the bridge cannot be read.
    """
    bridge = await netlink.find_link(DOCKER_BRIDGE)
    if bridge is None:
        return None
    return bridge, await netlink.list_addresses()


async def find_misfits(netlink: Netlink, subnet: IPv4Interface, mtu: int) -> list[Misfit]:
    """The faults of the bridge of the containers; empty if it fits, or there is none.

    It is the bridge that has the address ``subnet``, and docker0 if none has.

    :param subnet: FLANNEL_SUBNET: the address that the bridge should have.
    :param mtu: FLANNEL_MTU, in bytes.
    :raises KernelError: links or addresses cannot be listed.
    """
    return misfits(subnet, mtu, await netlink.list_links(), await netlink.list_addresses())


def misfits(
    subnet: IPv4Interface, mtu: int, links: Collection[Link], addresses: Collection[Address]
) -> list[Misfit]:
    """`find_misfits` without I/O: the same, from links and addresses already listed."""
    with_address = {each.link for each in addresses if each.interface == subnet}
    bridges = [link for link in links if link.kind == "bridge"]
    fitting = [link for link in bridges if link.index in with_address]
    bridge = next(iter(fitting or [link for link in bridges if link.name == DOCKER_BRIDGE]), None)
    if bridge is None:
        return []
    of_containers = [link for link in links if link.master == bridge.index]
    found = []
    if not fitting:
        has = [str(each.interface) for each in addresses if each.link == bridge.index]
        found.append(
            Misfit(
                Condition.DOCKER_SUBNET,
                f"{DOCKER_BRIDGE} has {' and '.join(has) or 'no address'}, not {subnet} of the "
                "lease",
                "other hosts do not reach the containers here",
                _RESTART if of_containers else _EMPTY,
            )
        )
    # The bridge itself has MTU 1500 until its first container starts. A smaller MTU is not a fault.
    largest = max((link.mtu for link in of_containers), default=0)
    if largest > mtu:
        is_docker0 = bridge.name == DOCKER_BRIDGE
        found.append(
            Misfit(
                Condition.DOCKER_MTU,
                f"{bridge.name} has containers with MTU {largest}, and the overlay carries {mtu}",
                "their large packets are refused or lost",
                _RESTART if is_docker0 else "create its network with that MTU",
            )
        )
    return found
