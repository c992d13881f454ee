"""Leaves flanneld's own guard out of a ruleset, and decides separately what it drops.

The guard matches the mark, bytes in the packet, and the route to its source. A `Packet` has none of
these, so every verdict with the guard would be unsure. `forged` decides what the guard does with a
forwarded packet. `flannel status` shows whether the whole guard is in force.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

from flannel.cli.rulesets.verdict import Chain
from flannel.firewall.iptables_guard import PLACES
from flannel.firewall.nft_table import TABLE

_CHAINS = {place.chain for place in PLACES}
_OF_FORGED = {"forwarded", "FLANNEL-IN"}
"""The chains, of nft and of iptables, that drop forwarded packets with forged sources."""


def without_guard(tables: Mapping[str, Mapping[str, Chain]]) -> dict[str, dict[str, Chain]]:
    """The same tables, with the guard's chains made empty and without hooks."""
    return {
        table: {
            name: _empty(chain) if _is_guard(table, chain) else chain
            for name, chain in chains.items()
        }
        for table, chains in tables.items()
    }


def drops_forged(tables: Mapping[str, Mapping[str, Chain]]) -> bool:
    """Whether the guard's rules for forwarded packets with a forged source exist."""
    return any(
        chain.name in _OF_FORGED and bool(chain.rules) and _is_guard(table, chain)
        for table, chains in tables.items()
        for chain in chains.values()
    )


def forged(
    source: IPv4Address, subnet: IPv4Network, network: IPv4Network, *, by_tunnel: bool
) -> str:
    """Why the guard drops a packet of a container that leaves towards a peer; "" if it passes.

    :param source: the source address after masquerade.
    :param by_tunnel: whether the packet leaves by the overlay's own device.
    """
    if source in subnet or (not by_tunnel and source not in network):
        return ""
    return f"{source} is not of this host's subnet {subnet}"


def _is_guard(table: str, chain: Chain) -> bool:
    return chain.name in _CHAINS or (table == f"nft ip {TABLE}" and chain.kind == "filter")


def _empty(chain: Chain) -> Chain:
    return Chain(chain.name, chain.table, kind=chain.kind)
