"""The faults that `chaos` chooses from, one function each.

A fault is over when its function returns: things that it removed for a time are back. From then
on the cluster must recover by itself; a fault may return one more condition for that.
`attack_faults` and `resource_faults` have others. All random choices of a fault use the ``random``
that it gets, so that a seed reproduces a run.
"""

import signal
import time
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from cluster import Cluster, address_of, lease_value
from world import PREFIX, Host

Wrong = Callable[[], str]
"""What is not healed yet, beyond `Cluster.differences`; "" if all is."""
Inject = Callable[[Cluster, Random], Wrong | None]


class Fault(NamedTuple):
    """:ivar loses_packets: whether packets may be lost meanwhile between hosts that live."""

    name: str
    inject: Inject
    backends: tuple[str, ...]
    loses_packets: bool


FAULTS: list[Fault] = []
"""Those of this file."""
ALL = ("vxlan", "host-gw", "udp")
KERNEL = ("vxlan", "host-gw")


def fault(
    *backends: str, loses_packets: bool = False, to: list[Fault] = FAULTS
) -> Callable[[Inject], Inject]:
    """Put a function on a list."""

    def add(inject: Inject) -> Inject:
        name = inject.__name__.replace("_", " ")
        to.append(Fault(name, inject, backends, loses_packets))
        return inject

    return add


def some_host(cluster: Cluster, random: Random) -> Host:
    """Any host of the cluster."""
    return random.choice(cluster.hosts)


# What people and programs do to the kernel's tables.


@fault(*KERNEL, loses_packets=True)
def a_route_is_deleted(cluster: Cluster, random: Random) -> None:
    host = some_host(cluster, random)
    lines = host.run("ip", "route", "show", "root", "10.1.0.0/16").splitlines()
    routes = [line.split()[0] for line in lines if "nhid" in line]
    host.try_run("ip", "route", "del", random.choice(routes))


@fault(*KERNEL, loses_packets=True)
def all_nexthops_are_flushed(cluster: Cluster, random: Random) -> None:
    some_host(cluster, random).try_run("ip", "nexthop", "flush", "proto", "102")


@fault(*KERNEL, loses_packets=True)
def a_route_is_replaced(cluster: Cluster, random: Random) -> None:
    host, other = random.sample(cluster.hosts, 2)
    host.run("ip", "route", "replace", str(other.subnet), "via", "192.0.2.1", "dev", "eth0")


@fault("vxlan", loses_packets=True)
def a_neighbour_is_deleted(cluster: Cluster, random: Random) -> None:
    host, other = random.sample(cluster.hosts, 2)
    host.try_run("ip", "neigh", "del", str(other.subnet[0]), "dev", "flannel.1")


@fault("vxlan", loses_packets=True)
def the_fdb_is_damaged(cluster: Cluster, random: Random) -> None:
    host, other = random.sample(cluster.hosts, 2)
    peer = str(other.address)
    entries = host.run("bridge", "fdb", "show", "dev", "flannel.1").splitlines()
    mac = next(line.split()[0] for line in entries if f"dst {peer} " in line)
    host.run("bridge", "fdb", "del", mac, "dev", "flannel.1")


@fault("vxlan", "udp", loses_packets=True)
def the_device_is_deleted(cluster: Cluster, random: Random) -> None:
    some_host(cluster, random).try_run("ip", "link", "del", cluster.device)


@fault("vxlan", "udp", loses_packets=True)
def the_device_is_set_down(cluster: Cluster, random: Random) -> None:
    some_host(cluster, random).try_run("ip", "link", "set", cluster.device, "down")


@fault("vxlan", "udp", loses_packets=True)
def the_device_loses_its_address(cluster: Cluster, random: Random) -> None:
    some_host(cluster, random).try_run("ip", "addr", "flush", "dev", cluster.device)


@fault("vxlan", loses_packets=True)
def the_device_gets_another_mac(cluster: Cluster, random: Random) -> None:
    mac = f"02:aa:00:00:00:{random.randrange(256):02x}"
    some_host(cluster, random).try_run("ip", "link", "set", "flannel.1", "address", mac)


