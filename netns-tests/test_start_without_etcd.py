"""A start while etcd is unreachable: the saved state is served until etcd answers."""

import json
import signal
import time
from typing import Any

from flannel_command import flannel, status_of
from overlays import (
    ALL,
    HOST_GW,
    RANGE,
    SMALL,
    UDP,
    VXLAN,
    is_logged_once,
    key_of,
    peer_value,
    start,
    start_saved,
    ttl_of,
    wait_overlay,
)
from world import World, ping, wait_for


def lease_of(config: dict[str, Any], n: int) -> str:
    """A lease of 192.0.2.<n>, a host that is not there."""
    backend = config.get("Backend", {}).get("Type")
    if backend is None:
        return f'{{"PublicIP":"192.0.2.{n}"}}'
    if backend == "vxlan":
        return peer_value(f"192.0.2.{n}", f"02:00:00:00:00:{n}")
    return f'{{"PublicIP":"192.0.2.{n}","BackendType":"{backend}"}}'


@ALL
def test_the_saved_state_is_served_and_changes_follow_with_etcd(
    world: World, config: dict[str, Any]
) -> None:
    pair = start_saved(world, config)
    one, other, near, far = pair.one, pair.other, pair.near, pair.far
    before = one.subnet
    world.stop_etcd(signal.SIGKILL)
    one.daemon.kill()
    one.subnet_file.unlink()  # as after a reboot
    one.start_flanneld("-iface=eth0").wait_ready()
    assert ping(near, far.address, 30) is not None
    assert one.subnet == before
    lease = status_of(one)["lease"]
    assert lease["renewed_ago"] is None
    assert 0 < lease["left"] <= 86400
    rows = flannel(one, "leases").stdout.splitlines()[1:3]
    assert {line.split()[1]: line.split()[3] for line in rows} == {
        str(one.address): "23", str(other.address): "unknown"
    }  # fmt: skip
    one.daemon.wait_log(
        rf"the store does not answer: serving lease {before} of 192\.0\.2\.11 and 1 peers"
    )
    world.start_etcd()
    world.put_leases({"10.1.70.0-24": lease_of(config, 70)})
    one.daemon.wait_log("following the leases again")
    if config is not UDP:
        wait_overlay(one, other.subnet, "10.1.70.0/24")
    assert one.subnet == before
    assert ping(near, far.address, 30) is not None
    assert is_logged_once(one, "the store does not answer")


@ALL
def test_the_saved_state_is_served_while_the_config_cannot_be_used(
    world: World, config: dict[str, Any]
) -> None:
    pair = start_saved(world, config)
    one, other, near, far = pair.one, pair.other, pair.near, pair.far
    before = one.subnet
    world.configure("{")
    one.daemon.wait_log("it is not JSON.*still serving the previous one")
    one.daemon.kill()
    one.start_flanneld("-iface=eth0").wait_ready()
    # On a busy machine the store's answer may be too late to be the reason.
    one.daemon.wait_log("(the network config cannot be used|does not answer): serving lease")
    assert ping(near, far.address, 30) is not None
    wait_for(lambda: ttl_of(world, key_of(one)) > 86000, 30, "our lease")
    world.put_leases({"10.1.70.0-24": lease_of(config, 70)})
    if config is not UDP:
        wait_overlay(one, other.subnet, "10.1.70.0/24")
    # Of the run before, and of this one.
    wait_for(lambda: one.daemon.log.count("it is not JSON") == 2, 30, "a complaint")
    world.configure({**RANGE, **config, "SubnetMax": "10.1.238.0"})
    one.daemon.wait_log(r"SubnetMax 10\.1\.239\.0 is 10\.1\.238\.0 now")
    assert one.subnet == before
    assert one.daemon.log.count("it is not JSON") == 2


def test_a_subnet_that_another_took_meanwhile_is_given_up_for_another(world: World) -> None:
    (host,) = start(world, VXLAN, 1)
    before, key = host.subnet, key_of(host)
    host.daemon.stop()
    theirs = peer_value("192.0.2.99")
    world.put_leases({key: theirs})
    world.stop_etcd()
    host.start_flanneld("-iface=eth0").wait_ready()
    assert host.subnet == before
    world.start_etcd()
    host.daemon.wait_log(r"192\.0\.2\.99 holds it now; starting over")
    wait_for(lambda: host.subnet != before, 30, "another subnet")
    assert world.leases()[key]["value"] == theirs


def test_a_lost_subnet_is_not_saved_for_the_next_start(world: World) -> None:
    """Though this host has got no other one."""
    (host,) = start(world, SMALL, 1)
    others = [f"10.1.{n}.0-24" for n in (1, 2, 3)]
    world.put_leases({key: peer_value(f"192.0.2.{90 + n}") for n, key in enumerate(others)})
    host.daemon.wait_log("all 3 between .* are leased")
    assert "Lease" not in json.loads((host.state_dir / "state.json").read_text())


def test_a_change_just_before_the_end_is_saved(world: World) -> None:
    """Else the next start would withdraw it, until etcd answers."""
    (host,) = start(world, VXLAN, 1)
    state = host.state_dir / "state.json"
    world.put_leases({"10.1.70.0-24": lease_of(VXLAN, 70)})
    wait_for(lambda: state.exists() and "10.1.70.0-24" in state.read_text(), 30, "the first, saved")
    # Now it saves nothing for a second.
    world.put_leases({"10.1.71.0-24": lease_of(VXLAN, 71)})
    wait_overlay(host, "10.1.70.0/24", "10.1.71.0/24")
    assert host.daemon.stop() == 0
    assert "10.1.71.0-24" in state.read_text()


def test_a_config_that_changed_meanwhile_is_followed(world: World) -> None:
    (host,) = start(world, VXLAN, 1)
    host.daemon.stop()
    world.configure(HOST_GW)
    world.stop_etcd()
    host.start_flanneld("-iface=eth0").wait_ready()
    assert "flannel.1" in host.run("ip", "link")
    world.start_etcd()
    wait_for(lambda: "flannel.1" not in host.run("ip", "link"), 30, "host-gw")


def test_flanneld_ends_at_once_while_etcd_is_frozen(world: World) -> None:
    (host,) = start(world, VXLAN, 1)
    host.daemon.stop()
    world.stop_etcd(signal.SIGSTOP)

    def ended_in() -> float:
        """The seconds that its end takes."""
        host.start_flanneld("-iface=eth0").wait_ready()
        began = time.monotonic()
        assert host.daemon.stop() == 0
        return time.monotonic() - began

    # And not as long as it waits for news: 10. A busy machine is not always so slow.
    assert any(ended_in() < 8 for _ in range(4))


def test_an_unusable_saved_state_is_logged_and_etcd_waited_for(world: World) -> None:
    (host,) = start(world, VXLAN, 1)
    host.daemon.stop()
    (host.state_dir / "state.json").write_text("{")
    world.stop_etcd()
    host.start_flanneld("-iface=eth0").wait_log("ignoring .*state.json.*: it is not JSON")
    world.start_etcd()
    host.daemon.wait_ready()
