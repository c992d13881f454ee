"""Recipients: keep the networks of container programs in step with the lease (-hand-over).

    Recipients.keep
      └── for each of -hand-over: Recipient.give, now and every few seconds

A recipient compares what its program has with what the lease wants, and changes what differs: the
same path at the start, after a new lease, and after somebody else's change. It touches only what
bears our mark. One that fails is tried again; it delays neither subnet.env nor the others: docker
may be started hours later.

Several recipients share one bridge, which has the lease's first address. Each gives out a share of
the addresses of its own, as none knows which the others have given.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Protocol

from flannel.conditions import Condition, Conditions
from flannel.errors import CannotHandOver, FlannelError
from flannel.printable import printable

log = logging.getLogger(__name__)

MARK = "flannel.hand-over"
"""The label of docker's and podman's networks, and the member of a CNI file, that makes them ours.
Its value is the path of subnet.env: two flannelds of a host never share that."""

LOOK, RETRY = 10.0, 3.0
"""Seconds until the next look at a recipient that has the lease, and at one that has not."""
_SMALLEST = 30
"""The prefix length of the smallest share: one that still has an address beside the gateway."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a recipient is given.

    :ivar gateway: the bridge's address, the lease's first, with its prefix length.
    :ivar share: the addresses that the recipient may give to containers; the whole lease for one.
    :ivar mtu: bytes, of the containers' links.
    """

    gateway: IPv4Interface
    share: IPv4Network
    mtu: int

    @property
    def is_whole(self) -> bool:
        """Whether the recipient has the lease for itself."""
        return self.share == self.gateway.network

    @property
    def first(self) -> IPv4Address:
        """The first address of the share that a container may have."""
        return max(self.share[0], self.gateway.ip + 1)

    @property
    def last(self) -> IPv4Address:
        """The last one."""
        return min(self.share[-1], self.gateway.network.broadcast_address - 1)


class Recipient(Protocol):
    """The network of a container program."""

    @property
    def name(self) -> str:
        """E.g. ``docker network flannel``, for messages."""
        ...

    async def give(self, offer: Offer) -> bool:
        """Make the network what the offer says; return whether something was changed.

        :raises FlannelError: it is not so; another try may help.
        """
        ...


def offers(gateway: IPv4Interface, mtu: int, count: int) -> list[Offer]:
    """Equal shares of the lease for ``count`` recipients.

    :raises CannotHandOver: the lease is too small.
    """
    network = gateway.network
    bits = (count - 1).bit_length()
    if bits and network.prefixlen + bits > _SMALLEST:
        raise CannotHandOver(
            f"cannot hand over {network} to {count} recipients: it has too few addresses"
        )
    shares = list(network.subnets(prefixlen_diff=bits))
    return [Offer(gateway, share, mtu) for share in shares[:count]]


def why_foreign(mark: object, missing: str) -> str:
    """Why something is not ours, by the value of its mark.

    :param missing: what it lacks if it has no mark.
    """
    if mark:
        return f"the flanneld of {printable(str(mark), 100)} made it"
    return f"flanneld has not made it, as it has no {missing}"


class Recipients:
    """All of -hand-over, for all runs of the network."""

    def __init__(self, recipients: Sequence[Recipient], conditions: Conditions) -> None:
        self._recipients = recipients
        self._conditions = conditions
        self._troubles: dict[str, str] = {}
        """Why each does not have the lease, by its name, in no order."""

    async def keep(self, gateway: IPv4Interface, mtu: int) -> None:
        """Hand the lease over, and keep that so until cancelled; return at once without recipients.

        :param gateway: FLANNEL_SUBNET.
        :param mtu: bytes, of the containers' links.
        """
        if not self._recipients:
            return
        try:
            shares = offers(gateway, mtu, len(self._recipients))
        except CannotHandOver as why:
            self._conditions.report(Condition.HAND_OVER, str(why))
            return
        async with asyncio.TaskGroup() as tasks:
            for recipient, offer in zip(self._recipients, shares, strict=True):
                tasks.create_task(self._keep(recipient, offer))

    async def _keep(self, recipient: Recipient, offer: Offer) -> None:
        given = False
        while True:
            try:
                changed = await recipient.give(offer)
            except FlannelError as why:
                self._troubles[recipient.name] = str(why)
            else:
                self._troubles.pop(recipient.name, None)
                if changed and given:
                    log.warning("%s was changed or removed; made again", recipient.name)
                elif changed:
                    has = f"{offer.gateway}, MTU {offer.mtu}"
                    log.info("%s is made for subnet %s", recipient.name, has)
                given = True
            self._report()
            await asyncio.sleep(RETRY if recipient.name in self._troubles else LOOK)

    def _report(self) -> None:
        if self._troubles:
            text = " | ".join(self._troubles[name] for name in sorted(self._troubles))
            self._conditions.report(Condition.HAND_OVER, text)
        else:
            self._conditions.clear(Condition.HAND_OVER)
