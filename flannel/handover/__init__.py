"""Passes the lease on to docker, systemd and the operator's hook.

hand_over      the whole of it: what is passed to which of them, and when
subnet_env     the file subnet.env
docker_opts    mk-docker-opts: docker's options from that file
daemon_json    will docker start with its daemon.json beside those options
docker_bridge  does the bridge of the containers fit the lease
recipients     -hand-over: networks of container programs that follow the lease
all_recipients those that the options name, and what they have left on a host
docker_network, docker_api   a docker network; dockerd's API
cni, podman, network_files   files of networks that CNI and podman read
"""
