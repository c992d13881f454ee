"""The firewall of this host as far as it concerns the overlay.

keeper          `Firewall`: what is there is compared with what is wanted, again and again
rules           what is wanted, in no tool's language
nftables        the same for nft: masquerade, and who may send
nft_table       the text of our table there
iptables        the same for iptables: forwarding; masquerade and guard where there is no nft
iptables_text   the text of our chains there
iptables_guard  those of the guard
peer_addresses  who may send while leases change
tools           which iptables this host has; reads and writes their rules
listing         all rules of the host, whoever made them, for those who judge packets
mark_conflicts  rules of others that use the guard's bit of the packet mark
removal         all of it that is ours, for `flannel cleanup`
nfnetlink       what the kernel tells of nf_tables without nft
"""
