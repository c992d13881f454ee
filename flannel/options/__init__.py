"""The options of flanneld and flannel: one table for the command line, FLANNELD_* and --help.

table   every option: its name, type, default, help
flags   Go's syntax of flags, as upstream's users type it
values  text to value: durations, addresses, networks
recipients  the value of -hand-over: container programs that get the lease
"""
