"""flanneld's own guard, which is left out where it is asked what others' rules do with a packet.

By what it tells packets apart, the mark, bytes within the packet and the way back to its source, a
`Packet` does not have, so every verdict would be unsure. What it does with a forwarded packet is
answered by `forged` instead, which knows its rules. Whether the whole guard is in force is in
`flannel status`.
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
    """The same tables; the guard's chains in them have neither hook nor rules."""
    return {
        table: {
            name: _empty(chain) if _is_guard(table, chain) else chain
            for name, chain in chains.items()
        }
        for table, chains in tables.items()
    }


def drops_forged(tables: Mapping[str, Mapping[str, Chain]]) -> bool:
    """Whether the guard's rules for forwarded packets with a forged source are there."""
    return any(
        chain.name in _OF_FORGED and bool(chain.rules) and _is_guard(table, chain)
        for table, chains in tables.items()
        for chain in chains.values()
    )


def forged(
    source: IPv4Address, subnet: IPv4Network, network: IPv4Network, *, by_tunnel: bool
) -> str:
    """Why the guard drops a packet of a container that leaves towards a peer; "" if it passes.

    :param source: as it is after masquerade.
    :param by_tunnel: whether the packet leaves by the overlay's own device.
    """
    if source in subnet or (not by_tunnel and source not in network):
        return ""
    return f"{source} is not of this host's subnet {subnet}"


def _is_guard(table: str, chain: Chain) -> bool:
    return chain.name in _CHAINS or (table == f"nft ip {TABLE}" and chain.kind == "filter")


def _empty(chain: Chain) -> Chain:
    return Chain(chain.name, chain.table, kind=chain.kind)
