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
from flannel.kernel.host import CONTAINER_BRIDGE, DOCKER_BRIDGE
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
    """A value that changes with the bridges named below, and with all addresses while one is there.

    A link that joins or leaves the bridge may not change it; listing all links would cost more.

    :raises KernelError: the bridge cannot be read.
    """
    bridges = [await netlink.find_link(name) for name in (CONTAINER_BRIDGE, DOCKER_BRIDGE)]
    if not any(bridges):
        return None
    return bridges, await netlink.list_addresses()


async def find_misfits(
    netlink: Netlink, subnet: IPv4Interface, mtu: int, *, docker0: bool = True
) -> list[Misfit]:
    """The faults of the bridge of the containers; empty if it fits, or there is none.

    It is the bridge that has the address ``subnet``; if none has, that of -hand-over, or docker0.

    :param subnet: FLANNEL_SUBNET: the address that the bridge should have.
    :param mtu: FLANNEL_MTU, in bytes.
    :param docker0: whether docker0 is to have the lease; not if -hand-over names others.
    :raises KernelError: links or addresses cannot be listed.
    """
    links, addresses = await netlink.list_links(), await netlink.list_addresses()
    return misfits(subnet, mtu, links, addresses, docker0=docker0)


def misfits(
    subnet: IPv4Interface,
    mtu: int,
    links: Collection[Link],
    addresses: Collection[Address],
    *,
    docker0: bool = True,
) -> list[Misfit]:
    """`find_misfits` without I/O: the same, from links and addresses already listed."""
    with_address = {each.link for each in addresses if each.interface == subnet}
    bridges = {link.name: link for link in links if link.kind == "bridge"}
    fitting = [link for link in bridges.values() if link.index in with_address]
    expected = bridges.get(DOCKER_BRIDGE if docker0 else CONTAINER_BRIDGE)
    bridge = expected if expected in fitting or not fitting else fitting[0]
    if bridge is None:
        return []
    containers = [link for link in links if link.master == bridge.index]
    found = []
    # That of -hand-over gets the lease's address with its next container.
    if not fitting and (docker0 or containers):
        has = [str(each.interface) for each in addresses if each.link == bridge.index]
        found.append(
            Misfit(
                Condition.DOCKER_SUBNET,
                f"{bridge.name} has {' and '.join(has) or 'no address'}, not {subnet} of the lease",
                "other hosts do not reach the containers here",
                _remedy(
                    bridge, _RESTART if containers else _EMPTY, "remove them, and start others"
                ),
            )
        )
    # The bridge itself has MTU 1500 until its first container starts. A smaller MTU is not a fault.
    largest = max((link.mtu for link in containers), default=0)
    if largest > mtu:
        found.append(
            Misfit(
                Condition.DOCKER_MTU,
                f"{bridge.name} has containers with MTU {largest}, and the overlay carries {mtu}",
                "their large packets are refused or lost",
                _remedy(bridge, _RESTART, "remove them, and start others"),
            )
        )
    return found


def _remedy(bridge: Link, of_docker0: str, of_others: str) -> str:
    return of_docker0 if bridge.name == DOCKER_BRIDGE else of_others
