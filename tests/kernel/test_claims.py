"""One flanneld for each device in a network namespace. The names are this process's own."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flannel import privileges
from flannel.errors import AlreadyRunning
from flannel.kernel import claims as module
from flannel.kernel.claims import Claims, NoClaims, find_claims
from flannel.run_lock import describe

DEVICE, OTHER_DEVICE = f"test-{os.getpid()}.1", f"test-{os.getpid()}.2"
OTHER = """
import asyncio, sys
from flannel.kernel.claims import Claims

async def main():
    claims = Claims()
    claims.claim(sys.argv[1])
    print("claimed", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """Another process that has claimed the device."""
    command = [sys.executable, "-c", OTHER, DEVICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


@pytest.fixture
def squatter() -> Iterator[socket.socket]:
    """Something else that listens at the name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(f"\0flanneld/{DEVICE}")
        made.listen(8)
        yield made


def run(work: Callable[[Claims], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        claims = Claims()
        try:
            await work(claims)
        finally:
            claims.close()

    asyncio.run(main())


def ours() -> dict[str, str]:
    """The claims of this test; others on the machine may have some as well."""
    mine = (DEVICE, OTHER_DEVICE)
    return {name: holder for name, holder in find_claims().items() if name in mine}


def test_a_claim_is_found_with_the_process_that_has_it() -> None:
    async def work(claims: Claims) -> None:
        claims.claim(DEVICE)
        assert (await asyncio.to_thread(ours))[DEVICE] == describe(os.getpid())

    run(work)
    assert DEVICE not in ours()


def test_a_claim_of_another_flanneld_is_refused_and_that_named(
    other: subprocess.Popen[str],
) -> None:
    async def work(claims: Claims) -> None:
        with pytest.raises(AlreadyRunning) as raised:
            claims.claim(DEVICE)
        who = describe(other.pid)
        assert str(raised.value) == f"cannot use {DEVICE}: another flanneld, {who}, uses it"

    run(work)


def test_however_often_it_is_asked_a_claim_answers(
    other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 100.0)
    for _ in range(300):  # more than wait at a socket that nobody reads
        assert ours()[DEVICE] == describe(other.pid)


def test_the_end_of_a_process_is_the_end_of_its_claim(other: subprocess.Popen[str]) -> None:
    async def work(claims: Claims) -> None:
        other.kill()
        await asyncio.to_thread(other.wait)
        claims.claim(DEVICE)

    run(work)


def test_another_claim_takes_the_place_of_the_one_before() -> None:
    async def work(claims: Claims) -> None:
        for name in (DEVICE, DEVICE, OTHER_DEVICE):
            claims.claim(name)
        assert (await asyncio.to_thread(ours)).keys() == {OTHER_DEVICE}
        claims.claim("")
        assert await asyncio.to_thread(ours) == {}

    run(work)


def test_a_refused_claim_leaves_the_one_before(other: subprocess.Popen[str]) -> None:
    async def work(claims: Claims) -> None:
        claims.claim(OTHER_DEVICE)
        with pytest.raises(AlreadyRunning):
            claims.claim(DEVICE)
        assert OTHER_DEVICE in await asyncio.to_thread(ours)
        other.kill()
        await asyncio.to_thread(other.wait)
        claims.claim(DEVICE)

    run(work)


def test_a_user_who_binds_the_name_cannot_prevent_a_start_of_flanneld(
    squatter: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = module._UCRED.pack(os.getpid(), 4711, 4711)

    class Asking(socket.socket):
        def getsockopt(self, *_: Any) -> Any:
            return credentials

    monkeypatch.setattr(socket, "socket", Asking)

    async def work(claims: Claims) -> None:
        claims.claim(DEVICE)
        claims.claim(DEVICE)

    run(work)
    assert f"cannot claim {DEVICE}: Address already in use; going on without" in caplog.text
    assert DEVICE not in ours()


def test_a_claim_of_an_unknown_process_does_not_count(
    squatter: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    squatter.listen(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as first:
        with suppress(BlockingIOError):  # full already: of another test that looks for claims
            first.connect(f"\0flanneld/{DEVICE}")
        monkeypatch.setattr(module, "_PATIENCE", 0.01)
        assert DEVICE not in ours()


@pytest.mark.parametrize(
    ("its_own", "mine", "counts"),
    [
        ("00000000a80425fb", "000001ffffffffff", False),  # root of a container, as docker makes it
        ("0000000000003000", "000001ffffffffff", True),  # flanneld, privileges dropped
        (None, "000001ffffffffff", False),  # hidden by ProtectProc=invisible: it has more of them
        ("0000000000000000", "0000000000000000", True),  # no less than we have ourselves
    ],
)
def test_root_of_a_container_in_the_host_network_cannot_keep_flanneld_from_starting(
    other: subprocess.Popen[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    its_own: str | None,
    mine: str,
    counts: bool,
) -> None:
    for pid, capabilities in ((other.pid, its_own), (os.getpid(), mine)):
        if capabilities is not None:
            (tmp_path / str(pid)).write_text(f"CapPrm:\t0\nCapEff:\t{capabilities}\nCapBnd:\t0\n")
    real = Path

    def find(path: str) -> Path:
        return tmp_path / path.split("/")[2] if path.endswith("/status") else real(path)

    monkeypatch.setattr(privileges, "Path", find)
    assert (DEVICE in ours()) is counts


def test_without_proc_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Path", lambda _: tmp_path / "none")
    assert find_claims() == {}


def test_no_claims_are_never_refused(other: subprocess.Popen[str]) -> None:
    claims = NoClaims()
    claims.claim(DEVICE)
    claims.close()
