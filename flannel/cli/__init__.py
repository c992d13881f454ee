"""`flannel`, the operator's command: what is going on, and what to do about it.

    main         command line, errors, exit status
    context      what every command is given: options, the store, the daemon's view, output
    status       status, version
    leases       leases, reserve, release
    peers        peers: who answers, how quickly, and up to which size
    check        check: is the network healthy; `findings` is the table of all it may say
    explain      explain: what happens to a packet, hop by hop
    config       config get, check, set; `range_report` compares its range with hosts' addresses
    cleanup      cleanup: remove all that is ours from this host

    probe        echoes through the overlay and beside it
    host_view    what this host has: links, routes, the firewall
    rulesets     what a firewall does with a packet: rules of nft and iptables, read and judged

Nothing here is needed by flanneld. Each command works while the daemon or etcd is down, as far as
it can, and says what it could not see.
"""
