"""What a firewall does with a packet.

verdict      chains and rules as values, and what they do with a packet
matches      the matches that both kinds of rules have
iptables     reads what `iptables-save` prints
nft          reads what `nft -j list ruleset` prints: chains, statements, verdict maps
nft_matches  the matches in it
own_guard    leaves flanneld's own guard out
"""
