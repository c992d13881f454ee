"""Links and addresses of this host, over rtnetlink, by pyroute2.

This module is for rare work. Entries that exist for every lease go through
`flannel.kernel.rtnetlink`, which is some hundred times quicker: reading 10,000 routes
takes pyroute2 0.7 s.

Verbs: *list* dumps, *find* may return None, *ensure* makes it so, *delete* does nothing if it is
absent. Each raises `KernelError` that names what it was doing.
"""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Self

from flannel.errors import KernelError
from flannel.kernel.entries import PROTOCOL
from flannel.kernel.links import Address, Link, VxlanSettings, Way
from flannel.kernel.rtlayout import LAST_METRIC, NLM_F_REQUEST, RTM_GETLINK, RTM_GETROUTE

_GET_LINK, _GET_ROUTE = (RTM_GETLINK, NLM_F_REQUEST), (RTM_GETROUTE, NLM_F_REQUEST)
"""What pyroute2 calls "get", but for NLM_F_ACK: the answer is the acknowledgement, or an error is.
An acknowledgement of its own would come when pyroute2 has forgotten the request, and lie for ever
in its queue for what nobody has asked for: 36 bytes, and as its buffer was large, a hole of some
2 kB before the next in the heap."""

_PATIENCE = 2.0
"""Seconds to wait for an answer. The kernel answers at once, or what it answered was lost."""

_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000  # if.h
_IFA_F_DEPRECATED = 0x20  # if_addr.h
_RTN_LOCAL = 2  # rtnetlink.h
_SCOPE_LINK = 253  # rtnetlink.h: RT_SCOPE_LINK
_NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}
"""No route; and what the kernel answers for routes of type unreachable, prohibit and blackhole."""


