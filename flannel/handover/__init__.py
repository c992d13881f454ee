"""Passes the lease on to docker, systemd and the operator's hook.

hand_over      the whole of it: what is passed to which of them, and when
subnet_env     the file subnet.env
docker_opts    mk-docker-opts: docker's options from that file
daemon_json    will docker start with its daemon.json beside those options
docker_bridge  does docker's bridge fit the lease
"""
