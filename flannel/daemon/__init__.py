"""One flanneld on one host: its runs of the network, and the parts that outlive a run.

daemon           one run of the network after another
reactions        what follows an error that ends a run: a table
life             one run of the network: its tasks
range_check      whether the network's range is free on this host
lasting          a task that outlives errors of resources
preparation      waits for what a run of the network needs: interface, config, backend
config_follower  waits for the network config in the store, then watches it
lease_keeper     renews our lease, follows and saves the peers' leases
peer_news        which peers have joined, changed or left, for the log
underlay         waits for the external interface, then watches it
upkeep           compares the kernel with what it should hold
schedule         when the next comparison is due; pure
identity         the NodeID of this host, stored in `-state-dir`
saved_state      the state served last, as JSON
state_file       the file of it in `-state-dir`
"""