@fault("vxlan", "udp", loses_packets=True)
def the_device_gets_another_mtu(cluster: Cluster, random: Random) -> None:
    some_host(cluster, random).try_run("ip", "link", "set", cluster.device, "mtu", "1200")


@fault("vxlan", "udp", loses_packets=True)
def the_device_is_renamed(cluster: Cluster, random: Random) -> Wrong:
    host = some_host(cluster, random)
    host.try_run("ip", "link", "set", cluster.device, "down")
    host.try_run("ip", "link", "set", cluster.device, "name", "stray", "up")
    return lambda: "stray is there" if host.try_run("ip", "link", "show", "stray").stdout else ""


@fault("vxlan", "udp", loses_packets=True)
def the_device_is_moved_to_another_namespace(cluster: Cluster, random: Random) -> None:
    """Where somebody deletes it: flanneld does not reach it there."""
    host, net = some_host(cluster, random), cluster.world.net
    host.try_run("ip", "link", "set", cluster.device, "netns", net.name)
    net.try_run("ip", "link", "del", cluster.device)


@fault(*ALL)
def the_firewalls_table_is_deleted(cluster: Cluster, random: Random) -> None:
    some_host(cluster, random).try_run("nft", "delete", "table", "ip", "flannel")


# What happens to the network below.


@fault(*ALL, loses_packets=True)
def the_external_interface_goes_down_and_up(cluster: Cluster, random: Random) -> None:
    host = some_host(cluster, random)
    host.ip("link set eth0 down")
    time.sleep(random.uniform(0.1, 1))
    host.ip("link set eth0 up", "route replace default via 192.0.2.1")


@fault(*ALL, loses_packets=True)
def the_external_address_goes_and_comes(cluster: Cluster, random: Random) -> None:
    host = some_host(cluster, random)
    host.ip("addr flush dev eth0")
    time.sleep(random.uniform(0.1, 1))
    host.ip(f"addr add {host.address}/24 dev eth0", "route replace default via 192.0.2.1")


@fault(*ALL, loses_packets=True)
def the_external_address_changes(cluster: Cluster, random: Random) -> None:
    host = some_host(cluster, random)
    used = {int(each.address) & 0xFF for each in cluster.hosts}
    new = address_of(random.choice([n for n in range(11, 90) if n not in used]))
    host.ip(f"addr add {new}/24 dev eth0", f"addr del {host.address}/24 dev eth0",
            f"addr replace {new}/24 dev eth0", "route replace default via 192.0.2.1")  # fmt: skip
    host.address = new


@fault(*ALL, loses_packets=True)
def hosts_exchange_their_addresses(cluster: Cluster, random: Random) -> None:
    """Two or three of them, as after a reboot with other DHCP leases."""
    hosts = random.sample(cluster.hosts, random.randrange(2, len(cluster.hosts) + 1))
    addresses = [host.address for host in hosts]
    for host in hosts:
        host.ip("addr flush dev eth0")
    for host, address in zip(hosts, addresses[1:] + addresses[:1], strict=True):
        host.ip(f"addr add {address}/24 dev eth0", "route replace default via 192.0.2.1")
        host.address = address


@fault(*ALL, loses_packets=True)
def the_external_mtu_changes(cluster: Cluster, random: Random) -> None:
    mtu = random.choice([1400, 1450, 1500])
    some_host(cluster, random).ip(f"link set eth0 mtu {mtu}")


# What happens to flanneld.


@fault(*KERNEL)
def flanneld_is_killed_and_started(cluster: Cluster, random: Random) -> None:
    _restart(cluster, random, signal.SIGKILL)


@fault(*KERNEL)
def flanneld_is_restarted(cluster: Cluster, random: Random) -> None:
    _restart(cluster, random, signal.SIGTERM)


@fault("udp", loses_packets=True)
def flanneld_is_killed_and_started_with_its_packet_loop(cluster: Cluster, random: Random) -> None:
    _restart(cluster, random, random.choice([signal.SIGKILL, signal.SIGTERM]))


@fault(*ALL)
def flanneld_is_stopped_for_a_while(cluster: Cluster, random: Random) -> None:
    """In its event loop.

    Packets of the udp backend are held up as well, and are not lost: the queues of the device and
    the socket hold a second of ping.
    """
    with some_host(cluster, random).daemon.frozen():
        time.sleep(random.uniform(0.1, 0.5))


