"""The link ``flannel.<VNI>``: made, compared with what is wanted, kept or rebuilt."""

import errno
import hashlib
import logging
from contextlib import suppress
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from flannel.errors import KernelError
from flannel.kernel.links import Link, VxlanSettings
from flannel.kernel.netlink import Netlink
from flannel.kernel.repairs import Repairs

log = logging.getLogger(__name__)

_SUCCESSOR = "flannel-next"
"""The name of a new link while the old one is still there."""


def device_name(vni: int) -> str:
    """The name that tools expect."""
    return f"flannel.{vni}"


def vtep_mac(public_ip: IPv4Address, vni: int, node_id: str) -> str:
    """The MAC of this host's VTEP: a locally administered address that outlives reboots.

    No two hosts of a cluster may have the same one, for peers can reach just one of them. Copies
    of a machine share a NodeID until one of them gets another, and have different addresses. Hosts
    that exchange their addresses have different NodeIDs, while the device of each that runs keeps
    the MAC of its former address.
    """
    name = " ".join(filter(None, (f"flannel vtep {public_ip} {vni}", node_id)))
    digest = hashlib.sha256(name.encode()).digest()
    first = digest[0] & 0xFC | 0x02  # IEEE 802: bit 1 locally administered, bit 0 unicast
    return bytes((first, *digest[1:6])).hex(":")


async def ensure_device(
    netlink: Netlink,
    *,
    mac: str,
    mtu: int,
    settings: VxlanSettings,
    repairs: Repairs,
    published: bool = False,
) -> Link:
    """Return the link with these settings, up and with this MTU.

    A link that is there is kept as far as the kernel lets us, and packets flow on: the link and
    the address that carry it are changed in place. For another difference it is replaced, and the
    log names which; it goes only when its successor is there.

    :param published: peers know ``mac``: a link with another gets it. If not, a link that is there
        keeps its own, and peers will learn that from our lease.
    :raises KernelError: it cannot be made; what was there before is still there.
    """
    name = device_name(settings.vni)
    link = await _moved(netlink, await netlink.find_link(name), settings)
    if link is None:
        repairs.note("it was gone")
        await netlink.create_vxlan(name, mac=mac, mtu=mtu, settings=settings)
        return await _made(netlink, name, mtu, settings)
    reason = incompatibility(link, settings)
    if reason:
        log.warning("rebuilding %s: %s", name, reason)
        if link.vxlan is not None and not published:
            mac = link.mac  # which peers know until they learn another
        await _replace(netlink, link, mac, mtu, settings)
        return await _made(netlink, name, mtu, settings)
    if published and link.mac != mac:
        repairs.note(f"its MAC was {link.mac}")
        await netlink.set_mac(link, mac)
    if link.mtu != mtu:
        repairs.note(f"its MTU was {link.mtu}")
    if not link.up:
        repairs.note("it was down")
    await _bring_up(netlink, link, mtu, settings.port)
    return link


async def _moved(netlink: Netlink, link: Link | None, settings: VxlanSettings) -> Link | None:
    """The link after the kernel was asked to change in place what it can."""
    if link is None or link.vxlan is None:
        return link
    changed = replace(
        link.vxlan, parent=settings.parent, local=settings.local, learning=settings.learning
    )
    if link.vxlan == changed or changed != settings:
        return link
    try:
        await netlink.move_vxlan(link, settings)
        log.info("moved %s to address %s", link.name, settings.local)
    except KernelError as why:
        if why.errno != errno.EOPNOTSUPP:  # as before Linux 4.20: the link is replaced then
            raise
    return await netlink.find_link(link.name)


async def _replace(
    netlink: Netlink, old: Link, mac: str, mtu: int, settings: VxlanSettings
) -> None:
    """Put a new link in the place of ``old``, which goes when the new one has proved to work.

    :raises KernelError: the new one cannot be made; the old one is there.
    """
    name, have = old.name, old.vxlan
    if have is not None and (have.port, have.gbp) == (settings.port, settings.gbp):
        # The kernel takes no second one like it, and does not know how to change this one.
        await netlink.delete_link(old)
        try:
            await netlink.create_vxlan(name, mac=mac, mtu=mtu, settings=settings)
        except KernelError:
            with suppress(KernelError):
                await netlink.create_vxlan(name, mac=old.mac, mtu=old.mtu, settings=have)
            raise
        return
    left = await netlink.find_link(_SUCCESSOR)
    if left is not None:
        await netlink.delete_link(left)
    await netlink.create_vxlan(_SUCCESSOR, mac=mac, mtu=mtu, settings=settings)
    new = await netlink.find_link(_SUCCESSOR)
    if new is None:
        raise KernelError(f"find link {_SUCCESSOR}, made just now", errno.ENODEV)
    try:
        if have is None or have.port != settings.port:  # else the old one has the port
            await _bring_up(netlink, new, mtu, settings.port)
        await netlink.delete_link(old)
        await netlink.rename_link(new, name)
    except KernelError:
        await netlink.delete_link(new)
        raise


async def _made(netlink: Netlink, name: str, mtu: int, settings: VxlanSettings) -> Link:
    """The new link, up."""
    _set_ipv6(name, "accept_ra", 0)
    link = await netlink.find_link(name)
    if link is None:
        raise KernelError(f"find link {name}, made just now", errno.ENODEV)
    log.info("made %s: VNI %d, port %d, MAC %s", name, settings.vni, settings.port, link.mac)
    await _bring_up(netlink, link, mtu, settings.port)
    return link


async def _bring_up(netlink: Netlink, link: Link, mtu: int, port: int) -> None:
    try:
        await netlink.ensure_link_up(link, mtu)
    except KernelError as why:
        if why.errno != errno.EADDRINUSE:
            raise
        # A VXLAN link opens its socket when it goes up; the kernel does not say which port.
        raise KernelError(f"bind UDP port {port} for {link.name}", why.errno) from why


def incompatibility(link: Link, settings: VxlanSettings) -> str:
    """Which attribute of ``link`` forbids to use it, and how it differs; "" if none does."""
    if link.vxlan is None:
        return f"it is a link of kind {link.kind or 'hardware'}, not vxlan"
    for each in fields(VxlanSettings):
        have, want = getattr(link.vxlan, each.name), getattr(settings, each.name)
        if have != want:
            return f"its {each.name} is {have}, wanted is {want}"
    return ""


async def ensure_address(
    netlink: Netlink,
    link: Link,
    address: IPv4Address,
    network: IPv4Network,
    repairs: Repairs,
) -> None:
    """Give the link ``address``/32 and take away other addresses of the overlay network.

    A link that was rebuilt has none, one that is kept may have that of an earlier lease.
    """
    wanted = IPv4Interface((address, 32))
    found = {each.interface for each in await netlink.list_addresses() if each.link == link.index}
    if wanted not in found:
        repairs.note(f"its address {address} was gone")
        await netlink.ensure_address(link, wanted)
    for each in found - {wanted}:
        if each.ip in network:
            repairs.note(f"it had address {each}")
            await netlink.delete_address(link, each)


def _set_ipv6(name: str, key: str, value: int) -> None:
    # Nobody may configure this host through the tunnel. A kernel without IPv6 has no such file.
    with suppress(FileNotFoundError):
        Path(f"/proc/sys/net/ipv6/conf/{name}/{key}").write_text(str(value))
