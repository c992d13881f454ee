"""flanneld is stopped for a while, as by a paused virtual machine, and goes on."""

import time
from pathlib import Path

import pytest
from hosts import Host
from namespaces import wait_for
from world import World

N_PEERS = 500
NETWORK = {
    "Network": "10.0.0.0/8",
    "SubnetMin": "10.200.0.0",
    "Backend": {"Type": "vxlan"},
}


def lease_value(n: int) -> str:
    data = f'"VtepMAC":"02:00:00:00:{n // 256:02x}:{n % 256:02x}"'
    address = f"192.1.{n // 250}.{1 + n % 250}"
    return f'{{"PublicIP":"{address}","BackendType":"vxlan","BackendData":{{{data}}}}}'


def has_route(host: Host, subnet: str) -> bool:
    return subnet in host.run("ip", "route", "show", "root", subnet)


def is_stopped_while_it_compares(host: Host, subnet: str, seconds: float) -> bool:
    """Delete a route and stop flanneld for so long in the middle of its repair.

    :return: whether it was in the middle.
    """
    pid = host.daemon.process.pid
    schedstat = Path(f"/proc/{pid}/task/{pid}/schedstat")

    def used() -> float:
        """Seconds for which its main thread has had a CPU."""
        return int(schedstat.read_text().split()[0]) / 1e9

    before = used()
    host.ip(f"route del {subnet}")
    # A hint costs it 1 ms, a comparison with so many peers 25.
    wait_for(lambda: used() > before + 0.008, 30, "flanneld to begin")
    with host.daemon.frozen():
        is_hit = not has_route(host, subnet)
        if is_hit:
            time.sleep(seconds)
    wait_for(lambda: has_route(host, subnet), 60, f"route {subnet}")
    return is_hit


def test_a_pause_in_the_middle_of_a_comparison_does_not_end_repairs(world: World) -> None:
    """If it counted as work, the next comparison would have to wait for nine times as long."""
    world.configure(NETWORK)
    host = world.add_host("h1")
    host.start_flanneld("-iface=eth0").wait_ready()
    leases = {f"10.{1 + n // 256}.{n % 256}.0-24": lease_value(n) for n in range(N_PEERS)}
    world.put_leases(leases)
    wait_for(
        lambda: host.run("ip", "route", "show", "root", "10.0.0.0/8").count(" via ") == N_PEERS,
        60,
        "all routes",
    )
    for n in range(100):
        if is_stopped_while_it_compares(host, f"10.1.{n}.0/24", 10):
            break
    else:
        pytest.fail("flanneld was never in the middle of a comparison")
    host.ip("route del 10.1.100.0/24")
    wait_for(lambda: has_route(host, "10.1.100.0/24"), 30, "the route to be repaired")
    assert host.daemon.is_running
