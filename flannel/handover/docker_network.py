"""The recipient ``docker-network=NAME``: a docker network with the lease's subnet, gateway and MTU.

docker is not restarted, and docker0 stays as docker makes it. docker cannot change a network: for
another lease or MTU the network is deleted and made again, when no container is attached to it any
more, a stopped one neither, as it would not start again. Masquerade is flanneld's, with -ip-masq.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from flannel.errors import CannotHandOver
from flannel.handover.docker_api import DockerApi
from flannel.handover.recipients import MARK, Offer, why_foreign
from flannel.kernel.host import CONTAINER_BRIDGE
from flannel.printable import as_json, printable

_NAMED = 3
"""The most containers that a message names."""


class DockerNetwork:
    """One network."""

    def __init__(self, network: str, owner: str, api: DockerApi) -> None:
        self._network = network
        self._owner = owner
        self._api = api

    @property
    def name(self) -> str:
        """For messages."""
        return f"docker network {self._network}"

    async def give(self, offer: Offer) -> bool:
        """Make the network if it is not there or differs; see `Recipient.give`.

        :raises CannotHandOver: docker does not answer or refuses, the network is not ours, or it
            has containers.
        """
        networks = await list_networks(self._api)
        found = [each for each in networks if each.get("Name") == self._network]
        wanted = document(self._network, self._owner, offer)
        for each in found:
            mark = _labels(each).get(MARK)
            if mark != self._owner:
                why = why_foreign(mark, f"label {MARK}")
                raise CannotHandOver(f"cannot take {self.name} for the lease: {why}")
        if len(found) == 1 and _fits(found[0], wanted):
            return False
        # Under another name there may be one of an earlier -hand-over, with addresses of the lease.
        for each in _ours(networks, self._owner):
            await remove(self._api, each)
        await self._api.post("/networks/create", wanted)
        return True


async def list_networks(api: DockerApi) -> list[dict[str, Any]]:
    """All networks of docker.

    :raises CannotHandOver: docker does not answer or refuses.
    """
    found = await api.get("/networks")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise CannotHandOver("cannot use the answer of docker: it is no list of networks")
    return found


async def list_ours(api: DockerApi, owner: str) -> list[dict[str, Any]]:
    """The networks that bear our mark; raises as `list_networks`."""
    return _ours(await list_networks(api), owner)


async def remove(api: DockerApi, network: Mapping[str, Any]) -> None:
    """Delete a network of ours to which no container is attached.

    :raises CannotHandOver: there is one, or docker refuses.
    """
    filters = quote(as_json({"network": [network["Id"]]}))
    containers = await api.get(f"/containers/json?all=1&filters={filters}")
    if containers:
        raise CannotHandOver(
            f"docker network {printable(str(network['Name']), 70)} keeps {_has(network)} until no "
            f"container is attached to it: remove {_names(containers)}"
        )
    await api.delete(f"/networks/{network['Id']}")


def document(network: str, owner: str, offer: Offer) -> dict[str, Any]:
    """The request that makes the network."""
    addresses = {"Subnet": str(offer.gateway.network), "Gateway": str(offer.gateway.ip)}
    if not offer.is_whole:
        addresses["IPRange"] = str(offer.share)
    return {
        "Name": network,
        "CheckDuplicate": True,  # before API 1.44 two networks could have one name
        "Driver": "bridge",
        "IPAM": {"Driver": "default", "Config": [addresses]},
        "Options": {
            "com.docker.network.bridge.name": CONTAINER_BRIDGE,
            "com.docker.network.driver.mtu": str(offer.mtu),
            "com.docker.network.bridge.enable_ip_masquerade": "false",
        },
        "Labels": {MARK: owner},
    }


def _fits(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether docker has the network as wanted; it adds options and members of its own."""
    options = found.get("Options") or {}
    return (
        found.get("Driver") == wanted["Driver"]
        and _addresses(found) == _addresses(wanted)
        and all(options.get(name) == value for name, value in wanted["Options"].items())
    )


def _addresses(network: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    configs = (network.get("IPAM") or {}).get("Config") or []
    return [
        (each.get("Subnet", ""), each.get("Gateway", ""), each.get("IPRange", ""))
        for each in configs
    ]


def _ours(networks: Iterable[dict[str, Any]], owner: str) -> list[dict[str, Any]]:
    return [each for each in networks if _labels(each).get(MARK) == owner]


def _labels(network: Mapping[str, Any]) -> Mapping[str, Any]:
    return network.get("Labels") or {}


def _has(network: Mapping[str, Any]) -> str:
    """The subnet and the MTU of a network, for messages."""
    subnets = [subnet for subnet, _, _ in _addresses(network)]
    mtu = (network.get("Options") or {}).get("com.docker.network.driver.mtu", "unknown")
    return printable(f"{' and '.join(subnets) or 'no subnet'}, MTU {mtu}", 80)


def _names(containers: list[Any]) -> str:
    names = [str((each.get("Names") or [each.get("Id")])[0]).lstrip("/") for each in containers]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return printable(", ".join(sorted(names)[:_NAMED]), 150) + more
