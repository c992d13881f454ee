"""The blackhole route for packets to this host's subnet that no bridge takes."""

from typing import Any

from overlays import ALL, VXLAN, peer_value, start
from world import Host, World, ping, wait_for


class TestBlackhole:
    """With -ip-blackhole-route."""

    def blackholes(self, host: Host) -> list[str]:
        return host.run("ip", "route", "show", "type", "blackhole").split("\n")[:-1]

    @ALL
    def test_packets_to_our_subnet_stay_here_until_a_bridge_takes_them(
        self, world: World, config: dict[str, Any]
    ) -> None:
        one, other = start(world, config, 2, "-ip-blackhole-route")
        wanted = [f"blackhole {one.subnet} proto 102 metric 4294967295 "]
        wait_for(lambda: self.blackholes(one) == wanted, 30, "the route")
        nobody = str(one.subnet[9])
        assert one.try_run("ip", "route", "get", nobody).returncode != 0
        near, far = one.add_container(1), other.add_container(1)
        assert ping(near, far.address, 30) is not None
        assert ping(far, near.address, 30) is not None
        assert "docker0" in one.run("ip", "route", "get", nobody)

    def test_the_blackhole_route_is_restored_and_removed_with_the_subnet_or_the_flag(
        self, world: World
    ) -> None:
        (host,) = start(world, VXLAN, 1, "-ip-blackhole-route")
        wait_for(lambda: self.blackholes(host), 30, "the route")
        before = host.subnet
        world.put_leases({str(before).replace("/", "-"): peer_value("192.0.2.99")})
        wait_for(lambda: host.subnet != before, 30, "another subnet")
        wanted = [f"blackhole {host.subnet} proto 102 metric 4294967295 "]
        wait_for(lambda: self.blackholes(host) == wanted, 30, "one route")
        host.run("ip", "route", "flush", "type", "blackhole")
        wait_for(lambda: self.blackholes(host) == wanted, 30, "the route, again")
        host.daemon.stop()
        assert self.blackholes(host) == wanted
        host.start_flanneld("-iface=eth0").wait_ready()
        wait_for(lambda: not self.blackholes(host), 30, "no route")
