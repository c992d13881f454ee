"""Which host gets which subnet.

subnets        our lease while it is served, and the peers' leases
acquisition    how a host that starts gets its lease
subnet_choice  which subnet a host tries next
adoption       when the lease of a host that is gone goes to the machine that has its address now
own_lease      how our lease is written in the store
reservations   leases without an end, made by an operator
"""
