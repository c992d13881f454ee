"""Which host gets which subnet.

subnets        our lease while it is served, and the peers' leases
acquisition    how a starting host gets its lease
subnet_choice  which subnet a host tries next
adoption       when a new machine takes over the lease of the dead host that had its address
own_lease      how our lease is written to the store
reservations   leases without an end, made by an operator
"""