class Netlink:
    """An open rtnetlink socket; ``async with Netlink() as netlink: ...``.

    After an error of the socket itself, such as ENOBUFS, or without an answer in time, the next
    call opens another: pyroute2's can do nothing more then.
    """

    def __init__(self) -> None:
        self._ipr: Any = _open()
        self._is_broken = False
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ipr.close()

    @asynccontextmanager
    async def _kernel(self, doing: str, absent: tuple[int, ...] = ()) -> AsyncIterator[None]:
        """One call at a time: the kernel refuses a second dump on one socket (EBUSY).

        Translates pyroute2's errors; the numbers in ``absent`` mean that there is nothing to do.
        """
        from flannel.kernel import pyroute2_part

        async with self._lock:
            try:
                if self._is_broken:
                    self._ipr.close()
                    self._ipr = _open()
                    self._is_broken = False
                async with asyncio.timeout(_PATIENCE):
                    yield
            except pyroute2_part.NetlinkError as error:
                if error.code not in absent:
                    raise KernelError(doing, error.code, _words(error)) from error
            except TimeoutError as error:
                self._is_broken = True
                raise KernelError(doing, errno.ETIMEDOUT) from error
            except OSError as error:
                self._is_broken = True
                raise KernelError(doing, error.errno or errno.EIO) from error

    async def list_links(self) -> list[Link]:
        """Every link of this network namespace."""
        async with self._kernel("list links"):
            return [_link(message) async for message in await self._ipr.link("dump")]

    async def find_link(self, name: str) -> Link | None:
        """The link called ``name``, or that has it as an alternative name."""
        try:
            async with self._kernel(f"look at link {name}"):
                return _link((await self._ipr.link(_GET_LINK, ifname=name))[0])
        except KernelError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    async def list_addresses(self) -> list[Address]:
        """Every IPv4 address, in the kernel's order: a link's primary address comes first."""
        found = []
        async with self._kernel("list addresses"):
            async for message in await self._ipr.addr("dump", family=socket.AF_INET):
                text = message.get("local") or message.get("address")
                interface = IPv4Interface(f"{text}/{message['prefixlen']}")
                flags = message.get("flags") or 0
                deprecated = bool(flags & _IFA_F_DEPRECATED)
                found.append(Address(message["index"], interface, message["scope"], deprecated))
        return found

    async def find_way(self, address: IPv4Address) -> Way | None:
        """Where the kernel sends a packet of this host, as ``ip route get`` shows it.

        None: there is no route, or one that refuses or drops the packet.
        """
        try:
            async with self._kernel(f"look up the route to {address}"):
                found = (await self._ipr.route(_GET_ROUTE, dst=str(address)))[0]
        except KernelError as error:
            if error.errno in _NO_WAY:
                return None
            raise
        via, source = found.get("gateway"), found.get("prefsrc")
        return Way(
            found.get("oif"),
            IPv4Address(via) if via else None,
            IPv4Address(source) if source else None,
            found["type"] == _RTN_LOCAL,
        )

    async def find_forwarded(
        self, destination: IPv4Address, source: IPv4Address, came_in: int, mark: int = 0
    ) -> Way:
        """Where the kernel sends a packet that comes in by a link, as ``ip route get ... iif``.

        :param came_in: the index of that link.
        :raises KernelError: it sends the packet nowhere. EHOSTUNREACH, ENETUNREACH: there is no
            route, or the link does not forward; EACCES: a route or policy rule prohibits it;
            EINVAL, EXDEV: one of type blackhole, or rp_filter refuses the source.
        """
        attributes: dict[str, Any] = {"src": str(source), "iif": came_in}
        if mark:
            attributes["mark"] = mark
        async with self._kernel(f"look up the route of {source} to {destination}"):
            found = (await self._ipr.route(_GET_ROUTE, dst=str(destination), **attributes))[0]
        via = found.get("gateway")
        return Way(
            found.get("oif"), IPv4Address(via) if via else None, None, found["type"] == _RTN_LOCAL
        )

    async def replace_route(self, dst: IPv4Network, link: Link) -> None:
        """Route a network over a link, without a gateway; replaces a route to the same network."""
        async with self._kernel(f"route {dst} dev {link.name}"):
            await self._ipr.route(
                "replace", dst=str(dst), oif=link.index, scope=_SCOPE_LINK, proto=PROTOCOL
            )

    async def delete_route(self, dst: IPv4Network, link: int) -> None:
        """Delete the route of `replace_route`."""
        async with self._kernel(f"delete route {dst}", absent=(errno.ESRCH,)):
            await self._ipr.route("del", dst=str(dst), oif=link, scope=_SCOPE_LINK, proto=PROTOCOL)

    async def add_blackhole(self, dst: IPv4Network) -> None:
        """Drop packets to a network unless any other route leads there; content if that is so."""
        async with self._kernel(f"add blackhole route {dst}", absent=(errno.EEXIST,)):
            await self._ipr.route("add", **_blackhole(dst))

    async def delete_blackhole(self, dst: IPv4Network) -> None:
        """Delete the route of `add_blackhole`."""
        async with self._kernel(f"delete blackhole route {dst}", absent=(errno.ESRCH,)):
            await self._ipr.route("del", **_blackhole(dst))

    async def create_vxlan(self, name: str, *, mac: str, mtu: int, settings: VxlanSettings) -> None:
        """Make a VXLAN link, still down.

        The MAC is given here and not set later: udev's MacAddressPolicy=persistent leaves a link
        alone whose address was assigned at its creation.
        """
        attributes = _vxlan_changes(settings) | {"vxlan_port": settings.port}
        if settings.gbp:
            attributes["vxlan_gbp"] = True
        async with self._kernel(f"create VXLAN link {name}"):
            await self._ipr.link(
                "add", ifname=name, kind="vxlan", address=mac, mtu=mtu, **attributes
            )

    async def move_vxlan(self, link: Link, settings: VxlanSettings) -> None:
        """Let another link or address carry a VXLAN link, or let it learn or not.

        Nothing that hangs on the link is lost.
        """
        doing = f"move VXLAN link {link.name}"
        await self._set(doing, link, kind="vxlan", **_vxlan_changes(settings))

    async def set_mac(self, link: Link, mac: str) -> None:
        """Change the link's hardware address."""
        await self._set(f"set MAC {mac} on {link.name}", link, address=mac)

    async def set_alias(self, link: Link, alias: str) -> None:
        """Change the text that ``ip link`` shows as alias; it stays with the link when renamed."""
        await self._set(f"set alias {alias!r} on {link.name}", link, ifalias=alias)

    async def release_link(self, link: Link) -> None:
        """Take the link out of its bridge, bond or VRF."""
        await self._set(f"take {link.name} out of its bridge", link, master=0)

    async def rename_link(self, link: Link, name: str) -> None:
        """Give the link another name; before Linux 6.2 the kernel wants it down for that."""
        doing = f"rename link {link.name} to {name}"
        try:
            await self._set(doing, link, ifname=name)
        except KernelError as error:
            if error.errno != errno.EBUSY:
                raise
            await self._set(f"bring {link.name} down", link, state="down")
            await self._set(doing, link, ifname=name)

    async def delete_altname(self, link: Link, name: str) -> None:
        """Take an alternative name from the link."""
        async with self._kernel(f"take the alternative name {name} from {link.name}"):
            await self._ipr.link("property_del", index=link.index, altname=name)

    async def delete_link(self, link: Link) -> None:
        """Remove a link with all its addresses and routes."""
        async with self._kernel(f"delete link {link.name}", absent=(errno.ENODEV,)):
            await self._ipr.link("del", index=link.index)

    async def ensure_link_up(self, link: Link, mtu: int) -> None:
        """Set the MTU and bring the link up, where it is not so already."""
        if link.mtu != mtu:
            await self._set(f"set MTU {mtu} on {link.name}", link, mtu=mtu)
        if not link.up:
            await self._set(f"bring {link.name} up", link, state="up")

    async def _set(self, doing: str, link: Link, **attributes: Any) -> None:
        async with self._kernel(doing):
            await self._ipr.link("set", index=link.index, **attributes)

    async def ensure_address(self, link: Link, interface: IPv4Interface) -> None:
        """Put an address on a link; content if it is there."""
        async with self._kernel(f"add address {interface} to {link.name}", absent=(errno.EEXIST,)):
            await self._ipr.addr(
                "add",
                index=link.index,
                address=str(interface.ip),
                prefixlen=interface.network.prefixlen,
            )

    async def delete_address(self, link: Link, interface: IPv4Interface) -> None:
        """Take an address from a link."""
        async with self._kernel(
            f"delete address {interface} from {link.name}",
            absent=(errno.EADDRNOTAVAIL,),
        ):
            await self._ipr.addr(
                "del",
                index=link.index,
                address=str(interface.ip),
                prefixlen=interface.network.prefixlen,
            )


