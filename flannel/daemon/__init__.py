"""One flanneld on one host: the story, and the parts of it that last for as long as it runs.

daemon           one run of the network after another
reactions        what each error leads to that ends a run: a table
life             one run of the network: its tasks
range_check      whether the network's range is free on this host
lasting          a task that outlives errors of resources
preparation      what a run of the network is about: interface, config, backend
config_follower  the network config in the store: waited for, then watched
lease_keeper     our lease renewed, the peers' leases followed and saved
peer_news        which peers have joined, changed or left, for the log
underlay         the external interface: waited for, then watched
upkeep           compares the kernel with what it should hold
schedule         when it does that next; pure
identity         who this host is, in `-state-dir`
saved_state      what was served last, as JSON
state_file       that kept in `-state-dir`
"""
