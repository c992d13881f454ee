"""A second flanneld on a host, and the files of the first one removed while it runs."""

import json
import signal

import pytest
from flannel_command import flannel
from world import Daemon, Host, World, ping, wait_for

BACKENDS = ["vxlan", "udp", "host-gw"]


def config(backend: str, network: str = "10.1.0.0/16") -> dict[str, object]:
    return {"Network": network, "Backend": {"Type": backend}}


def start(world: World, backend: str = "vxlan") -> tuple[Host, Host]:
    """Two hosts with a container each, that reach each other."""
    world.configure(config(backend))
    hosts = world.add_host("h1"), world.add_host("h2")
    for host in hosts:
        host.start_flanneld("-iface=eth0")
    for host in hosts:
        host.daemon.wait_ready()
        host.add_container(1)
    wait_reached(*hosts)
    return hosts


def wait_reached(one: Host, other: Host) -> None:
    near, far = one.containers[0], other.containers[0]
    wait_for(lambda: ping(near, far.address) and ping(far, near.address), 20, "the containers")


def elsewhere(host: Host, run: bool = True, state: bool = True) -> None:
    """Let the next flanneld of a host have files of its own."""
    second = host.directory / "second"
    second.mkdir(exist_ok=True)
    if run:
        host.subnet_file = second / "subnet.env"
    if state:
        host.state_dir = second / "state"


def wait_refused(first: Daemon, second: Daemon, said: int) -> str:
    """The one line with which the second one ends."""
    wait_for(lambda: not second.is_running, 30, "the second flanneld to end")
    assert second.process.returncode == 2
    assert not second.is_ready
    (line,) = [line for line in first.log[said:].splitlines() if line.startswith("flanneld: ")]
    assert f"another flanneld, process {first.process.pid}" in line
    return line


def kernel(host: Host) -> tuple[str, ...]:
    """Links, addresses and routes."""
    # Without their state: that of docker0 goes from unknown to up on its own.
    lines = [line.split() for line in host.run("ip", "-br", "-4", "addr").splitlines()]
    links = [each["ifname"] for each in json.loads(host.run("ip", "-json", "link"))]
    addresses = [" ".join(name + rest) for name, rest in ((line[:1], line[2:]) for line in lines)]
    # It takes a while to notice that a link has its carrier.
    return *sorted(links), *sorted(addresses), host.run("ip", "route").replace(" linkdown", "")


def answers(host: Host, daemon: Daemon) -> bool:
    """Whether `flannel status` shows this flanneld."""
    found = json.loads(flannel(host, "status", "--json").stdout)["daemon"]
    return bool(found) and found["pid"] == daemon.process.pid


