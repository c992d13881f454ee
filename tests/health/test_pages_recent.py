"""A page that takes long to make is made once for all clients that ask meanwhile."""

import asyncio

import pytest

from flannel.health import pages
from flannel.health.http_server import Page


class Maker:
    """Makes numbered pages, each when it is let.

    :ivar n_begun: how many were begun.
    """

    def __init__(self) -> None:
        self.n_begun = 0
        self.may_end = asyncio.Event()

    async def make(self) -> Page:
        self.n_begun += 1
        number = self.n_begun
        await self.may_end.wait()
        if number == 1:
            raise OSError
        return Page(200, b"%d" % number)


def test_a_thousand_clients_share_one_page_and_later_ones_get_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        maker = Maker()
        recent = pages.Recent(maker.make)

        async def ask_all() -> set[object]:
            asking = [asyncio.create_task(recent()) for _ in range(1000)]
            asking[500].cancel()  # a client that is dropped takes the page from nobody
            done = await asyncio.gather(*asking, return_exceptions=True)
            return {type(each) if isinstance(each, BaseException) else each for each in done}

        asyncio.get_running_loop().call_later(0.01, maker.may_end.set)
        assert await ask_all() == {OSError, asyncio.CancelledError}
        monkeypatch.setattr(pages, "_FRESH", 1e9)
        assert await ask_all() == {Page(200, b"2"), asyncio.CancelledError}
        assert (await recent()).body == b"2"
        monkeypatch.setattr(pages, "_FRESH", -1)
        assert (await recent()).body == b"3"

    asyncio.run(main())
