"""`flannel`, the operator's command: shows the state of the network and repairs it.

    main         command line, errors, exit status
    context      what every command receives: options, the store, the daemon, this host, output
    status       status
    leases       leases, reserve, release
    peers        peers: which hosts answer, how quickly, and packets up to which size
    check        check: whether the network is healthy; here flanneld and the store
    check_docker docker's own rules and its configuration file
    check_firewall  what this host's firewall does with packets of the overlay
    check_host   this host: devices, docker, addresses
    check_peers  the other hosts
    check_ways   routes and entries of each peer, for this host's packets and for containers'
    forwarded    a forwarded packet's way: the kernel's route for it, and the rules of the firewall
    planned      the entries that flanneld plans for a peer's lease
    facts        what `check` knows of this host, shared by its examinations
    findings     the table of all findings
    explain      explain: the way of a packet, hop by hop
    config       config get, check, set; `range_report` compares its range with hosts' addresses
    unknown_members  misspelled members of a network config
    followers    the hosts that have followed a change of it
    cleanup      cleanup: removes everything of flannel's from this host
    hand_back    hand-back: leaves this host to upstream's daemon
    running      refuses these two while a flanneld runs that would undo them

    probe        sends echoes through the overlay and beside it
    host_view    this host: links, addresses, the firewall
    rulesets     parses rules of nft and iptables, and decides what they do with a packet

flanneld does not import this wing. Each command works as far as possible while flanneld or etcd is
down, and names what it could not see. The commands do all I/O through their `Context`; tests pass a
different one.
"""