def _restart(cluster: Cluster, random: Random, number: int) -> None:
    host = some_host(cluster, random)
    host.daemon.stop(number)
    if random.random() < 0.5:
        time.sleep(random.uniform(0, 1))
    cluster.start_flanneld(host)


# What happens to etcd.


@fault(*ALL)
def etcd_is_restarted(cluster: Cluster, random: Random) -> None:
    cluster.world.stop_etcd(random.choice([signal.SIGTERM, signal.SIGKILL]))
    time.sleep(random.uniform(0, 2))
    cluster.world.start_etcd()


@fault(*ALL)
def etcd_is_frozen(cluster: Cluster, random: Random) -> None:
    cluster.world.stop_etcd(signal.SIGSTOP)
    time.sleep(random.uniform(0.5, 3))
    cluster.world.stop_etcd(signal.SIGCONT)


@fault(*ALL)
def packets_to_etcd_are_dropped(cluster: Cluster, random: Random) -> None:
    net = cluster.world.net
    net.run("nft", "add table ip cut; add chain ip cut in { type filter hook input priority 0; }; "
            "add rule ip cut in tcp dport 2379 drop")  # fmt: skip
    time.sleep(random.uniform(0.5, 4))
    net.run("nft", "delete table ip cut")


@fault(*ALL)
def etcd_loses_everything(cluster: Cluster, random: Random) -> None:
    """And the leases of hosts that are not there are written again, as those would do."""
    own = cluster.own_keys()
    absent = {k: node["value"] for k, node in cluster.world.leases().items() if k not in own}
    cluster.world.stop_etcd(random.choice([signal.SIGTERM, signal.SIGKILL]))
    cluster.world.etcd.wipe()
    cluster.world.start_etcd()
    cluster.world.put_leases(absent)
    cluster.world.configure(cluster.config)


@fault(*ALL, loses_packets=True)
def a_host_loses_its_lease(cluster: Cluster, random: Random) -> None:
    subnet = some_host(cluster, random).subnet
    cluster.world.etcdctl("rm", f"{PREFIX}/subnets/{subnet.network_address}-24")


@fault(*ALL, loses_packets=True)
def all_leases_are_deleted(cluster: Cluster, random: Random) -> None:
    cluster.world.etcdctl("rm", "--recursive", f"{PREFIX}/subnets")


@fault(*ALL, loses_packets=True)
def a_lease_is_taken_over(cluster: Cluster, random: Random) -> None:
    subnet = some_host(cluster, random).subnet
    thief = lease_value(cluster.backend, random.randrange(100, 200))
    cluster.world.put_leases({f"{subnet.network_address}-24": thief})


# What other hosts do.


@fault(*ALL)
def other_hosts_come_move_and_go(cluster: Cluster, random: Random) -> None:
    own = cluster.own_keys()
    changes: list[tuple[str, str | None]] = []
    there = {key for key in cluster.world.leases() if key not in own and key[0].isdigit()}
    for _ in range(random.randrange(1, 30)):
        key = f"10.1.{random.randrange(100, 200)}.0-24"
        if key in own:
            continue
        if key in there and random.random() < 0.4:
            there.remove(key)
            changes.append((key, None))
        else:
            there.add(key)
            changes.append((key, lease_value(cluster.backend, random.randrange(100, 200))))
    cluster.world.etcd.change_leases(changes)


@fault(*ALL)
def somebody_writes_garbage(cluster: Cluster, random: Random) -> None:
    """Writes a key that is not a lease, and deletes it again."""
    key, value = random.choice(
        [
            ("foo", "bar"),
            ("10.1.250.0-24", "{"),
            ("10.1.250.0-24", "[" * 5000),
            ("10.1.250.0-24", '{"PublicIP":"fe80::1"}'),
            ("0.0.0.0-0", lease_value(cluster.backend, 222)),
            ("192.0.2.0-24", lease_value(cluster.backend, 222)),
            ("10.1.0.0-16", lease_value(cluster.backend, 222)),
        ]
    )
    cluster.world.put_leases({key: value})
    time.sleep(random.uniform(0, 0.5))
    cluster.world.etcdctl("rm", f"{PREFIX}/subnets/{key}")
