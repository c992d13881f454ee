"""The VXLAN link in the kernel: found, made, replaced by another one.

Somebody may rename it, or move it to another network namespace. The kernel refuses a second link
with its VNI and port then, wherever the first one is: ours, known by its alias or MAC, gets its
name back, or is removed where it has gone. A link of others is named in the error.
"""

import errno
import logging
from contextlib import suppress
from dataclasses import dataclass, fields, replace

from flannel.errors import KernelError
from flannel.kernel import other_namespaces
from flannel.kernel.host import ALIAS, is_ours, vxlan_name
from flannel.kernel.links import Link, VxlanSettings
from flannel.kernel.netlink import Netlink

log = logging.getLogger(__name__)

_SUCCESSOR = "flannel-next"
"""The name of a new link while the old one is still there."""


@dataclass(frozen=True, slots=True)
class VxlanLink:
    """The link that has these settings, or shall have them."""

    netlink: Netlink
    settings: VxlanSettings

    @property
    def name(self) -> str:
        """flannel.<VNI>."""
        return vxlan_name(self.settings.vni)

    async def find(self) -> Link | None:
        """The link that has the name, after the kernel was asked to change in place what it can."""
        link = await self.netlink.find_link(self.name)
        if link is None or link.name != self.name:
            return None
        return await self._changed(link)

    async def find_renamed(self, mac: str) -> str:
        """Give our link its name back; return the one that it had, "" if there is no such link.

        :param mac: of our link.
        """
        of_vni = await self._others_of_vni()
        link = next((each for each in of_vni if is_ours(each) or each.mac == mac), None)
        if link is None:
            return ""
        named = await self.netlink.find_link(self.name)
        if named is not None and named.name != self.name:
            await self.netlink.delete_altname(named, self.name)
        elif named is not None:
            await self.netlink.delete_link(named)
        await self.netlink.rename_link(link, self.name)
        return link.name

    async def _changed(self, link: Link) -> Link | None:
        if link.vxlan is None:
            return link
        wanted = self.settings
        changed = replace(
            link.vxlan, parent=wanted.parent, local=wanted.local, learning=wanted.learning
        )
        if link.vxlan == changed or changed != wanted:
            return link
        try:
            await self.netlink.move_vxlan(link, wanted)
            log.info("moved %s to address %s", link.name, wanted.local)
        except KernelError as why:
            if why.errno != errno.EOPNOTSUPP:  # as before Linux 4.20: the link is replaced then
                raise
        return await self.netlink.find_link(link.name)

    async def make(self, mac: str, mtu: int) -> Link:
        """A new link, still down.

        :raises KernelError: another one has its VNI and port, or the kernel refuses it.
        """
        return await self._create(self.name, mac, mtu)

    async def replace(self, old: Link, mac: str, mtu: int) -> Link:
        """Put a new link in the place of ``old``, which is deleted when the new one works.

        :raises KernelError: the new one cannot be made; the old one is there.
        """
        have, wanted = old.vxlan, self.settings
        if have is not None and (have.port, have.gbp) == (wanted.port, wanted.gbp):
            # The kernel takes no second one like it, and does not know how to change this one.
            await self.netlink.delete_link(old)
            try:
                return await self.make(mac, mtu)
            except KernelError:
                with suppress(KernelError):
                    await self.netlink.create_vxlan(
                        self.name, mac=old.mac, mtu=old.mtu, settings=have
                    )
                raise
        left = await self.netlink.find_link(_SUCCESSOR)
        if left is not None:
            await self.netlink.delete_link(left)
        new = await self._create(_SUCCESSOR, mac, mtu)
        try:
            if have is None or have.port != wanted.port:  # else the old one has the port
                await self.bring_up(new, mtu)
            await self.netlink.delete_link(old)
            await self.netlink.rename_link(new, self.name)
        except KernelError:
            await self.netlink.delete_link(new)
            raise
        return await self._find_made(self.name)

    async def bring_up(self, link: Link, mtu: int) -> None:
        """Set the MTU and bring the link up, where it is not so already.

        :raises KernelError: another program has the UDP port, or the kernel refuses it.
        """
        try:
            await self.netlink.ensure_link_up(link, mtu)
        except KernelError as why:
            if why.errno != errno.EADDRINUSE:
                raise
            # A VXLAN link opens its socket when it goes up; the kernel does not name the port.
            port = self.settings.port
            others = [each for each in await self._links_of_port() if each.index != link.index]
            holder = next((f": link {each.name} has it" for each in others if each.up), "")
            doing = f"bind UDP port {port} for {self.name}{holder}"
            raise KernelError(doing, why.errno, why.words) from why

    async def _create(self, name: str, mac: str, mtu: int) -> Link:
        try:
            await self.netlink.create_vxlan(name, mac=mac, mtu=mtu, settings=self.settings)
        except KernelError as why:
            if why.errno != errno.EEXIST:
                raise
            named = await self.netlink.find_link(name)
            if named is not None and named.name != name:
                doing = f"{why.doing}: it is an alternative name of link {named.name}"
                raise KernelError(doing, errno.EEXIST) from why
            await self._clear_vni(why)
            await self.netlink.create_vxlan(name, mac=mac, mtu=mtu, settings=self.settings)
        link = await self._find_made(name)
        await self.netlink.set_alias(link, ALIAS)
        return replace(link, alias=ALIAS)

    async def _find_made(self, name: str) -> Link:
        link = await self.netlink.find_link(name)
        if link is None:
            raise KernelError(f"find link {name}, made just now", errno.ENODEV)
        return link

    async def _clear_vni(self, refusal: KernelError) -> None:
        """Remove the link that has our VNI and port in another namespace, if it is ours.

        :raises KernelError: another link has them; its name, as far as it can be found.
        """
        vni, port = self.settings.vni, self.settings.port
        for link in await self._others_of_vni():
            raise KernelError(
                f"{refusal.doing}: link {link.name} has VNI {vni} and port {port}", errno.EEXIST
            )
        for stray in other_namespaces.find_vxlan(vni, port):
            if stray.alias != ALIAS or stray.local != self.settings.local:
                raise KernelError(
                    f"{refusal.doing}: link {stray.name} of another network namespace has VNI "
                    f"{vni} and port {port}",
                    errno.EEXIST,
                )
            other_namespaces.delete(stray)
            log.warning("removed %s from another network namespace", stray.name)
            return
        raise refusal

    async def _others_of_vni(self) -> list[Link]:
        """The links with our VNI and port and another name, in this namespace."""
        return [
            link
            for link in await self._links_of_port()
            if link.name != self.name
            and link.vxlan is not None
            and link.vxlan.vni == self.settings.vni
        ]

    async def _links_of_port(self) -> list[Link]:
        """The VXLAN links with our port in this namespace."""
        port = self.settings.port
        links = await self.netlink.list_links()
        return [each for each in links if each.vxlan is not None and each.vxlan.port == port]


def incompatibility(link: Link, settings: VxlanSettings) -> str:
    """The attribute that makes ``link`` unusable and how it differs; "" if it can be used."""
    if link.vxlan is None:
        return f"it is a link of kind {link.kind or 'hardware'}, not vxlan"
    for each in fields(VxlanSettings):
        have, want = getattr(link.vxlan, each.name), getattr(settings, each.name)
        if have != want:
            return f"its {each.name} is {have}, wanted is {want}"
    return ""
