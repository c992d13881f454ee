"""The recipient ``cni=PATH``: a CNI network configuration list with bridge and host-local.

containerd, CRI-O, kubelet's runtimes, nerdctl and podman 4 with its CNI backend read such files, at
each new container; running containers keep what they have. The plugins are those of
containernetworking-plugins; upstream's ``flannel`` plugin, which is not among them, makes the same
network from subnet.env. Masquerade is flanneld's, with -ip-masq.
"""

from pathlib import Path
from typing import Any

from flannel.handover import network_files
from flannel.handover.recipients import MARK, Offer
from flannel.kernel.host import CONTAINER_BRIDGE

_VERSION = "0.4.0"
"""Of CNI's specification: what podman 4 and containernetworking-plugins since 0.8 read."""


class CniFile:
    """One file."""

    def __init__(self, path: Path, network: str, owner: str) -> None:
        self.path = path
        self._network = network
        self._owner = owner

    @property
    def name(self) -> str:
        """For messages."""
        return f"CNI network {self.path}"

    async def give(self, offer: Offer) -> bool:
        """Write the file if it differs; see `Recipient.give`.

        :raises CannotHandOver: the file is not ours.
        :raises CannotWrite: an old file is unchanged.
        """
        return network_files.write(
            self.path, document(self._network, self._owner, offer), self._owner
        )


def document(network: str, owner: str, offer: Offer) -> dict[str, Any]:
    """The content of the file."""
    addresses = {"subnet": str(offer.gateway.network), "gateway": str(offer.gateway.ip)}
    if not offer.is_whole:
        addresses |= {"rangeStart": str(offer.first), "rangeEnd": str(offer.last)}
    bridge = {
        "type": "bridge",
        "bridge": CONTAINER_BRIDGE,
        "isGateway": True,
        "isDefaultGateway": True,
        # After a new lease the bridge takes its address with the first new container.
        "forceAddress": True,
        "hairpinMode": True,  # as upstream's plugin: a container reaches its own published port
        "ipMasq": False,
        "mtu": offer.mtu,
        "ipam": {"type": "host-local", "ranges": [[addresses]]},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": _VERSION, "name": network, MARK: owner, "plugins": [bridge, ports]}
