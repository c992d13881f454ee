"""A short run of chaos, always the same one, and that it can fail."""

from random import Random

import chaos
import pytest
from cluster import Cluster
from faults import ALL, Fault
from flood_faults import FLOODS
from world import World, WorldError


@pytest.mark.parametrize("backend", ALL)
def test_a_cluster_recovers_from_faults(backend: str) -> None:
    """Within more than the usual ten seconds: other tests keep the machine busy.

    Floods take too long here.
    """
    among = [each for each in chaos.EVERY if each not in FLOODS]
    chaos.run(backend, seed=7, n_faults=8, heal=100, among=among)


def test_damage_that_stays_is_found(world: World) -> None:
    cluster = Cluster(world, "vxlan", n_hosts=2, n_absent=1)

    def somebody_stops_flanneld_and_deletes_a_route(cluster: Cluster, random: Random) -> None:
        cluster.hosts[0].daemon.process.send_signal(19)
        cluster.hosts[0].run("ip", "route", "del", str(cluster.hosts[1].subnet))

    fault = Fault("damage", somebody_stops_flanneld_and_deletes_a_route, ALL, loses_packets=True)
    with pytest.raises(WorldError, match=r"not healed within 1 s: h1: routes: .*missing"):
        chaos.suffer(cluster, fault, Random(1), 1)


def test_every_fault_can_be_drawn_by_some_backend() -> None:
    assert all(set(each.backends) <= set(ALL) and each.backends for each in chaos.EVERY)
