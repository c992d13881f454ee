"""The firewall of this host as far as it concerns the overlay.

keeper          `Firewall`: what is there is compared with what is wanted, again and again
rules           what is wanted, in no tool's language
nftables        the same for nft: masquerade, and who may send
iptables        the same for iptables: forwarding; masquerade where there is no nft
peer_addresses  who may send while leases change
tools           which iptables this host has; reads and writes their rules
nfnetlink       what the kernel tells of nf_tables without nft
"""
