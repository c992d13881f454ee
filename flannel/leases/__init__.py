"""Who gets which subnet.

subnets        a lease is acquired, renewed, given back; the peers' leases are followed
subnet_choice  which subnet a host tries next
reservations   leases without an end, made by an operator
"""
