"""The recipient ``podman=NAME``: a network of podman's, in files that each podman reads anew.

``podman network create`` refuses the lease's subnet: this host has an address of the overlay, that
of flannel.1. In a file the subnet is taken as it is. Which file counts depends on the network
backend of podman: netavark's, or until podman 4 CNI's. A podman reads only one of them; CNI's is
written if its directory is there, as on each host with a podman that may read it.
"""

import hashlib
from pathlib import Path
from typing import Any

from flannel.handover import cni, network_files
from flannel.handover.recipients import MARK, Offer
from flannel.kernel.host import CONTAINER_BRIDGE

NETAVARK_DIRECTORY = Path("/etc/containers/networks")
CNI_DIRECTORY = Path("/etc/cni/net.d")
"""The defaults of network_config_dir in containers.conf, for root's podman."""
_CREATED = "2000-01-01T00:00:00Z"
"""podman wants a time; one that does not change, so that the file does not."""


class PodmanNetwork:
    """One network."""

    def __init__(self, network: str, owner: str) -> None:
        self._network = network
        self._owner = owner

    @property
    def name(self) -> str:
        """For messages."""
        return f"podman network {self._network}"

    async def give(self, offer: Offer) -> bool:
        """Write the files that differ; see `Recipient.give`.

        :raises CannotHandOver: a file is not ours.
        :raises CannotWrite: an old file is unchanged.
        """
        changed = False
        for path in paths(self._network):
            make = document if path.parent == NETAVARK_DIRECTORY else cni.document
            content = make(self._network, self._owner, offer)
            changed |= network_files.write(path, content, self._owner)
        return changed


def paths(network: str) -> list[Path]:
    """The files of the network: netavark's, and CNI's if its directory is there."""
    found = [NETAVARK_DIRECTORY / f"{network}.json"]
    if CNI_DIRECTORY.is_dir():
        found.append(CNI_DIRECTORY / f"{network}.conflist")
    return found


def document(network: str, owner: str, offer: Offer) -> dict[str, Any]:
    """The content of netavark's file."""
    subnet: dict[str, Any] = {
        "subnet": str(offer.gateway.network),
        "gateway": str(offer.gateway.ip),
    }
    if not offer.is_whole:
        subnet["lease_range"] = {"start_ip": str(offer.first), "end_ip": str(offer.last)}
    return {
        "name": network,
        "id": hashlib.sha256(network.encode()).hexdigest(),  # 64 digits, as podman wants
        "driver": "bridge",
        "network_interface": CONTAINER_BRIDGE,
        "created": _CREATED,
        "subnets": [subnet],
        "ipv6_enabled": False,
        "internal": False,
        "dns_enabled": False,
        "labels": {MARK: owner},
        "options": {"mtu": str(offer.mtu)},
        "ipam_options": {"driver": "host-local"},
    }
