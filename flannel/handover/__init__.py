"""What is told about the lease: docker, systemd and the operator's hook.

hand_over      all of it: when, to whom, and kept so
subnet_env     the file subnet.env
docker_opts    mk-docker-opts: docker's options from that file
docker_bridge  does docker's bridge fit the lease
"""
