"""flanneld's own guard, which is left out where it is asked what others' rules do with a packet.

It drops only packets that no flannel sends. By what it tells them apart, the mark and bytes within
the packet, a `Packet` does not have, so every verdict would be unsure. Whether the guard is in
force is in `flannel status`.
"""

from collections.abc import Mapping

from flannel.cli.rulesets.verdict import Chain
from flannel.firewall.iptables_guard import PLACES
from flannel.firewall.nft_table import TABLE

_CHAINS = {place.chain for place in PLACES}


def without_guard(tables: Mapping[str, Mapping[str, Chain]]) -> dict[str, dict[str, Chain]]:
    """The same tables; the guard's chains in them have neither hook nor rules."""
    return {
        table: {
            name: _empty(chain) if _is_guard(table, chain) else chain
            for name, chain in chains.items()
        }
        for table, chains in tables.items()
    }


def _is_guard(table: str, chain: Chain) -> bool:
    return chain.name in _CHAINS or (table == f"nft ip {TABLE}" and chain.kind == "filter")


def _empty(chain: Chain) -> Chain:
    return Chain(chain.name, chain.table, kind=chain.kind)
