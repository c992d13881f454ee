"""The TUN device: made, or found and attached to, with all the offloads of this kernel."""

import errno
import logging
import os
import platform
import struct
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from functools import partial
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from flannel.backends.udp.dataplane import Settings
from flannel.errors import KernelError
from flannel.kernel.doors import Kernel
from flannel.kernel.host import ALIAS, DOCKER_BRIDGE, TUN_NAME
from flannel.kernel.links import Link
from flannel.kernel.rtmessages import FoundRoute
from flannel.kernel.surroundings import is_link_local
from flannel.systemd import FdStore, is_our_namespace

log = logging.getLogger(__name__)

NAME = TUN_NAME

_STORED = f"{NAME}/queue"


def request(kind: str, number: int, machine: str = platform.machine()) -> int:
    """A request of linux/if_tun.h, as asm/ioctl.h puts it together.

    :param kind: "_IO" takes nothing, "_IOW" an int to the kernel, "_IOR" one from it.
    """
    if machine.startswith(("alpha", "mips", "ppc", "sparc")):
        direction = {"_IO": 1 << 29, "_IOR": 2 << 29, "_IOW": 4 << 29}[kind]
    else:
        direction = {"_IO": 0, "_IOW": 1 << 30, "_IOR": 2 << 30}[kind]
    size = 0 if kind == "_IO" else 4
    return direction | size << 16 | ord("T") << 8 | number


# linux/if_tun.h, linux/virtio_net.h
_TUNSETIFF, _TUNSETPERSIST = request("_IOW", 202), request("_IOW", 203)
_TUNSETOFFLOAD, _TUNSETVNETHDRSZ = request("_IOW", 208), request("_IOW", 216)
_TUNGETIFF, _TUNGETDEVNETNS = request("_IOR", 210), request("_IO", 227)
_IFF_TUN, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x1, 0x1000, 0x100, 0x4000
_IFF_TAP, _IFF_DETACH_QUEUE = 0x2, 0x400
_IFREQ = struct.Struct("=16sH22x")
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO_ECN = 0x1, 0x2, 0x8
_TUN_F_USO4, _TUN_F_USO6 = 0x20, 0x40
_VNET_HEADER_LEN = 10

_OFFLOADS = (
    # The kernel accepts both USO flags or none, though the tunnel carries no IPv6.
    (_TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO_ECN | _TUN_F_USO4 | _TUN_F_USO6, ""),
    (_TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO_ECN, "no UDP super-packets (Linux 6.2 has them)"),
    (0, "no super-packets, it will be slow"),
)


@dataclass(frozen=True, slots=True)
class Tun:
    """An attached device.

    :ivar queues: a descriptor each.
    :ivar has_uso: it gives and takes UDP super-packets.
    """

    queues: tuple[int, ...]
    has_uso: bool


def attached(store: FdStore, n_queues: int) -> Tun:
    """Attach to the device ``NAME``, which is made if necessary; keep the queues in the store.

    :raises KernelError: there is no /dev/net/tun; another process is attached (``EBUSY``); there
        is a link of that name that does not fit (``EINVAL``).
    """
    flags = _flags(n_queues)
    store.retain(_STORED, partial(_is_attached, flags=flags))
    queues = store.fill(_STORED, n_queues, partial(_open, flags))
    has_uso, lacks = _set_offloads(queues)
    if lacks:
        log.warning("%s: this kernel's TUN device has %s", NAME, lacks)
    return Tun(queues, has_uso)


async def find(kernel: Kernel) -> Link | None:
    """The device under its name; one that somebody renamed gets the name back.

    Ours is the one that the store's descriptors are attached to, or that has our alias.
    """
    netlink = kernel.netlink
    named = await netlink.find_link(NAME)
    if named is not None and named.name == NAME:
        return named
    tuns = [link for link in await netlink.list_links() if link.kind == "tun"]
    names = {_attached_to(fd) for fd in kernel.descriptors.held(_STORED)}
    ours = next((each for each in tuns if each.name in names or each.alias == ALIAS), None)
    if ours is None:
        return None
    if named is not None:
        await netlink.delete_altname(named, NAME)
    kernel.repairs.note(f"its name was {ours.name}")
    await netlink.rename_link(ours, NAME)
    return await netlink.find_link(NAME)


async def ensure_usable(kernel: Kernel, network: IPv4Network, n_queues: int) -> None:
    """Delete a device that `attached` cannot use, or that belongs to another network.

    :raises KernelError: a link of that name is no TUN device.
    """
    link = await find(kernel)
    if link is None:
        return
    if link.kind != "tun":
        kind = link.kind or "hardware"
        raise KernelError(f"use the name {NAME}: a link of kind {kind} has it", errno.EEXIST)
    reason = ""
    for address in await kernel.netlink.list_addresses():
        of_others = address.interface.ip not in network and not is_link_local(address)
        if address.link == link.index and of_others:
            reason = f"it has address {address.interface} of another network"
    flags = _flags(n_queues)
    if not kernel.descriptors.retain(_STORED, partial(_is_attached, flags=flags)) and not reason:
        try:
            os.close(_open(flags))
        except KernelError as error:
            if error.errno != errno.EINVAL:
                raise
            reason = f"it was made for {'one thread' if n_queues > 1 else 'several threads'}"
    if reason:
        log.warning("rebuilding %s: %s", NAME, reason)
        await kernel.netlink.delete_link(link)


