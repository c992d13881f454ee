"""What a firewall does with a packet.

verdict      chains and rules as values, and what they do with a packet
peril        what may be dropped by rules that are not understood
matches      the matches that rules of nft and of iptables have in common
iptables     parses the output of `iptables-save`
nft          parses the output of `nft -j list ruleset`: chains, statements, verdict maps
nft_matches  parses the matches in it
own_guard    flanneld's own guard, which is not evaluated
"""
