"""flannel peers: which hosts answer, how quickly, and packets up to which size."""

from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from flannel.backends import mtu as mtu_rule
from flannel.backends.traits import Carrier, traits
from flannel.cli.context import Context, DaemonDown, table
from flannel.cli.leases import is_awaited, list_leases
from flannel.cli.planned import find_left_out
from flannel.cli.probe import PortAnswer
from flannel.errors import BadNetworkConfig, StoreError
from flannel.handover import subnet_env
from flannel.health.peer_probe import overlay_address
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

_SEARCHES = 8
"""The most peers whose path MTU is searched for, which takes a second each."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another host, and the outcome of the echoes to it.

    :ivar address: its own address in the overlay; without a tunnel, its public one.
    :ivar is_ours: it runs this flanneld; upstream's answers no probes.
    :ivar rtt: milliseconds through the overlay; None: no answer.
    :ivar underlay_rtt: the same to its public address, beside the overlay; measured only if there
        is no answer through the overlay.
    :ivar mtu: bytes of the largest packet that gets there and back through the overlay; None:
        unknown.
    :ivar full_size: packets of the overlay's MTU get there and back; None: unknown.
    :ivar probe: the answer of its flanneld; None: it was not asked.
    :ivar is_awaited: the subnet is reserved for it, and it has written nothing there yet.
    :ivar left_out: why flanneld here cannot use its lease; "" if it can.
    """

    subnet: str
    public_ip: str
    address: str
    backend: str
    is_ours: bool
    ttl: int | None
    rtt: float | None
    underlay_rtt: float | None
    mtu: int | None
    full_size: bool | None
    probe: PortAnswer | None
    is_awaited: bool = False
    left_out: str = ""

    @property
    def state(self) -> str:
        """One or two words for people."""
        if self.rtt is None and self.is_awaited:
            return "not started yet"
        if self.left_out:
            return "left out"
        if self.rtt is None:
            return "unreachable" if self.underlay_rtt is None else "not through the overlay"
        if self.probe is None:
            return "reachable"
        if self.probe.refused and self.is_ours:
            return "flanneld is dead"
        return {True: "ready", False: "not ready", None: "reachable"}[self.probe.ready]

    def document(self) -> dict[str, Any]:
        """The members for JSON."""
        return {**asdict(self), "state": self.state}


async def peers(context: Context) -> int:
    """Print all peers; exit status 1 if one that has started cannot be reached."""
    found, note = await probe_peers(context)
    rows = [
        (each.subnet, each.public_ip, each.backend, each.state, each.rtt, each.mtu)
        for each in found
    ]
    lines = table(rows, ("SUBNET", "HOST", "BACKEND", "STATE", "RTT ms", "MTU"))
    document = {"peers": [each.document() for each in found], "note": note}
    context.show(document, *lines, note)
    return 0 if all(each.is_awaited or _is_reached(each) for each in found) else 1


def _is_reached(peer: Peer) -> bool:
    return peer.rtt is not None and not peer.left_out


async def probe_peers(context: Context) -> tuple[list[Peer], str]:
    """Probe all other hosts.

    :returns: the peers, and a note on the source of their leases if it is not the store.
    :raises StoreError: neither the store nor flanneld answers.
    """
    documents, note = await list_leases(context)
    own = await _own(context)
    is_carried_by_others = traits(own.backend).carrier is Carrier.OTHERS
    leases = [
        Lease(
            IPv4Network(each["subnet"]),
            LeaseAttrs(
                IPv4Address(each["public_ip"]),
                # The leases of alloc and of udp look alike: both name no backend.
                own.backend if is_carried_by_others else each["backend"],
                each["backend_data"],
                each["node_id"],
            ),
            each["ttl"],
        )
        for each in documents
        if each["subnet"] != own.subnet and each["public_ip"] != own.public_ip
    ]
    awaited = {IPv4Network(each["subnet"]) for each in documents if is_awaited(each)}
    left_out = await find_left_out(context, leases)
    found = [
        replace(
            each,
            is_awaited=(subnet := IPv4Network(each.subnet)) in awaited,
            left_out=left_out.get(subnet, ""),
        )
        for each in await _probe(context, leases, own.mtu)
    ]
    return found, note


class _Own(NamedTuple):
    """This host's part in the overlay; unknown members are empty."""

    subnet: str
    public_ip: str
    mtu: int | None
    backend: str


async def _own(context: Context) -> _Own:
    try:
        status = await context.ask_daemon("/status")
    except DaemonDown:
        env = subnet_env.read(context.options.subnet_file)
        subnet, mtu = (str(env.subnet.network), env.mtu) if env is not None else ("", None)
        return _Own(subnet, "", mtu, await _agreed_backend(context))
    lease = status["lease"] or {}
    subnet, public_ip = lease.get("subnet", ""), lease.get("public_ip", "")
    return _Own(subnet, public_ip, status["mtu"], status["backend"] or "")


async def _agreed_backend(context: Context) -> str:
    """The backend of the network config; "" if it cannot be read."""
    try:
        document = await context.config_document()
        return NetworkConfig.from_json(document.text).backend_type if document is not None else ""
    except (StoreError, BadNetworkConfig):
        return ""


async def _probe(context: Context, leases: list[Lease], mtu: int | None) -> list[Peer]:
    # Without a tunnel, packets to the host and to its containers take the same way.
    addresses = [overlay_address(lease) or lease.attrs.public_ip for lease in leases]
    answering = {overlay_address(lease) for lease in leases}
    with context.pinger() as pinger:
        rtts = await pinger.ping(addresses)
        silent = [
            lease.attrs.public_ip
            for lease, address in zip(leases, addresses, strict=True)
            if address not in rtts
        ]
        beside = await pinger.ping(silent) if silent else {}
        whole = await pinger.ping(list(rtts), mtu) if mtu is not None else {}
        answers = await context.ask_peers([each for each in rtts if each in answering])
        found, searches = [], _SEARCHES
        for lease, address in zip(leases, addresses, strict=True):
            largest = mtu if address in whole else None
            if mtu is not None and largest is None and address in rtts and searches:
                searches -= 1
                largest = await pinger.path_mtu(address, mtu_rule.LEAST, mtu - 1)
            found.append(
                Peer(
                    subnet=str(lease.subnet),
                    public_ip=str(lease.attrs.public_ip),
                    address=str(address),
                    backend=lease.attrs.backend,
                    is_ours=bool(lease.attrs.node_id),
                    ttl=lease.ttl,
                    rtt=_milliseconds(rtts.get(address)),
                    underlay_rtt=_milliseconds(beside.get(lease.attrs.public_ip)),
                    mtu=largest,
                    full_size=address in whole if mtu is not None and address in rtts else None,
                    probe=answers.get(address),
                )
            )
    return found


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
