"""The part of `flannel check` that compares routes and entries with those planned for each peer.

Packets of this host's own programs and packets of containers are looked up separately: policy rules
and the link by which a packet comes in may part their ways.
"""

from functools import cached_property
from ipaddress import IPv4Address, IPv4Network

from flannel.backends.traits import Carrier, traits
from flannel.cli.facts import Facts
from flannel.cli.findings import Finding
from flannel.cli.forwarded import Refused, find_bridge, look_up
from flannel.cli.host_view import Host, first_container
from flannel.cli.peers import Peer
from flannel.cli.planned import Hop, make_planner
from flannel.errors import BadLease
from flannel.kernel.entries import Entry, Fdb, Neighbour
from flannel.kernel.links import Link, Way
from flannel.lease import Lease

_AWAY = "packets for", "that come in "
_BACK = "packets from", "for containers here that come in "
"""The texts before and after a peer, of packets for its containers, and of those from them."""


class Ways:
    """The ways to the peers; what is wrong for several of them in the same way is one finding."""

    def __init__(self, facts: Facts, host: Host) -> None:
        self.host = host
        self._facts = facts
        self._planner = make_planner(facts, host)
        self._leases = {lease.subnet: lease for lease in facts.leases or ()}
        self._bridge = find_bridge(host, facts.subnet)
        self._diverted: dict[tuple[str, str, str], list[str]] = {}
        """The peers, by the finding and its text before and after their names."""

    async def examine(self, peer: Peer, who: str) -> list[Finding]:
        """The faults of the way from this host to one peer.

        :param who: the peer, for messages.
        :raises KernelError: something cannot be read.
        """
        subnet = IPv4Network(peer.subnet)
        if traits(peer.backend).carrier is Carrier.OTHERS:
            return []
        way = await self.host.netlink.find_way(first_container(subnet))
        lease = self._leases.get(subnet)
        hop = self._hop(lease)
        if hop is None:
            return self._over_other_links(way, who)
        if way is None or Hop(way.link, way.via) != hop:
            there = f"{self._named(way)}, not {self._named(hop)}" if way is not None else "nowhere"
            return [Finding("route-missing", f"packets for {who} go {there}")]
        entries = self._planner.entries(lease) if self._planner is not None and lease else ()
        wrong = [Finding("entry-changed", f"{who}: {each}") for each in self._wrong(entries)]
        await self._look_up_containers(subnet, who, hop)
        return wrong

    def of_containers(self) -> list[Finding]:
        """The faults of the ways between containers, of all peers that were examined."""
        findings = []
        for (kind, before, after), who in self._diverted.items():
            more = f" and {len(who) - 1} more" if len(who) > 1 else ""
            findings.append(Finding(kind, f"{before} {who[0]}{more} {after}"))
        return findings

    def _hop(self, lease: Lease | None) -> Hop | None:
        if lease is None or self._planner is None:
            return None
        try:
            return self._planner.hop(lease)
        except BadLease:
            return None

    def _over_other_links(self, way: Way | None, who: str) -> list[Finding]:
        """Where the plan is not known: a packet should leave by device or interface."""
        expected = {self._facts.device, (self._facts.interface or {}).get("name", "")} - {""}
        if not expected or (way is not None and self.host.name(way.link) in expected):
            return []
        there = self._named(way) if way is not None else "nowhere"
        return [Finding("route-missing", f"packets for {who} go {there}")]

    def _named(self, way: Way | Hop) -> str:
        via = f" via {way.via}" if way.via is not None else ""
        return f"over {self.host.name(way.link)}{via}"

    @cached_property
    def _neighbours(self) -> dict[tuple[int, bytes], bytes]:
        link = self._device.index if self._device is not None else 0
        return {(link, each.ip): each.mac for each in self.host.tables.list_neighbours(link)}

    @cached_property
    def _fdb(self) -> dict[tuple[int, bytes], bytes]:
        link = self._device.index if self._device is not None else 0
        return {(link, each.mac): each.dst for each in self.host.tables.list_fdb(link)}

    @property
    def _device(self) -> Link | None:
        return self._planner.device if self._planner is not None else None

    def _wrong(self, entries: tuple[Entry, ...]) -> list[str]:
        """What is wrong with the neighbour and the FDB entry of a peer."""
        texts = []
        for entry in entries:
            if isinstance(entry, Neighbour):
                mac, on = self._neighbours.get((entry.link, entry.ip)), self.host.name(entry.link)
                text = f"{IPv4Address(entry.ip)} on {on}"
                if mac is None:
                    texts.append(f"there is no neighbour entry for {text}")
                elif mac != entry.mac:
                    texts.append(f"{text} is at {mac.hex(':')}, not at {entry.mac.hex(':')}")
            elif isinstance(entry, Fdb):
                dst, text = self._fdb.get((entry.link, entry.mac)), entry.mac.hex(":")
                if dst is None:
                    texts.append(
                        f"there is no FDB entry for {text} on {self.host.name(entry.link)}"
                    )
                elif dst != entry.dst:
                    wanted = IPv4Address(entry.dst)
                    texts.append(f"{text} is behind {IPv4Address(dst)}, not behind {wanted}")
        return texts

    async def _look_up_containers(self, subnet: IPv4Network, who: str, hop: Hop) -> None:
        """Look up the packets between a container here and one of that peer, both ways."""
        bridge, tunnel, own = self._bridge, self.host.links.get(hop.link), self._facts.subnet
        if bridge is None or tunnel is None or own is None or self.host.sysctl("ip_forward") == 0:
            return
        near, far = first_container(own), first_container(subnet)
        away = await look_up(self.host, near, far, bridge)
        is_right = self._compare(who, _AWAY, away, hop, bridge)
        back = await look_up(self.host, far, near, tunnel)
        if not is_right and isinstance(back, Refused) and back.kind == "source-refused":
            return  # rp_filter takes the first way as that to the source
        self._compare(who, _BACK, back, Hop(bridge.index, None), tunnel)

    def _compare(
        self, who: str, texts: tuple[str, str], way: Way | Refused, hop: Hop, by: Link
    ) -> bool:
        """Note a way that is not ``hop``; return whether it is."""
        before, after = texts
        kind = "container-route"
        if isinstance(way, Refused):
            if way.kind == "link-forwarding":  # a fault of the host, found with its links
                return False
            kind = way.kind
            after += f"by {by.name} are dropped: {way.why}"
        elif way.link != hop.link:
            after += f"by {by.name} leave {self._named(way)}, not over {self.host.name(hop.link)}"
        elif way.via != hop.via:
            after += f"by {by.name} leave {self._named(way)}, not {self._named(hop)}"
        else:
            return True
        self._diverted.setdefault((kind, before, after), []).append(who)
        return False
