"""The kernel's links, addresses, routes, ARP and FDB entries: reads, compares and writes them.

doors         `Kernel`: the objects through which a backend reaches the kernel
links         links and addresses, as values
netlink       links, addresses and single routes, on pyroute2
pyroute2_part ... and what of that library is loaded
entries       routes, nexthops, ARP and FDB entries, as values, and their difference
rtnetlink     such entries by the thousand: the socket
rtmessages    ... and their bytes
rtlayout      the layout of all rtnetlink messages that are not pyroute2's
peer_tables   peers' leases -> entries -> difference -> kernel, by one path for all causes
monitor       hints that something may have changed in the kernel
subscription  ... the socket that receives its messages
rtnotices     ... and their bytes
claims        one flanneld for each device in a network namespace
repairs       counts and logs repairs; backs off from a program that undoes them
surroundings  the links, addresses and routes of this host, read together
other_namespaces  finds VXLAN links of this host that somebody moved to another namespace
interface     the external interface: the link and the address that face the other hosts
interface_choice  chooses it
host          whether the network fits beside the host's own; which links are ours
leftovers     removes the entries and links of an earlier network config
blackhole     the route for packets to the own subnet that no bridge takes
sysctls       settings of our device
traffic       the kernel's traffic counters of a link
"""
