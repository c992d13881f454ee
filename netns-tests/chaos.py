"""Faults drawn at random, one after another, and after each the question whether all is healed.

    .venv/bin/python netns-tests/chaos.py [--backend vxlan] [--faults 50] [--seed N] [--hosts 3]
        [--only WORDS]

After each fault the cluster has ten seconds: then etcd, every host's kernel and every subnet.env
have to agree entry by entry, and all containers have to reach each other. Faults that must not
cost a packet are watched by a ping. The seed is printed; the same seed draws the same faults.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random, SystemRandom

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests/helpers"))

from attack_faults import ATTACKS
from cluster import Cluster
from faults import ALL, FAULTS, Fault
from flood_faults import FLAGS, FLOODS
from resource_faults import RESOURCES
from world import Pinger, World, WorldError

EVERY = (*FAULTS, *ATTACKS, *RESOURCES, *FLOODS)
HEAL = 10.0
"""Seconds."""


class Unhealed(Exception):
    """A fault after which something stayed wrong; the text says which and what."""


def run(
    backend: str,
    seed: int,
    n_faults: int,
    n_hosts: int = 3,
    *,
    heal: float = HEAL,
    among: Sequence[Fault] = EVERY,
    tell: bool = False,
) -> None:
    """Let ``n_faults`` happen.

    :param among: those to draw from.
    :param heal: seconds that the cluster has after each.
    :raises Unhealed: at the first one that is not healed, or has lost packets that it must not.
    """
    random = Random(seed)
    faults = [each for each in among if backend in each.backends]
    if not faults:
        raise Unhealed(f"{backend} has no such fault")
    times = []
    with World() as world:
        world.start_etcd()
        cluster = Cluster(world, backend, n_hosts=n_hosts, n_absent=5, flags=FLAGS)
        for number in range(1, n_faults + 1):
            fault = random.choice(faults)
            began = time.monotonic()
            try:
                healed = suffer(cluster, fault, random, heal)
            except (WorldError, Unhealed) as why:
                logs = "\n".join(f"{h.label}: {h.daemon.last_words()}" for h in cluster.hosts)
                raise Unhealed(
                    f"{backend}, seed {seed}, fault {number} ({fault.name}): {why}\n{logs}"
                ) from why
            times.append(healed)
            if tell:
                lasted = time.monotonic() - began - healed
                name = f"{number:4}  {fault.name}"
                print(f"{name:58} {lasted:5.1f} s, healed after {healed:5.2f} s", flush=True)
    if tell:
        print(f"{backend}: {n_faults} faults healed, median {statistics.median(times):.2f} s, "
              f"longest {max(times):.2f} s, seed {seed}")  # fmt: skip


def suffer(cluster: Cluster, fault: Fault, random: Random, heal: float) -> float:
    """Let one fault happen; return the seconds until all was healed."""
    if fault.loses_packets:
        wrong = fault.inject(cluster, random)
        return cluster.wait_healed(heal, wrong or _nothing)
    one, other = random.sample(cluster.hosts, 2)
    # Where flanneld carries them, so few that its queues hold those of several seconds: on a busy
    # machine it may stand still for that long.
    per_second = 20 if cluster.backend == "udp" else 100
    with Pinger(cluster.container(one), cluster.container(other).address, per_second) as pinger:
        wrong = fault.inject(cluster, random)
        healed = cluster.wait_healed(heal, wrong or _nothing)
    if pinger.lost:
        raise Unhealed(f"{pinger.lost} of {pinger.sent} packets were lost")
    return healed


def _nothing() -> str:
    return ""


def main() -> int:
    """Read the command line, let faults happen."""
    parser = argparse.ArgumentParser(description="faults at random; all have to heal")
    parser.add_argument("--backend", choices=[*ALL, "all"], default="all")
    parser.add_argument("--faults", type=int, default=50, help="for each backend")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--only", default="", help="draw those whose name has these words")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("chaos: cannot make network namespaces: this needs root", file=sys.stderr)
        return 1
    among = [each for each in EVERY if arguments.only in each.name]
    seed = arguments.seed if arguments.seed is not None else SystemRandom().randrange(10**6)
    for backend in ALL if arguments.backend == "all" else (arguments.backend,):
        print(f"{backend}, seed {seed}", flush=True)
        try:
            run(backend, seed, arguments.faults, arguments.hosts, among=among, tell=True)
        except Unhealed as why:
            print(f"chaos: {why}", file=sys.stderr)
            only = f' ONLY="{arguments.only}"' if arguments.only else ""
            again = f"BACKEND={backend} SEED={seed} FAULTS={arguments.faults}{only}"
            print(f"again: make chaos {again}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
