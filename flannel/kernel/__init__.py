"""What is in the kernel: links, addresses, routes, ARP and FDB entries; read, compared, written.

doors        `Kernel`: what a backend is given to work with
netlink      links, addresses and rules, on pyroute2
rtnetlink    routes, nexthops, ARP and FDB entries by the thousand: the socket
rtmessages   and the bytes
entries      such entries as values, and their difference
peer_tables  peers' leases -> entries -> difference -> kernel: one path for all causes
monitor      hears from the kernel when something may have changed
repairs      what was restored; who changes it again and again
interface    which link and address face the other hosts
host         does the network fit beside what the host has; what did an earlier config leave
blackhole    the route for packets to the own subnet that nothing else takes
sysctls      what the kernel may do with our device's packets
"""
