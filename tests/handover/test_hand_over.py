"""HandOver: subnet.env is kept, docker's bridge watched, the hook run, systemd notified."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, cast

import pytest
from fake_kernel import FakeNetlink
from managers import ME, net
from virtual_time import Clock
from waiting import running, until

from flannel.conditions import Condition
from flannel.handover.hand_over import HandOver
from flannel.health.status import PARTS, Status
from flannel.kernel.links import Address, Link
from flannel.lease import Lease
from flannel.options.table import parse

NETWORK = net("10.5.0.0/16")
LEASE, NEXT = Lease(net("10.5.1.0/24"), ME, 600), Lease(net("10.5.2.0/24"), ME, 600)
TEXT = (
    "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1450\n"
    "FLANNEL_IPMASQ=true\n"
)
DOCKER0 = Link(7, "docker0", "bridge", 1500, True, "02:00:00:00:00:07")
ITS_ADDRESS = Address(7, IPv4Interface("172.17.0.1/16"), 0)


class CountingNetlink(FakeNetlink):
    """A host whose kernel counts how often its links are listed."""

    reads = 0

    async def list_links(self) -> list[Link]:
        self.reads += 1
        return await super().list_links()


class Made:
    """A host on which a lease is handed over.

    :ivar docker0: whether docker0 is to have it.
    """

    docker0 = True

    def __init__(self, directory: Path) -> None:
        self.file = directory / "run" / "subnet.env"
        self.hook = directory / "hook"
        self.netlink = CountingNetlink()
        self.status = Status(parse([], {}), cast(Any, None))
        self.start()

    def start(self) -> None:
        """As flanneld does."""
        hook = self.hook if self.hook.exists() else None
        self.hand_over = HandOver(self.netlink, self.file, hook, self.status, docker0=self.docker0)

    def text(self, condition: Condition) -> str:
        return self.status.conditions.text(condition)

    async def keep(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        lease: Lease = LEASE,
        mtu: int = 1450,
    ) -> None:
        """Run ``work`` while ``lease`` is handed over."""
        async with running(self.hand_over.keep(NETWORK, lease, mtu, True)):
            await work()

    async def given(self, lease: Lease = LEASE, mtu: int = 1450) -> None:
        """Hand it over, and no more."""

        async def work() -> None:
            # Docker's bridge is looked at when all else is done.
            await until(lambda: self.netlink.reads > before, "look at docker's bridge")

        before = self.netlink.reads
        await self.keep(work, lease, mtu)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_the_lease_is_written_to_subnet_env(made: Made, clock: Clock) -> None:
    assert made.hand_over.subnet is None
    clock.run(made.given())
    assert made.file.read_text() == TEXT
    assert made.hand_over.subnet == LEASE.subnet


def test_a_file_that_is_removed_or_changed_is_written_again(
    made: Made, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        await asyncio.sleep(1)
        for change in (made.file.unlink, lambda: made.file.write_text("x")):
            change()
            await asyncio.sleep(3.1)
            assert made.file.read_text() == TEXT

    clock.run(made.keep(work))
    assert caplog.messages == [f"{made.file} was changed or removed; written again"] * 2


def test_a_file_that_cannot_be_written_is_a_condition_until_it_can(
    made: Made, clock: Clock
) -> None:
    made.file.parent.touch()  # where a directory should be

    async def work() -> None:
        await asyncio.sleep(60)
        assert "cannot write" in made.text(Condition.SUBNET_ENV)
        made.file.parent.unlink()
        await asyncio.sleep(3.1)
        assert made.text(Condition.SUBNET_ENV) == ""
        assert made.file.read_text() == TEXT

    clock.run(made.keep(work))


def test_the_subnet_of_an_earlier_run_is_known_at_the_start(made: Made, clock: Clock) -> None:
    clock.run(made.given())
    made.start()
    assert made.hand_over.subnet == LEASE.subnet


def test_a_different_subnet_is_a_warning_that_names_both(
    made: Made, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.run(made.given())
    assert caplog.messages == []
    made.start()
    clock.run(made.given(NEXT))
    assert caplog.messages == [
        "the subnet of this host is 10.5.2.0/24 now, it was 10.5.1.0/24: containers that have "
        "addresses of the old one cannot be reached"
    ]


def test_a_different_mtu_is_a_warning(
    made: Made, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.run(made.given())
    clock.run(made.given(mtu=1400))
    clock.run(made.given(mtu=1400))
    assert caplog.messages == [
        "the MTU is 1400 now, it was 1450: restart docker, so that containers get it"
    ]


def test_with_hand_over_a_restart_of_docker_is_not_asked_for(
    made: Made, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    made.docker0 = False
    made.start()
    made.netlink.add(DOCKER0)
    made.netlink.addresses.append(ITS_ADDRESS)
    clock.run(made.given())
    clock.run(made.given(mtu=1400))
    assert made.text(Condition.DOCKER_SUBNET) == ""
    assert caplog.messages == [
        "the MTU is 1400 now, it was 1450: start others, so that containers get it"
    ]


HOOK = """#!/bin/sh
env | grep -E '^(FLANNEL|SECRET)' | sort >> {output}
exit {status}
"""


def write_hook(made: Made, status: int = 0, script: str = HOOK) -> Path:
    output = made.hook.with_name("output")
    made.hook.write_text(script.format(output=output, status=status))
    made.hook.chmod(0o755)
    return output


def test_the_hook_runs_when_the_subnet_differs_and_then_only(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("SECRET", "hunter2")
    output = write_hook(made)
    made.start()
    asyncio.run(made.given())
    asyncio.run(made.given())
    assert not output.exists()
    asyncio.run(made.given(NEXT))
    assert output.read_text() == (
        "FLANNEL_IPMASQ=true\nFLANNEL_MTU=1450\nFLANNEL_NETWORK=10.5.0.0/16\n"
        f"FLANNEL_OLD_SUBNET=10.5.1.1/24\nFLANNEL_SUBNET=10.5.2.1/24\n"
        f"FLANNEL_SUBNET_FILE={made.file}\n"
    )
    assert f"ran {made.hook}" in caplog.messages
    asyncio.run(made.given(NEXT))
    assert output.read_text().count("OLD_SUBNET") == 1


def test_the_hook_finds_programs_as_flanneld_does(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = write_hook(made, script='#!/bin/sh\necho "$PATH" > {output}\n')
    made.start()
    asyncio.run(made.given())
    path = os.environ["PATH"] + ":/usr/local/flannel"
    monkeypatch.setenv("PATH", path)
    monkeypatch.delenv("LANG", raising=False)
    asyncio.run(made.given(NEXT))
    assert output.read_text() == f"{path}\n"


def test_a_hook_that_fails_is_a_warning_with_its_complaint(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(made, script="#!/bin/sh\necho no docker here >&2; exit 3\n")
    made.start()
    asyncio.run(made.given())
    asyncio.run(made.given(NEXT))
    assert caplog.messages[-1] == f"{made.hook} failed: no docker here"


def test_a_hook_that_cannot_be_run_is_a_warning(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(made, script="#!/no/such/interpreter\n")
    made.start()
    asyncio.run(made.given())
    asyncio.run(made.given(NEXT))
    assert caplog.messages[-1] == f"cannot run {made.hook}: No such file or directory"


def test_a_hook_that_was_interrupted_runs_again(made: Made) -> None:
    output = write_hook(made, script="#!/bin/sh\necho x >> {output}; exec sleep 60\n")
    made.start()
    asyncio.run(made.given())

    async def work() -> None:
        await until(output.exists)

    asyncio.run(made.keep(work, NEXT))  # cancelled in the middle of the hook
    output.unlink()
    asyncio.run(made.keep(work, NEXT))
    assert output.exists()


def test_docker_that_does_not_fit_is_a_condition_until_it_was_restarted(
    made: Made, clock: Clock
) -> None:
    async def work() -> None:
        await asyncio.sleep(1)
        assert made.text(Condition.DOCKER_SUBNET) == ""
        made.netlink.add(DOCKER0)  # docker starts, after flanneld
        made.netlink.addresses.append(ITS_ADDRESS)
        made.netlink.add(Link(8, "veth1", "veth", 1500, True, "", master=7))
        await asyncio.sleep(3.1)
        assert made.text(Condition.DOCKER_SUBNET).startswith(
            "docker0 has 172.17.0.1/16, not 10.5.1.1/24 of the lease"
        )
        assert "containers with MTU 1500" in made.text(Condition.DOCKER_MTU)
        made.netlink.addresses[-1] = Address(7, IPv4Interface("10.5.1.1/24"), 0)
        await asyncio.sleep(3.1)
        assert made.text(Condition.DOCKER_SUBNET) == ""
        assert made.text(Condition.DOCKER_MTU) != ""
        del made.netlink.links[8]
        await asyncio.sleep(31)
        assert made.text(Condition.DOCKER_SUBNET) == made.text(Condition.DOCKER_MTU) == ""

    clock.run(made.keep(work))


def test_docker_is_looked_at_seldom(made: Made, clock: Clock) -> None:
    async def work() -> None:
        await asyncio.sleep(3600)
        assert made.netlink.reads < 3600 / 10

    clock.run(made.keep(work))


def test_a_kernel_error_leaves_the_conditions_of_docker_unchanged(made: Made, clock: Clock) -> None:
    made.netlink.add(DOCKER0)

    async def work() -> None:
        await asyncio.sleep(1)
        assert made.text(Condition.DOCKER_SUBNET)
        made.netlink.refuses["list_links"] = errno.ENOMEM
        await asyncio.sleep(100)
        assert made.text(Condition.DOCKER_SUBNET)
        assert made.file.read_text() == TEXT
        made.netlink.refuses.clear()
        del made.netlink.links[7]
        await asyncio.sleep(31)
        assert made.text(Condition.DOCKER_SUBNET) == ""

    clock.run(made.keep(work))


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of $NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as heard:
        heard.bind(os.fspath(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", os.fspath(tmp_path / "notify"))
        yield heard


def notified(systemd: socket.socket) -> list[str]:
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(systemd.recv(4096).decode())
    return found


def test_systemd_is_notified_when_all_parts_are_done(
    made: Made, clock: Clock, systemd: socket.socket
) -> None:
    clock.run(made.given())  # of which subnet.env is one
    for part in PARTS[1:]:
        assert notified(systemd) == []
        made.hand_over.has(part, LEASE)
    assert notified(systemd) == [f"READY=1\nSTATUS=lease {LEASE}"]
    made.hand_over.has("peers", LEASE)
    assert notified(systemd) == []
    made.hand_over.has("peers", NEXT)
    assert notified(systemd) == [f"READY=1\nSTATUS=lease {NEXT}"]


def test_a_start_without_a_lease_ends_for_systemd_after_ten_seconds_with_the_reason(
    made: Made, clock: Clock, systemd: socket.socket
) -> None:
    made.status.conditions.report(Condition.STORE, "etcd does not answer\x1b")
    clock.run(made.hand_over.limit_start())
    assert clock.now >= 10
    assert notified(systemd) == ["READY=1\nSTATUS=waiting: etcd does not answer\\x1b"]
    clock.run(made.given())
    for part in PARTS[1:]:
        made.hand_over.has(part, LEASE)
    assert notified(systemd) == [f"READY=1\nSTATUS=lease {LEASE}"]
    clock.run(made.hand_over.limit_start())
    assert notified(systemd) == []
