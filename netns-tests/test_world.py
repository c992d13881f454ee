"""The world itself: it leaves nothing behind, whatever happens in it."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from namespaces import list_namespaces
from world import Pinger, World, WorldError, ping, wait_for

HERE = Path(__file__).parent / "helpers"


def left(tag: str) -> list[str]:
    return [name for name in list_namespaces() if name.startswith(f"{tag}-")]


def test_hosts_reach_each_other_and_nothing_is_left() -> None:
    with World() as world:
        world.start_etcd()
        one, other = world.add_host("a"), world.add_host("b")
        assert ping(one, other.address, 30) is not None
        with Pinger(one, other.address) as pinger:
            wait_for(lambda: pinger.sent > 10, 30, "pings to be sent")
        assert pinger.lost == 0
        other.ip("link set eth0 down")
        assert ping(one, other.address) is None
        assert len(left(world.tag)) == 3
        assert world.directory.exists()
    assert left(world.tag) == []
    assert not world.directory.exists()


def test_a_body_that_fails_leaves_nothing() -> None:
    world = World()

    def body() -> None:
        with world:
            world.start_etcd()
            world.add_host("a")
            world.add_host("a")

    with pytest.raises(WorldError, match="File exists"):
        body()
    assert left(world.tag) == []


@pytest.mark.parametrize("number", ["TERM", "INT", "KILL"])
def test_a_process_that_is_ended_leaves_nothing_for_long(number: str) -> None:
    script = (
        "import time\nfrom world import World\n"
        "with World() as world:\n"
        "    program = world.add_host('a').popen('sleep', '60')\n"
        "    print(world.tag, program.pid, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    tag, program = process.stdout.readline().split()
    assert len(left(tag)) == 2
    # Before, it is nsenter, which may not be in the namespace yet, and would not be found there.
    wait_for(lambda: Path("/proc", program, "comm").read_text() == "sleep\n", 30, "the program")
    for _ in range(2):  # some press Ctrl-C again
        process.send_signal(getattr(signal, f"SIG{number}"))
    process.wait(60)
    process.stdout.close()
    if number == "KILL":
        with World():  # the next one sweeps
            pass
    wait_for(lambda: not left(tag), 30, "namespaces to go")
    wait_for(lambda: not Path("/proc", program, "exe").exists(), 30, "the program to go")
    # Another process may have begun to sweep as well, and not have ended yet.
    files = Path(tempfile.gettempdir())
    wait_for(lambda: not list(files.glob(f"{tag}-*")), 30, "the files to go")