def test_a_second_flanneld_with_files_of_the_first_is_refused(
    world: World,
) -> None:
    one, other = start(world)
    first, run, state = one.daemon, one.subnet_file, one.state_dir
    second = one.directory / "second"
    second.mkdir()
    for subnet_file, state_dir, shared in (
        (run, state, run.parent),
        (run.with_name("second.env"), second, run.parent),
        (second / "subnet.env", state, state),
    ):
        said = len(first.log)
        one.subnet_file, one.state_dir = subnet_file, state_dir
        line = wait_refused(first, one.start_flanneld("-iface=eth0"), said)
        assert line.startswith(f"flanneld: cannot use {shared}: ")
    one.subnet_file, one.state_dir = run, state
    said = len(first.log)
    with first.frozen():
        wait_refused(first, one.start_flanneld("-iface=eth0"), said)
    assert first.is_running
    assert answers(one, first)
    wait_reached(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_flanneld_with_the_device_or_network_of_the_first_is_refused_and_so_is_cleanup(
    world: World, backend: str
) -> None:
    one, other = start(world, backend)
    first, said, files = one.daemon, len(one.daemon.log), (one.subnet_file, one.state_dir)
    # Another network with the same VNI, or the one TUN device; the same network with host-gw.
    network = "10.1.0.0/16" if backend == "host-gw" else "10.77.0.0/16"
    world.etcdctl("set", "/second/config", json.dumps(config(backend, network)))
    before = kernel(one)
    elsewhere(one)
    second = one.start_flanneld("-iface=eth0", "-etcd-prefix=/second", "-probe-port=8287")
    line = wait_refused(first, second, said)
    used = {"vxlan": "flannel.1", "udp": "flannel0", "host-gw": "10.1.0.0/16"}[backend]
    assert line.startswith(f"flanneld: cannot use {used}: ")
    assert kernel(one) == before
    assert "subnets" not in world.etcdctl("ls", "--recursive", "/second")
    cleanup_is_refused(one, first)  # with the way to its files lost
    one.subnet_file, one.state_dir = files
    locks = [one.subnet_file.with_name("flanneld.lock"), one.state_dir / "flanneld.lock"]
    with first.frozen():  # or it would make them again
        one.subnet_file.with_name("flanneld.sock").unlink()
        cleanup_is_refused(one, first)
        for path in locks:
            path.unlink()
        cleanup_is_refused(one, first)
    wait_reached(one, other)
    wait_for(lambda: all(path.exists() for path in locks), 20, "the lock files")
    first.stop()
    done = flannel(one, "cleanup", "--yes")
    assert done.returncode == 0, done.stderr
    assert list(one.state_dir.iterdir()) == []
    assert not any(path.exists() for path in locks)


def cleanup_is_refused(host: Host, running: Daemon) -> None:
    """`flannel cleanup` names the flanneld that runs, and deletes nothing."""
    done = flannel(host, "cleanup", "--yes")
    assert done.returncode == 2
    assert f"process {running.process.pid}" in done.stderr
    assert "stop it first" in done.stderr


def test_two_networks_with_files_and_devices_of_their_own_live_side_by_side(world: World) -> None:
    one, other = start(world)
    files = one.subnet_file, one.state_dir
    second_network = {"Network": "10.77.0.0/16", "Backend": {"Type": "vxlan", "VNI": 2}}
    world.etcdctl("set", "/second/config", json.dumps(second_network))
    elsewhere(one)
    one.start_flanneld("-iface=eth0", "-etcd-prefix=/second", "-probe-port=8287").wait_ready()
    second = one.daemon
    # Each sweeps away what is left of an earlier config, and leaves what the other one uses.
    one.daemons[0].stop()
    one.subnet_file, one.state_dir = files
    one.start_flanneld("-iface=eth0").wait_ready()
    links = one.run("ip", "link")
    assert "flannel.1" in links
    assert "flannel.2" in links
    wait_reached(one, other)
    # Its config names the device of the first one: it waits, and takes nothing.
    world.etcdctl("set", "/second/config", json.dumps(config("vxlan", "10.77.0.0/16")))
    second.wait_log(r"cannot use flannel\.1: another flanneld, process \d+, uses it; trying")
    wait_reached(one, other)
    assert second.is_running


def test_a_flanneld_starts_after_one_that_was_killed_or_is_just_ending(
    world: World,
) -> None:
    one, other = start(world)
    for number in (signal.SIGKILL, signal.SIGTERM):
        one.daemon.stop(number)
        one.start_flanneld("-iface=eth0").wait_ready()
    # The second one waits for a second; on a busy machine the first one may need more.
    assert any(starts_beside_the_end(one) for _ in range(20))
    wait_reached(one, other)


def starts_beside_the_end(host: Host) -> bool:
    """Whether a flanneld starts that finds the one before just ending."""
    ending = host.daemon
    ending.process.terminate()
    daemon = host.start_flanneld("-iface=eth0")
    wait_for(lambda: daemon.is_ready or not daemon.is_running, 60, "a flanneld, or its refusal")
    if daemon.is_ready:
        return True
    assert daemon.process.returncode == 2
    ending.process.wait(120)
    host.start_flanneld("-iface=eth0").wait_ready()
    return False


def test_files_that_somebody_removes_are_made_again_and_a_second_flanneld_is_still_refused(
    world: World,
) -> None:
    one, other = start(world)
    first, said = one.daemon, len(one.daemon.log)
    for name in ("flanneld.sock", "subnet.env", "flanneld.lock"):
        one.subnet_file.with_name(name).unlink()
    (one.state_dir / "flanneld.lock").unlink()
    wait_refused(first, one.start_flanneld("-iface=eth0"), said)
    wait_for(lambda: answers(one, first), 20, "flannel status to answer again")
    wait_for(one.subnet_file.exists, 20, "subnet.env")
    wait_reached(one, other)
