"""flannel hand-back in the real kernel: upstream's daemon takes over, and perhaps ours again."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from flannel_command import flannel
from overlays import ALL, Pair, start_pair
from world import Pinger, World, ping, wait_for

PEER = Path(__file__).parent / "helpers" / "plain_peer.py"


@ALL
def test_packets_flow_on_and_nothing_is_left_that_upstream_cannot_use(
    world: World, config: dict[str, Any]
) -> None:
    pair = start_pair(world, config, "-ip-masq")
    one, near, far = pair.one, pair.near, pair.far
    assert flannel(one, "hand-back").returncode == 2  # flanneld runs
    one.daemon.stop()
    is_udp = "Backend" not in config
    if is_udp:
        done = flannel(one, "hand-back")
    else:
        with Pinger(near, far.address, 20) as pinger:
            done = flannel(one, "hand-back")
        assert pinger.lost == 0
    assert (done.returncode, done.stderr) == (0, "")
    assert one.run("ip", "nexthop") == ""
    assert one.run("ip", "route", "show", "proto", "102") == ""
    assert "flannel" not in one.run("nft", "list", "tables")
    assert "FLANNEL" not in one.run("iptables-save", "-t", "nat")
    if is_udp:
        assert "flannel0" not in one.run("ip", "link")
        take_over_by_a_plain_daemon(pair)
    else:
        # In the form in which upstream deletes it, when the other host leaves.
        found = re.search(r"^10\.1\.\d+\.0/24 via .*", one.run("ip", "route"), re.MULTILINE)
        assert found is not None
        one.ip(f"route del {found[0].partition(' onlink')[0]}")
    one.start_flanneld("-iface=eth0", "-ip-masq").wait_ready()
    wait_for(lambda: ping(near, far.address) and ping(far, near.address), 30, "our daemon's turn")
    assert one.run("ip", "route", "show", "proto", "boot").count("10.1.") == 0


def take_over_by_a_plain_daemon(pair: Pair) -> None:
    """A daemon as simple as upstream's opens flannel0, and packets pass."""
    one, other = pair.one, pair.other
    one.kept_fds.clear()  # as systemd does for a unit that was stopped
    command = (sys.executable, str(PEER), str(one.address), "1472",
               f"{other.subnet}={other.address}")  # fmt: skip
    with one.popen(*command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        own = one.subnet.network_address
        one.ip(f"addr add {own}/16 dev flannel0", "link set flannel0 mtu 1472 up")
        wait_for(lambda: ping(pair.near, pair.far.address), 30, "packets of the plain daemon")
        process.kill()
