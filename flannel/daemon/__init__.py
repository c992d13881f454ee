"""One flanneld on one host: the story, and the parts of it that last for as long as it runs.

life             the story; decides what each error leads to
preparation      what a run of the network is about: interface, config, backend
config_follower  the network config in the store: waited for, then watched
lease_keeper     our lease renewed, the peers' leases followed and saved
underlay         the external interface: waited for, then watched
upkeep           when the kernel is compared with what it should hold
identity         who this host is, in `-state-dir`
saved_state      what was served last, in `-state-dir`
"""
