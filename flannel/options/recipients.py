"""The value of -hand-over: the programs that get the lease, besides subnet.env.

    docker-network=NAME     a docker network of that name
    cni=PATH                a CNI network configuration list
    podman=NAME             a podman network of that name

The names are those that the programs themselves accept; what they would read as another file, an
option or a network of their own is refused here, before it could do harm.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flannel.document import shown

DOCKER_NETWORK, CNI, PODMAN = "docker-network", "cni", "podman"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""docker's RestrictedNamePattern, podman's NameRegex, CNI's rule for network names."""
_TAKEN = {
    DOCKER_NETWORK: {"bridge", "host", "none", "default", "ingress", "docker_gwbridge"},
    PODMAN: {
        "bridge",
        "host",
        "none",
        "default",
        "podman",
        "private",
        "ns",
        "pasta",
        "slirp4netns",
    },
}
"""Networks that the programs make themselves, and words that `--network` gives another meaning."""
_CONFLIST = ".conflist"
_MOST = 4
"""Recipients, so that each still has a useful share of a /24."""


class Target(NamedTuple):
    """One recipient as the operator names it.

    :ivar value: the name of a network, or the path of a file.
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind}={self.value}"

    @property
    def network(self) -> str:
        """The name of the network; that of a CNI file is from its own: ``10-NAME.conflist``."""
        if self.kind != CNI:
            return self.value
        return re.sub(r"^[0-9]+-", "", Path(self.value).name.removesuffix(_CONFLIST))


def recipients(text: str) -> tuple[Target, ...]:
    """Recipients with commas between them.

    :raises ValueError: a phrase with the word that cannot be used.
    """
    return tuple(_target(each.strip()) for each in text.split(","))


def unite(given: Sequence[tuple[Target, ...]]) -> tuple[Target, ...]:
    """All recipients once, in the order given.

    :raises ValueError: they cannot be served together.
    """
    targets = tuple(dict.fromkeys(sum(given, ())))
    for kind in (DOCKER_NETWORK, PODMAN):
        found = [str(each) for each in targets if each.kind == kind]
        if len(found) > 1:
            raise ValueError(
                f"{kind} can have one network with the addresses of the lease, not {len(found)}: "
                f"{', '.join(map(shown, found))}"
            )
    if len(targets) > _MOST:
        raise ValueError(f"it names {len(targets)} recipients, and {_MOST} can share a lease")
    return targets


def _target(text: str) -> Target:
    kind, _, value = text.partition("=")
    if kind not in (DOCKER_NETWORK, CNI, PODMAN):
        raise ValueError(f"{shown(text)} is not docker-network=NAME, cni=PATH or podman=NAME")
    target = Target(kind, value)
    if kind == CNI:
        _check_path(value)
    if not _NAME.fullmatch(target.network):
        raise ValueError(
            f"{shown(text)} has no name of a network: letters, digits, '.', '_' and '-', "
            "at most 63, a letter or digit first"
        )
    if kind == DOCKER_NETWORK and value == "docker0":
        raise ValueError(
            "docker0 is docker's own bridge, not a network: docker gives it the lease when it "
            "starts with what mk-docker-opts writes"
        )
    if value in _TAKEN.get(kind, ()):
        raise ValueError(f"{shown(text)} is a name that {kind.partition('-')[0]} has taken itself")
    return target


def _check_path(value: str) -> None:
    # Text before the name is in the file system of this host only; "\0" ends a path.
    if not value.startswith("/") or not value.endswith(_CONFLIST) or not value.isprintable():
        raise ValueError(f"{shown(value)} is not the path of a file, /...{_CONFLIST}")
    if ".." in Path(value).parts:
        raise ValueError(f"{shown(value)} has .. in it")