def _open() -> Any:
    """A socket of pyroute2's that gets the kernel's own explanations (NETLINK_EXT_ACK)."""
    from flannel.kernel import pyroute2_part

    return pyroute2_part.AsyncIPRoute(ext_ack=True)


def _words(error: Any) -> str:
    """The kernel's own explanation; "" if it gave none: pyroute2 has the number's text then."""
    text = str(error.args[1])
    return text if text != os.strerror(error.code) else ""


def _vxlan_changes(settings: VxlanSettings) -> dict[str, Any]:
    """The attributes that can be changed, and the VNI, without which the kernel refuses them."""
    attributes: dict[str, Any] = {
        "vxlan_id": settings.vni,
        "vxlan_link": settings.parent,
        "vxlan_learning": settings.learning,
    }
    if settings.local is not None:
        attributes["vxlan_local"] = str(settings.local)
    return attributes


def _blackhole(dst: IPv4Network) -> dict[str, Any]:
    return {
        "dst": str(dst),
        "type": "blackhole",
        "priority": LAST_METRIC,
        "proto": PROTOCOL,
    }


def _link(message: Any) -> Link:
    kind = message.get_nested("linkinfo", "kind") or ""
    data = message.get_nested("linkinfo", "data") if kind == "vxlan" else None
    return Link(
        index=message["index"],
        name=message.get("ifname"),
        kind=kind,
        mtu=message.get("mtu"),
        up=bool(message["flags"] & _IFF_UP),
        mac=message.get("address") or "",
        vxlan=_vxlan_settings(data) if data is not None else None,
        master=message.get("master") or 0,
        carrier=bool(message["flags"] & _IFF_LOWER_UP),
        alias=message.get("ifalias") or "",
    )


def _vxlan_settings(data: Any) -> VxlanSettings:
    attributes = dict(data["attrs"])
    local = attributes.get("IFLA_VXLAN_LOCAL")
    return VxlanSettings(
        vni=attributes.get("IFLA_VXLAN_ID", 0),
        parent=attributes.get("IFLA_VXLAN_LINK", 0),
        local=IPv4Address(local) if local else None,
        port=attributes.get("IFLA_VXLAN_PORT", 0),
        learning=bool(attributes.get("IFLA_VXLAN_LEARNING", 0)),
        gbp="IFLA_VXLAN_GBP" in attributes,  # a flag: present or not, without a value
    )
