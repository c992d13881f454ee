"""`flannel reserve HOST --subnet`: a host moves at its next start, and the other hosts follow."""

from flannel_command import flannel, wait_findings, wait_peer
from namespaces import wait_for
from overlays import VXLAN, start
from world import World


def test_a_host_moves_to_the_subnet_that_is_reserved_for_it(world: World) -> None:
    one, other = start(world, VXLAN, 2)
    world.configure(VXLAN)  # below the hosts' subnets there is room
    wish = ("reserve", "192.0.2.12", "--subnet", "10.1.77.0/24")
    assert flannel(one, *wish).returncode == 2  # nobody answers the question
    done = flannel(one, *wish, "--yes")
    assert done.returncode == 0
    assert done.stdout.endswith("; on that host: systemctl restart flanneld docker\n")
    what = wait_findings(one, "not-started")["not-started"]
    assert what.startswith("10.1.77.0/24 is reserved for 192.0.2.12")
    wait_for(lambda: flannel(one, "check").returncode == 0, 30, "nothing but that warning")

    held = str(other.subnet)
    other.daemon.stop()
    other.start_flanneld().wait_ready()
    other.daemon.wait_log(f"giving up lease {held} of 192.0.2.12: 10.1.77.0/24 is reserved")
    wait_for(
        lambda: held.replace("/", "-") not in world.leases(), 30, "the end of the lease before"
    )
    assert "ttl" not in world.leases()["10.1.77.0-24"]
    assert wait_peer(one, "ready")["subnet"] == "10.1.77.0/24"
    wait_for(lambda: flannel(one, "check").returncode == 0, 30, "a healthy network")
