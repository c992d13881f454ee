"""The real socket of Netlink: what it receives is not kept, and an error does not stay."""

import asyncio
import errno
import gc
import tracemalloc
from asyncio import selector_events
from ipaddress import IPv4Address

import pytest

from flannel.errors import KernelError
from flannel.kernel import netlink as module
from flannel.kernel.netlink import Netlink

_ROUNDS = 100


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for the kernel to answer while other processes run."""
    monkeypatch.setattr(module, "_PATIENCE", 100.0)


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


def test_the_real_socket_is_replaced_after_an_error_that_it_keeps() -> None:
    """As pyroute2 does: whatever is asked afterwards raises the same error again."""

    async def main() -> None:
        async with Netlink() as netlink:
            assert await netlink.find_link("lo") is not None
            netlink._ipr.protocol.error_received(
                OSError(errno.ENOBUFS, "No buffer space available")
            )
            with pytest.raises(KernelError, match="No buffer space"):
                await netlink.list_links()
            assert await netlink.find_link("lo") is not None

    asyncio.run(main())
