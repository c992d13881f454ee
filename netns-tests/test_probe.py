"""The answers that `flannel` gets from other hosts."""

import subprocess
import sys
import time

from namespaces import wait_for
from world import World

# Sends a question, and is paused before it can receive an answer.
ASK = """
import asyncio
from ipaddress import IPv4Address
from flannel.cli.probe import Pinger

async def main():
    with Pinger() as pinger:
        asyncio.get_running_loop().call_soon(input, "asked\\n")
        print(await pinger.path_mtu(IPv4Address("192.0.2.12"), 68, 1400))

asyncio.run(main())
"""


def test_answers_that_arrived_during_a_pause_count(world: World) -> None:
    """As on a busy machine; a path whose answers nobody read is none of 68 bytes."""
    one, other = world.add_host("h1"), world.add_host("h2")
    other.ip("link set eth0 down")  # the packets wait for its MAC
    one.run("sh", "-c", "echo 1000 >/proc/sys/net/ipv4/neigh/eth0/mcast_solicit")
    asking = one.popen(
        *(sys.executable, "-uc", ASK), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "asked\n"
    time.sleep(1)  # longer than it waits
    other.ip("link set eth0 up")
    counted = ("nstat", "-asz", "IcmpInEchoReps")
    wait_for(lambda: int(one.run(*counted).split()[-2]) > 10, 30, "answers")
    assert asking.communicate("\n", 120)[0] == "1400\n"
