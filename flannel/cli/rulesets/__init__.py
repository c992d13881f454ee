"""What a firewall does with a packet.

verdict    chains and rules as values, and what they do with a packet
nft        reads what `nft -j list ruleset` prints
iptables   reads what `iptables-save` prints
own_guard  flanneld's own guard, left out
"""
