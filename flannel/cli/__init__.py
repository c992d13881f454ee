"""`flannel`, the operator's command: the state of the network, and what to do about it.

    main         command line, errors, exit status
    context      what every command receives: options, the store, the daemon, this host, output
    status       status
    leases       leases, reserve, release
    peers        peers: which hosts answer, how quickly, and packets up to which size
    check        check: whether the network is healthy; here flanneld and the store
    check_host   this host: firewall, devices, docker, addresses
    check_peers  the other hosts
    facts        what one examination of `check` finds out for the next
    findings     the table of all findings
    explain      explain: what happens to a packet, hop by hop
    config       config get, check, set; `range_report` compares its range with hosts' addresses
    cleanup      cleanup: remove all that is ours from this host
    hand_back    hand-back: leave this host to upstream's daemon
    running      whether a flanneld runs that would undo these two

    probe        echoes through the overlay and beside it
    host_view    what this host has: links, addresses, the firewall
    rulesets     what a firewall does with a packet: rules of nft and iptables, read and judged

flanneld needs none of this. Each command works while flanneld or etcd is down, as far as it can,
and names what it could not see. The commands reach the world through their `Context` alone: tests
hand in another one.
"""
