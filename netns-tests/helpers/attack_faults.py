"""What containers, strangers and careless operators do to a cluster, drawn by `chaos`."""

import json
import socket
import subprocess
import time
from functools import partial
from random import Random

from attacks import AS_USER, WITH_NET_RAW, Catcher, datagram, inner, raw, send, tunnelled
from cluster import Cluster, lease_value
from etcd_node import ETCD
from faults import ALL, KERNEL, Fault, Wrong, fault, some_host
from flannel_command import status_of
from hosts import FLANNELD, Host
from world import WorldError

ATTACKS: list[Fault] = []
_attack = partial(fault, to=ATTACKS)


def _dropped(host: Host) -> dict[str, int]:
    status = status_of(host)
    found: dict[str, int] = {**status["counters"], **status["firewall"]["dropped"]}
    return found


@_attack(*ALL)
def a_container_sends_in_other_names(cluster: Cluster, random: Random) -> Wrong:
    """By the tunnel's port, without a capability, and with NET_RAW; all is counted where it is."""
    host, other = random.sample(cluster.hosts, 2)
    attacker, victim = cluster.container(host), cluster.container(other)
    before = _dropped(host)
    names = [*(each.subnet[77] for each in cluster.hosts if each is not host), "10.1.253.9"]
    packets = [inner(random.choice(names), victim.address) for _ in range(5)]
    with Catcher(victim) as catcher:
        send(attacker, WITH_NET_RAW, *(raw(packet) for packet in packets))
        wanted = {"tx_spoofed": len(packets)}
        if cluster.backend != "host-gw":
            tunnels = [tunnelled(cluster.backend, packet, other) for packet in packets]
            send(attacker, AS_USER, *(datagram(data, other.address, to) for data, to in tunnels))
            wanted["tx_injected"] = len(packets)
        if caught := catcher.caught(attacker, victim.address):
            raise WorldError(f"{len(caught)} forged packets were delivered")

    def wrong() -> str:
        now = _dropped(host)
        counted = {name: now.get(name, 0) - before.get(name, 0) for name in wanted}
        return "" if counted == wanted else f"{wanted} were sent, {counted} counted"

    return wrong


@_attack(*ALL)
def a_second_flanneld_is_started(cluster: Cluster, random: Random) -> Wrong:
    """With the files of the first, which loses nothing."""
    host = some_host(cluster, random)
    pid = host.daemon.process.pid
    second = host.popen(
        *(str(FLANNELD), f"-subnet-file={host.subnet_file}", f"-state-dir={host.state_dir}"),
        *(f"-etcd-endpoints={ETCD}", *cluster.flags),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, text = second.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        second.kill()
        raise WorldError("a second flanneld runs") from None
    if second.returncode != 2 or str(pid) not in text:
        raise WorldError(f"the second flanneld ended with {second.returncode}: {text}")
    return lambda: "" if status_of(host)["pid"] == pid else "another flanneld answers"


@_attack(*ALL)
def many_connections_are_idle(cluster: Cluster, random: Random) -> None:
    """And the status is asked for, which has to be answered."""
    host = some_host(cluster, random)
    path = str(host.subnet_file.with_name("flanneld.sock"))
    idle = [socket.socket(socket.AF_UNIX) for _ in range(400)]
    try:
        for each in idle:
            each.connect(path)
        status_of(host)
    finally:
        for each in idle:
            each.close()


@_attack(*KERNEL)
def an_odd_lease_is_in_the_saved_state(cluster: Cluster, random: Random) -> None:
    """flanneld starts from it while etcd is unreachable."""
    host, world = some_host(cluster, random), cluster.world
    value = json.loads(lease_value(cluster.backend, 222))
    text = random.choice(["INF", "x" * 60_000, "\x1b[2J\ud800"])
    data = {**value.get("BackendData", {}), "x": text}
    odd = json.dumps({**value, "BackendData": data}).replace('"INF"', "1e999")
    world.put_leases({"10.1.250.0-24": odd})
    time.sleep(random.uniform(0, 2))
    host.daemon.stop(random.choice([9, 15]))
    world.stop_etcd()
    cluster.start_flanneld(host)
    try:
        host.daemon.wait_ready(30)
    finally:
        world.start_etcd()
    world.etcdctl("rm", "/coreos.com/network/subnets/10.1.250.0-24")


@_attack(*ALL)
def the_saved_state_is_damaged(cluster: Cluster, random: Random) -> None:
    host = some_host(cluster, random)
    path = host.state_dir / "state.json"
    text = path.read_bytes() if path.exists() else b""
    at = random.randrange(len(text) + 1)
    path.write_bytes(random.choice([b"", text[:at], text[:at] + b"\xff{" + text[at:], b"[" * 9999]))


@_attack("udp")
def a_container_floods_hosts_that_are_not_there(cluster: Cluster, random: Random) -> None:
    """Their packets wait for ARP, and those to hosts that are there do not."""
    host, world = some_host(cluster, random), cluster.world
    own = cluster.own_keys()
    numbers = [n for n in range(130, 190) if f"10.1.{n}.0-24" not in own]
    world.put_leases({f"10.1.{n}.0-24": lease_value("udp", n) for n in numbers})
    packets = [datagram(b"x" * 20, f"10.1.{n}.2", 9) for n in numbers for _ in range(5)]
    send(cluster.container(host), AS_USER, *packets)
    world.etcd.change_leases([(f"10.1.{n}.0-24", None) for n in numbers])
