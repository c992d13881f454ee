"""The recipients that -hand-over names, and what recipients have left on this host."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from flannel.errors import CannotHandOver
from flannel.firewall.removal import Part
from flannel.handover import docker_network, network_files, podman
from flannel.handover.cni import CniFile
from flannel.handover.docker_api import DockerApi
from flannel.handover.docker_network import DockerNetwork
from flannel.handover.podman import PodmanNetwork
from flannel.handover.recipients import Recipient
from flannel.options.recipients import CNI, DOCKER_NETWORK, PODMAN, Target


def make_all(
    targets: Sequence[Target], subnet_file: Path, environ: Mapping[str, str]
) -> list[Recipient]:
    """The recipients, in the order of their shares.

    :param environ: of this process, for docker's own variable.
    :raises BadOption: docker is to be asked in a way that is not possible.
    """
    return [_make(each, owner_of(subnet_file), environ) for each in targets]


def _make(target: Target, owner: str, environ: Mapping[str, str]) -> Recipient:
    if target.kind == DOCKER_NETWORK:
        return DockerNetwork(target.value, owner, DockerApi(environ))
    if target.kind == PODMAN:
        return PodmanNetwork(target.value, owner)
    return CniFile(Path(target.value), target.network, owner)


def owner_of(subnet_file: Path) -> str:
    """The value of our mark."""
    return str(subnet_file.absolute())


async def find_left(
    targets: Sequence[Target], subnet_file: Path, environ: Mapping[str, str]
) -> tuple[list[Part], list[str]]:
    """What bears our mark on this host, to be removed, and why something was not looked at.

    docker's networks and the usual directories are looked at whatever the options name.
    """
    owner = owner_of(subnet_file)
    files = {Path(each.value) for each in targets if each.kind == CNI}
    for directory in (podman.NETAVARK_DIRECTORY, podman.CNI_DIRECTORY):
        files |= set(directory.glob("*.json")) | set(directory.glob("*.conflist"))
    parts = [
        Part(f"file {path}", partial(asyncio.to_thread, network_files.remove, path, owner))
        for path in sorted(files)
        if network_files.is_ours(path, owner)
    ]
    is_wanted = any(each.kind == DOCKER_NETWORK for each in targets)
    api = DockerApi(environ)
    try:
        networks = await docker_network.list_ours(api, owner)
    except CannotHandOver as why:
        return parts, [str(why)] if is_wanted else []
    return parts + [
        Part(f"docker network {each['Name']}", partial(docker_network.remove, api, each))
        for each in networks
    ], []
