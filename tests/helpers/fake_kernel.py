"""The kernel's links and tables in memory, for tests of policy that need no root.

They keep the parts of the kernel's contract that our code relies on: a name, and a VNI with its
port, belong to one link; a nexthop's id is not written over, and its end takes its routes along.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from flannel.errors import KernelError
from flannel.kernel.entries import PROTOCOL, Entry, Fdb, Key, Neighbour, Nexthop, Route, key
from flannel.kernel.links import Address, Link, VxlanSettings, Way
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtmessages import FoundRoute
from flannel.kernel.rtnetlink import Failure, RtNetlink


class FakeNetlink(Netlink):
    """Links, addresses and single routes.

    :ivar links: by index.
    :ivar altnames: alternative names: the index of the link for each.
    :ivar ways: the answers of `find_way`; a destination that is not there has no route.
    :ivar forwarded: those of `find_forwarded`, or error numbers, by destination and the index of
        the link by which packets come in; for others `ways` and the links' networks.
    :ivar refuses: error numbers by the name of the method that fails with it, each time.
    :ivar refuses_once: the same, for the next call only.
    :ivar calls: the methods that changed something, with the link's name or the network.
    """

    def __init__(self, *links: Link) -> None:
        self.links = {link.index: link for link in links}
        self.altnames: dict[str, int] = {}
        self.addresses: list[Address] = []
        self.ways: dict[IPv4Address, Way] = {}
        self.forwarded: dict[tuple[IPv4Address, int], Way | int] = {}
        self.blackholes: set[IPv4Network] = set()
        self.routes: dict[IPv4Network, int] = {}
        self.refuses: dict[str, int] = {}
        self.refuses_once: dict[str, int] = {}
        self.calls: list[str] = []

    def add(self, link: Link) -> Link:
        self.links[link.index] = link
        return link

    def by_name(self, name: str) -> Link:
        return next(link for link in self.links.values() if link.name == name)

    def address(self, link: int, text: str, scope: int = 0) -> None:
        self.addresses.append(Address(link, IPv4Interface(text), scope))

    def addresses_of(self, name: str) -> list[str]:
        index = self.by_name(name).index
        return [str(each.interface) for each in self.addresses if each.link == index]

    def _may(self, method: str, what: object = None) -> None:
        number = self.refuses_once.pop(method, self.refuses.get(method))
        if number is not None:
            raise KernelError(f"{method.replace('_', ' ')} {what}", number)
        if what is not None:
            self.calls.append(f"{method} {what}")

    def _change(self, method: str, link: Link, **changes: object) -> None:
        self._may(method, link.name)
        if link.index not in self.links:
            raise KernelError(f"{method} {link.name}", errno.ENODEV)
        self.links[link.index] = replace(self.links[link.index], **changes)  # type: ignore[arg-type]

    async def list_links(self) -> list[Link]:
        self._may("list_links")
        return list(self.links.values())

    async def find_link(self, name: str) -> Link | None:
        self._may("find_link")
        for link in self.links.values():
            if link.name == name or self.altnames.get(name) == link.index:
                return link
        return None

    async def list_addresses(self) -> list[Address]:
        self._may("list_addresses")
        return list(self.addresses)

    async def find_way(self, address: IPv4Address) -> Way | None:
        self._may("find_way")
        return self.ways.get(address)

    async def find_forwarded(
        self, destination: IPv4Address, source: IPv4Address, came_in: int, mark: int = 0
    ) -> Way:
        self._may("find_forwarded")
        way = self.forwarded.get((destination, came_in), self.ways.get(destination))
        if isinstance(way, int):
            raise KernelError(f"look up the route of {source} to {destination}", way)
        for each in self.addresses:
            if way is None and destination in each.interface.network:
                way = Way(each.link, None, None)
        if way is None:
            raise KernelError(f"look up {destination}", errno.ENETUNREACH)
        return way

    async def replace_route(self, dst: IPv4Network, link: Link) -> None:
        self._may("replace_route", dst)
        self.routes[dst] = link.index

    async def delete_route(self, dst: IPv4Network, link: int) -> None:
        self._may("delete_route", dst)
        if self.routes.get(dst) == link:
            del self.routes[dst]

    async def add_blackhole(self, dst: IPv4Network) -> None:
        self._may("add_blackhole", dst)
        self.blackholes.add(dst)

    async def delete_blackhole(self, dst: IPv4Network) -> None:
        self._may("delete_blackhole", dst)
        self.blackholes.discard(dst)

    async def create_vxlan(self, name: str, *, mac: str, mtu: int, settings: VxlanSettings) -> None:
        self._may("create_vxlan", name)
        others = [link.vxlan for link in self.links.values() if link.vxlan is not None]
        is_taken = any(
            (each.vni, each.port, each.gbp) == (settings.vni, settings.port, settings.gbp)
            for each in others
        )
        if is_taken or any(link.name == name for link in self.links.values()):
            raise KernelError(f"create VXLAN link {name}", errno.EEXIST)
        index = max(self.links, default=0) + 1
        self.add(Link(index, name, "vxlan", mtu, False, mac, settings))

    async def move_vxlan(self, link: Link, settings: VxlanSettings) -> None:
        self._change("move_vxlan", link, vxlan=settings)

    async def set_mac(self, link: Link, mac: str) -> None:
        self._change("set_mac", link, mac=mac)

    async def set_alias(self, link: Link, alias: str) -> None:
        self._change("set_alias", link, alias=alias)

    async def release_link(self, link: Link) -> None:
        self._change("release_link", link, master=0)

    async def rename_link(self, link: Link, name: str) -> None:
        if any(each.name == name for each in self.links.values()) or name in self.altnames:
            raise KernelError(f"rename link {link.name} to {name}", errno.EEXIST)
        self._change("rename_link", link, name=name)

    async def delete_altname(self, link: Link, name: str) -> None:
        self._may("delete_altname", name)
        del self.altnames[name]

    async def delete_link(self, link: Link) -> None:
        self._may("delete_link", link.name)
        self.links.pop(link.index, None)
        self.addresses = [each for each in self.addresses if each.link != link.index]

    async def ensure_link_up(self, link: Link, mtu: int) -> None:
        self._may("ensure_link_up")
        if link.mtu != mtu:
            self._change("set_mtu", link, mtu=mtu)
        if not link.up:
            self._change("bring_up", link, up=True)

    async def ensure_address(self, link: Link, interface: IPv4Interface) -> None:
        self._may("ensure_address", interface)
        self.addresses.append(Address(link.index, interface, 0))

    async def delete_address(self, link: Link, interface: IPv4Interface) -> None:
        self._may("delete_address", interface)
        self.addresses = [
            each
            for each in self.addresses
            if (each.link, each.interface) != (link.index, interface)
        ]


class FakeTables(RtNetlink):
    """Routes, nexthops, ARP and FDB entries.

    :ivar entries: all of them, by key.
    :ivar others: nexthops of another program; the ids are taken.
    :ivar foreign: the routes of other programs.
    :ivar whole: our routes that lead to a whole network.
    :ivar refuses: error numbers of entries that the kernel does not take, by key.
    :ivar keeps: error numbers of entries that it does not remove, by key.
    :ivar breaks: the next so many calls of `put` and `delete` raise `KernelError`.
    :ivar writes: entries that were put, and entries that were deleted, in order.
    """

    def __init__(self, *, has_nexthops: bool = True) -> None:
        self.has_nexthops = has_nexthops
        self.port = 1
        self.entries: dict[Key, Entry] = {}
        self.others: dict[int, Nexthop] = {}
        self.foreign: list[FoundRoute] = []
        self.whole: list[FoundRoute] = []
        self.blackholes: set[IPv4Network] = set()
        self.refuses: dict[Key, int] = {}
        self.keeps: dict[Key, int] = {}
        self.breaks = 0
        self.writes: list[tuple[str, Entry]] = []

    def _may_break(self, doing: str) -> None:
        if self.breaks:
            self.breaks -= 1
            raise KernelError(doing, errno.ENOBUFS)

    def put(self, entries: Sequence[Entry]) -> list[Failure]:
        self._may_break("write to netlink")
        failures = []
        for entry in entries:
            number = self._refusal(entry)
            if number:
                failures.append(Failure(entry, number))
                continue
            self.writes.append(("put", entry))
            self.entries[key(entry)] = entry
        return failures

    def _refusal(self, entry: Entry) -> int:
        number = self.refuses.get(key(entry), 0)
        if number:
            return number
        if isinstance(entry, Nexthop):
            is_taken = key(entry) in self.entries or entry.id in self.others
            return errno.EEXIST if is_taken else 0
        if isinstance(entry, Route) and entry.nexthop:
            known = (Nexthop, entry.nexthop, 0) in self.entries or entry.nexthop in self.others
            return 0 if known else errno.EINVAL
        return 0

    def delete(self, entries: Sequence[Entry]) -> list[Failure]:
        self._may_break("write to netlink")
        failures = []
        for entry in entries:
            number = self.keeps.get(key(entry))
            if number:
                failures.append(Failure(entry, number))
                continue
            self.writes.append(("delete", entry))
            self.entries.pop(key(entry), None)
            if isinstance(entry, Nexthop):
                self.take_routes_of(entry.id)
        return failures

    def take_routes_of(self, nexthop: int) -> None:
        """The end of a nexthop is the end of its routes."""
        self.entries = {
            each: entry
            for each, entry in self.entries.items()
            if not (isinstance(entry, Route) and entry.nexthop == nexthop)
        }

    def damage(self, *entries: Entry) -> None:
        """Somebody removes these entries."""
        for entry in entries:
            self.entries.pop(key(entry), None)
            if isinstance(entry, Nexthop):
                self.take_routes_of(entry.id)

    def intrude(self, *entries: Entry) -> None:
        """Somebody adds these entries, or writes them over those with their keys."""
        self.entries |= {key(entry): entry for entry in entries}

    def list_own(self, network: IPv4Network, link: int = 0) -> list[Entry]:
        low, high = int(network.network_address), int(network.broadcast_address)
        own: list[Entry] = [
            entry
            for entry in self.entries.values()
            if isinstance(entry, Route)
            and (
                (link and entry.link == link)
                or (entry.protocol == PROTOCOL and low <= int.from_bytes(entry.dst, "big") <= high)
            )
        ]
        hops = [entry for entry in self.entries.values() if isinstance(entry, Nexthop)]
        return own + [hop for hop in hops if low <= hop.id <= high]

    def list_foreign_routes(self) -> list[FoundRoute]:
        return list(self.foreign)

    def list_routes_to(self, dst: IPv4Network) -> list[FoundRoute]:
        return [route for route in (*self.foreign, *self.whole) if route.dst == dst]

    def list_direct(self) -> list[FoundRoute]:
        return list(self.whole)

    def list_blackholes(self) -> set[IPv4Network]:
        return set(self.blackholes)

    def list_neighbours(self, link: int) -> list[Neighbour]:
        found = self.entries.values()
        return [each for each in found if isinstance(each, Neighbour) and each.link == link]

    def list_fdb(self, link: int) -> list[Fdb]:
        return [
            each for each in self.entries.values() if isinstance(each, Fdb) and each.link == link
        ]

    def of_kind(self, kind: type[Entry]) -> list[Entry]:
        return [each for each in self.entries.values() if isinstance(each, kind)]


def table(entries: Sequence[Entry]) -> Mapping[Key, Entry]:
    """Entries by their keys."""
    return {key(entry): entry for entry in entries}
