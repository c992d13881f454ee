"""What a daemon asks the kernel all its life leaves nothing behind. The rest is in netns-tests."""

import asyncio
import gc
import tracemalloc
from asyncio import selector_events
from ipaddress import IPv4Address

from flannel.kernel.netlink import Netlink

_ROUNDS = 100


def test_no_answer_of_the_kernel_is_kept() -> None:
    async def ask() -> None:
        async with Netlink() as netlink:
            for _ in range(_ROUNDS):
                assert await netlink.find_link("lo") is not None
                assert await netlink.find_link("none") is None
                await netlink.find_way(IPv4Address("127.0.0.1"))
                await netlink.list_links()
                await netlink.list_addresses()
            gc.collect()
            assert _received() < _ROUNDS / 2

    tracemalloc.start()
    try:
        asyncio.run(ask())
    finally:
        tracemalloc.stop()


def _received() -> int:
    """How many things there are that asyncio has made, as it makes every datagram it receives."""
    by_asyncio = tracemalloc.Filter(True, selector_events.__file__)
    made = tracemalloc.take_snapshot().filter_traces([by_asyncio]).statistics("filename")
    return sum(each.count for each in made)
