"""subnet.env: the lease, for docker, CNI plugins and flanneld's next start.

    FLANNEL_NETWORK=10.5.0.0/16
    FLANNEL_SUBNET=10.5.1.1/24
    FLANNEL_MTU=1450
    FLANNEL_IPMASQ=false

The lines, their order and their form are upstream's, whose daemon and tools read the file too. The
file may come from an earlier process, a different program or an attacker: it is parsed, never run
by a shell, and a bad one leads to a warning only.
"""

import logging
import os
import re
import stat
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from flannel import atomic_file
from flannel.document import shown

log = logging.getLogger(__name__)

_MAX_BYTES = 64 * 1024
"""The file has about a hundred bytes; one above this limit is somebody's mistake."""
_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_CIDR = re.compile(r"[0-9.]{7,15}/[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """The content of subnet.env.

    :ivar subnet: the first address of the leased subnet, the bridge's, with its prefix length.
    :ivar mtu: bytes, of the containers' links.
    :ivar ip_masq: whether flanneld masquerades; docker does if it does not.
    """

    network: IPv4Network
    subnet: IPv4Interface
    mtu: int
    ip_masq: bool

    def variables(self) -> dict[str, str]:
        """The assignments of the file, in its order."""
        return {
            "FLANNEL_NETWORK": str(self.network),
            "FLANNEL_SUBNET": str(self.subnet),
            "FLANNEL_MTU": str(self.mtu),
            "FLANNEL_IPMASQ": str(self.ip_masq).lower(),
        }


def first_address(subnet: IPv4Network) -> IPv4Interface:
    """The address of a leased subnet that the bridge of its containers has."""
    return IPv4Interface((subnet.network_address + 1, subnet.prefixlen))


def write(path: Path, env: SubnetEnv) -> bool:
    """Write the file if its content differs; return whether it did.

    :raises CannotWrite: an old file is unchanged.
    """
    lines = (f"{name}={value}\n" for name, value in env.variables().items())
    return atomic_file.write(path, "".join(lines).encode())


def read(path: Path) -> SubnetEnv | None:
    """What an earlier run wrote; None without a file, and, with a warning, of a bad file."""
    try:
        names = read_assignments(path)
        network = _cidr(names, "FLANNEL_NETWORK").network
        subnet = subnet_of(names)
        if not subnet.network.subnet_of(network):
            raise ValueError(f"FLANNEL_SUBNET {subnet} is not in FLANNEL_NETWORK {network}")
        return SubnetEnv(network, subnet, mtu_of(names), ip_masq_of(names))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else why
        log.warning("ignoring %s, which an earlier run should have left: %s", path, reason)
        return None


def read_assignments(path: Path) -> dict[str, str]:
    """The assignments ``NAME=value`` of a file, unchecked; the last one of each name counts.

    :raises OSError: it cannot be read.
    :raises ValueError: it is not a file of such lines; a phrase without the file's name.
    """
    # O_NONBLOCK: opening a FIFO that has no writer would block.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is not a file")
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES} bytes")
    names = {}
    for line in content.decode().split("\n"):  # UnicodeDecodeError is a ValueError
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"the line {shown(line)} is not NAME=value")
        names[match[1]] = match[2]
    return names


def subnet_of(names: dict[str, str]) -> IPv4Interface:
    """FLANNEL_SUBNET.

    :raises ValueError: it is missing or wrong; so for the two below.
    """
    return _cidr(names, "FLANNEL_SUBNET")


def mtu_of(names: dict[str, str]) -> int:
    """FLANNEL_MTU, in bytes."""
    text = _get(names, "FLANNEL_MTU")
    if re.fullmatch("[1-9][0-9]{1,4}", text) and 68 <= int(text) <= 65535:  # RFC 791's least
        return int(text)
    raise ValueError(f"FLANNEL_MTU is {shown(text)}, not a number from 68 to 65535")


def ip_masq_of(names: dict[str, str]) -> bool:
    """FLANNEL_IPMASQ."""
    text = _get(names, "FLANNEL_IPMASQ")
    if text not in ("true", "false"):
        raise ValueError(f"FLANNEL_IPMASQ is {shown(text)}, neither true nor false")
    return text == "true"


def _cidr(names: dict[str, str], name: str) -> IPv4Interface:
    text = _get(names, name)
    try:
        if _CIDR.fullmatch(text):  # IPv4Interface would take a netmask as well
            return IPv4Interface(text)
    except ValueError:
        pass
    raise ValueError(f"{name} is {shown(text)}, not an IPv4 address with a prefix length")


def _get(names: dict[str, str], name: str) -> str:
    if name not in names:
        raise ValueError(f"{name} is missing")
    return names[name]
