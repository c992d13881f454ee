"""The device ``flannel.<VNI>``: compared with the wanted one, repaired, kept if possible."""

import hashlib
import logging
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from flannel.backends.vxlan.link import VxlanLink, incompatibility
from flannel.kernel import sysctls
from flannel.kernel.host import ALIAS
from flannel.kernel.links import Link, VxlanSettings
from flannel.kernel.netlink import Netlink
from flannel.kernel.repairs import Repairs

log = logging.getLogger(__name__)


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

    An existing link is kept if possible, and packets flow on: the link and the address that carry
    it are changed in place. For other differences it is replaced, and the log names the
    difference; it is deleted only when its successor exists. One that was renamed gets its name
    back, one that was enslaved to a bridge is released.

    :param published: peers know ``mac``: a link with another gets it. If not, a link that is there
        keeps its own, and peers will learn that from our lease.
    :raises KernelError: it cannot be made; what was there before is still there.
    """
    device = VxlanLink(netlink, settings)
    link = await device.find()
    if link is None or link.vxlan is None or link.vxlan.vni != settings.vni:
        former = await device.find_renamed(mac)
        if former:
            repairs.note(f"its name was {former}")
            link = await device.find()
    if link is None:
        repairs.note("it was gone")
        return await _up(device, await device.make(mac, mtu), mtu)
    reason = incompatibility(link, settings)
    if reason:
        log.warning("rebuilding %s: %s", device.name, reason)
        if link.vxlan is not None and not published:
            mac = link.mac  # which peers know until they learn another
        return await _up(device, await device.replace(link, mac, mtu), mtu)
    if not link.alias:
        await netlink.set_alias(link, ALIAS)
        link = replace(link, alias=ALIAS)
    if published and link.mac != mac:
        repairs.note(f"its MAC was {link.mac}")
        await netlink.set_mac(link, mac)
    if link.master:
        names = {each.index: each.name for each in await netlink.list_links()}
        repairs.note(f"it belonged to {names.get(link.master, 'another link')}")
        await netlink.release_link(link)
    if link.mtu != mtu:
        repairs.note(f"its MTU was {link.mtu}")
    if not link.up:
        repairs.note("it was down")
    await device.bring_up(link, mtu)
    return link


async def _up(device: VxlanLink, link: Link, mtu: int) -> Link:
    """The new link, up."""
    sysctls.refuse_ipv6(link.name)  # before it is up, so that it never has an address
    settings = device.settings
    log.info("made %s: VNI %d, port %d, MAC %s", link.name, settings.vni, settings.port, link.mac)
    await device.bring_up(link, mtu)
    return link


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
