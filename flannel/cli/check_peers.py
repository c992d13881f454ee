"""The part of `flannel check` that looks at the other hosts."""

from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network

from flannel.backends.traits import Carrier, traits
from flannel.cli.check_ways import Ways
from flannel.cli.context import Context
from flannel.cli.facts import Facts
from flannel.cli.findings import Finding
from flannel.cli.host_view import Host
from flannel.cli.peers import Peer, probe_peers
from flannel.errors import StoreError


async def examine_peers(context: Context, facts: Facts, host: Host) -> AsyncIterator[Finding]:
    """Probe every other host.

    :raises KernelError: this process may not send echoes, or a route cannot be looked up.
    """
    try:
        peers, _ = await probe_peers(context)
    except StoreError:
        yield Finding("unseen", "the peers: neither etcd nor flanneld lists them")
        return
    ways = Ways(facts, host)
    own = {each.interface.ip for each in host.addresses}
    for peer in peers:
        if facts.subnet is None and IPv4Address(peer.public_ip) in own:
            continue  # this host's own lease, which nothing here names any more
        for finding in await _peer(context, facts, ways, peer):
            yield finding
    for finding in ways.of_containers():
        yield finding


async def _peer(context: Context, facts: Facts, ways: Ways, peer: Peer) -> list[Finding]:
    who = f"{peer.public_ip} ({peer.subnet})"
    misfit = _misfit(facts, peer)
    if peer.is_awaited and (misfit or peer.left_out or peer.rtt is None):
        what = f"{peer.subnet} is reserved for {peer.public_ip}, whose flanneld has not started"
        return [Finding("not-started", f"{what} since")]
    if misfit and _has_moved(facts, peer):
        what = f"{peer.subnet} is still reserved for {peer.public_ip}, which has another subnet now"
        return [Finding("not-started", f"{what}: {misfit}")]
    if misfit and (peer.rtt is not None or peer.underlay_rtt is not None):
        return [Finding("peer-not-ready", f"{who} is not of this network: {misfit}")]
    if peer.left_out and not misfit:
        return [Finding("left-out", f"{who}: {peer.left_out}")]
    if not misfit and (faults := await ways.examine(peer, who)):
        return faults
    if peer.rtt is None:
        silent = await _silent(context, facts, peer, who)
        return [Finding(silent.kind, silent.what + await _detour(facts, ways.host, peer))]
    findings = []
    if peer.full_size is False:
        size = f"of more than {peer.mtu} bytes" if peer.mtu is not None else "of full size"
        mtu = facts.status["mtu"] if facts.status is not None else facts.env and facts.env.mtu
        what = f"packets {size} do not get to {who}, the overlay's MTU is {mtu}"
        findings.append(Finding("path-mtu", what))
    if peer.probe is None:
        return findings
    if peer.probe.refused and peer.is_ours:
        what = f"{who} answers through the overlay, and nothing listens at flanneld's probe port"
        findings.append(Finding("peer-daemon-dead", what))
    elif peer.probe.ready is False:
        findings.append(
            Finding("peer-not-ready", f"flanneld of {who} reports that it is not ready")
        )
    elif peer.probe.ready is None and not peer.probe.refused:
        what = f"{who} answers pings through the overlay, and flanneld there does not answer"
        findings.append(Finding("peer-silent", what))
    return findings


def _has_moved(facts: Facts, peer: Peer) -> bool:
    """Whether this is a reservation of an earlier config, whose host has a lease of this one."""
    config, address = facts.config, IPv4Address(peer.public_ip)
    return (
        config is not None
        and peer.ttl is None
        and any(
            each.attrs.public_ip == address and config.fits(each.subnet)
            for each in facts.leases or ()
        )
    )


def _misfit(facts: Facts, peer: Peer) -> str:
    """Why flanneld here cannot use the peer's lease; "" if it can."""
    config, subnet = facts.config, IPv4Network(peer.subnet)
    if config is not None and not (
        subnet.prefixlen == config.subnet_len and subnet.subnet_of(config.network)
    ):
        return f"its lease is not a /{config.subnet_len} of {config.network}"
    own = traits(facts.backend)
    if own.carrier is not None and not own.takes_every_lease and peer.backend != own.type:
        return f"its lease is of backend {peer.backend}, not {facts.backend}"
    return ""


async def _detour(facts: Facts, host: Host, peer: Peer) -> str:
    """The link by which the tunnel's packets leave, if it is not the external interface.

    The kernel routes them like packets of the host's own programs, so a VPN can take them.
    """
    way = await host.netlink.find_way(IPv4Address(peer.public_ip))
    if facts.interface is None or way is None:
        return ""
    used, wanted = host.name(way.link), str(facts.interface["name"])
    return f"; packets to {peer.public_ip} leave by {used}, not by {wanted}" * (used != wanted)


async def _silent(context: Context, facts: Facts, peer: Peer, who: str) -> Finding:
    """Why a peer does not answer through the overlay."""
    if traits(peer.backend).carrier is Carrier.FLANNELD and facts.port is not None:
        # The packet loop is part of flanneld: without it the port is closed, and the kernel there
        # reports that.
        answer = await context.ask_port(IPv4Address(peer.public_ip), facts.port)
        if answer.refused:
            what = (
                f"nothing listens at UDP port {facts.port} of {who}: flanneld there is not running"
            )
            return Finding("peer-daemon-dead", what)
    if peer.underlay_rtt is None:
        return Finding("peer-down", f"{who} answers neither through the overlay nor beside it")
    port = f"UDP port {facts.port}" if facts.port is not None else "the overlay"
    what = f"{who} answers a ping, but not through the overlay: {port} is filtered one way or both"
    return Finding("peer-port", what)
