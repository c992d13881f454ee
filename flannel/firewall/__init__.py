"""This host's firewall rules for the overlay.

keeper          `Firewall`: compares the rules found with the rules wanted, and repairs them
rules           the rules wanted, independent of nft and iptables
nftables        writes our nftables table: masquerade, and the guard (which hosts may send)
nft_table       the text of that table
iptables        writes our iptables chains: forwarding; without nft, masquerade and guard too
iptables_text   the text of those chains
iptables_guard  the text of the guard's chains
peer_addresses  which hosts may send, while leases change
tools           which iptables this host has; reads and writes their rules
listing         all rules of the host, for `flannel explain` and `check`
mark_conflicts  other programs' rules that use the guard's bit of the packet mark
removal         all our rules, for `flannel cleanup`
nfnetlink       asks the kernel about nf_tables without nft
"""