async def ensure_device(kernel: Kernel, settings: Settings) -> str:
    """Bring the device up, with MTU, the subnet's first address, and the route of the network.

    :return: the network of docker's bridge that takes packets of the overlay; "" if none does.
    :raises KernelError: one of these failed, or there is no device.
    """
    netlink, tables, network = kernel.netlink, kernel.tables, settings.network
    link = await find(kernel)
    if link is None:
        raise KernelError(f"find link {NAME}", errno.ENODEV)
    if not link.alias:
        await netlink.set_alias(link, ALIAS)
    if link.master:
        names = {each.index: each.name for each in await netlink.list_links()}
        kernel.repairs.note(f"it belonged to {names.get(link.master, 'another link')}")
        await netlink.release_link(link)
    if link.mtu != settings.mtu:
        kernel.repairs.note(f"its MTU was {link.mtu}")
    if not link.up:
        kernel.repairs.note("it was down")
        _disable_ipv6()
    await netlink.ensure_link_up(link, settings.mtu)
    await _ensure_address(kernel, link, IPv4Interface((settings.subnet.network_address, 32)))
    taken = await _taken_by_docker(kernel, settings)
    if taken != str(network) and not any(
        route.link == link.index for route in tables.list_routes_to(network)
    ):
        kernel.repairs.note(f"the route to {network} was gone")
        await netlink.replace_route(network, link)
    strange = tables.list_own(
        network, link.index
    )  # a backend before this one made it, or an operator
    kernel.repairs.note_entries(strange)
    tables.delete(strange)
    return taken


async def _taken_by_docker(kernel: Kernel, settings: Settings) -> str:
    """The route of docker's bridge, as docker chose it, that is as specific as ours, or more.

    It is left in its place: running containers depend on it. Docker takes the lease's address when
    it is restarted, and the kernel then drops the route.
    """
    routes = [
        each for each in kernel.tables.list_foreign_routes() if _is_in_the_way(each, settings)
    ]
    docker = await kernel.netlink.find_link(DOCKER_BRIDGE) if routes else None
    if docker is None:
        return ""
    return next((str(each.dst) for each in routes if each.link == docker.index), "")


def _is_in_the_way(route: FoundRoute, settings: Settings) -> bool:
    return route.dst.subnet_of(settings.network) and not route.dst.subnet_of(settings.subnet)


async def _ensure_address(kernel: Kernel, link: Link, wanted: IPv4Interface) -> None:
    netlink = kernel.netlink
    found = {each.interface for each in await netlink.list_addresses() if each.link == link.index}
    # In the other order routes over the link would lack a source address for a moment.
    if wanted not in found:
        kernel.repairs.note(f"its address {wanted.ip} was gone")
        await netlink.ensure_address(link, wanted)
    for each in found - {wanted}:
        kernel.repairs.note(f"it had address {each}")
        await netlink.delete_address(link, each)


def _flags(n_queues: int) -> int:
    return _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if n_queues > 1 else 0)


def _open(flags: int) -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KernelError("open /dev/net/tun", error.errno or errno.EIO) from error
    try:
        ioctl(fd, _TUNSETIFF, _IFREQ.pack(NAME.encode(), flags))
        ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", _VNET_HEADER_LEN))
        # The device outlives this process, with its address and route: a restart is a short pause.
        ioctl(fd, _TUNSETPERSIST, 1)
    except OSError as error:
        os.close(fd)
        raise KernelError(f"attach to {NAME}", error.errno or errno.EIO) from error
    return fd


def _attached_to(fd: int) -> str:
    """The name of the device that a descriptor is a queue of; "" if it is not in our namespace."""
    with suppress(OSError):
        name, _ = _IFREQ.unpack(ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
        if is_our_namespace(ioctl(fd, _TUNGETDEVNETNS)):
            return os.fsdecode(name.rstrip(b"\0"))
    return ""


def _is_attached(fd: int, flags: int) -> bool:
    """Whether a descriptor is a queue of our device, and the device has these flags.

    A device that somebody moved to another network namespace ends with its last descriptor.
    """
    try:
        name, found = _IFREQ.unpack(ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
        if not is_our_namespace(ioctl(fd, _TUNGETDEVNETNS)):
            ioctl(fd, _TUNSETPERSIST, 0)
            return False
        ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", _VNET_HEADER_LEN))
    except OSError:  # its device is deleted, or it is not a queue
        return False
    # Those of the flags that decide how packets are read, and whether any are.
    relevant = flags | _IFF_TAP | _IFF_MULTI_QUEUE | _IFF_DETACH_QUEUE
    return (name.rstrip(b"\0"), found & relevant) == (NAME.encode(), flags)


def _set_offloads(queues: tuple[int, ...]) -> tuple[bool, str]:
    for offloads, lacks in _OFFLOADS:
        with suppress(OSError):
            for queue in queues:
                ioctl(queue, _TUNSETOFFLOAD, offloads)
            return bool(offloads & _TUN_F_USO4), lacks
    return False, _OFFLOADS[-1][1]


def _disable_ipv6() -> None:
    # The tunnel carries IPv4 only. A kernel without IPv6 has no such file.
    path = Path(f"/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6")
    try:
        path.write_text("1")
    except FileNotFoundError:
        pass
    except OSError as error:  # in some containers /proc/sys is read-only
        log.warning("cannot switch off IPv6 on %s: %s", NAME, error.strerror)
