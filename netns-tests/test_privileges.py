"""flanneld works without the privileges that it gives up at its start."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from firewalls import (
    CONFIG,
    only,
)
from pings import ping
from world import Daemon, World


def statuses(daemon: Daemon) -> list[dict[str, str]]:
    """What proc(5) says of each thread."""
    found = []
    for path in Path(f"/proc/{daemon.process.pid}/task").glob("*/status"):
        with suppress(OSError):  # it has ended meanwhile, as one that asks etcd does
            lines = path.read_text().splitlines()
            found.append(dict(line.split(":\t", 1) for line in lines))
    return found


class TestPrivileges:
    @pytest.mark.parametrize("backend", ["vxlan", "udp"])
    def test_two_capabilities_are_left_and_everything_works_with_them(
        self, world: World, backend: str
    ) -> None:
        world.configure({"Network": "10.1.0.0/16", "Backend": {"Type": backend}})
        one, other = world.add_host("h1"), world.add_host("h2")
        path = {"PATH": only(world.directory / "bin", "nft", "iptables-legacy")}
        for host in (one, other):
            host.start_flanneld("-iface=eth0", "-ip-masq", "-iptables-resync=1", env=path)
        for host in (one, other):
            host.daemon.wait_ready()
        assert ping(one.add_container(1), other.add_container(1).address, 30) is not None
        one.run("nft", "flush", "ruleset")
        one.run("iptables-legacy", "-F")
        one.daemon.wait_log("repaired the firewall: table ip flannel was gone")
        one.daemon.wait_log("repaired the firewall: chains of iptables")
        threads = statuses(one.daemon)
        assert threads
        for status in threads:
            kept = f"{1 << 12 | 1 << 13:016x}"
            assert {name: status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {
                "CapPrm": kept,
                "CapEff": kept,
                "CapBnd": kept,
            }
            assert status["CapInh"] == status["CapAmb"] == f"{0:016x}"
            assert status["NoNewPrivs"] == "1"

    def test_a_key_that_belongs_to_another_user_can_still_be_read(self, world: World) -> None:
        key, cert = (world.directory / name for name in ("key.pem", "cert.pem"))
        for path in (key, cert):
            path.write_text("never used with http endpoints")
            path.chmod(0o600)
        os.chown(key, 12345, 12345)
        world.configure(CONFIG)
        host = world.add_host("h1")
        host.start_flanneld("-iface=eth0", f"-etcd-keyfile={key}", f"-etcd-certfile={cert}")
        host.daemon.wait_ready()
        assert f"keeping CAP_DAC_READ_SEARCH: root does not own {key}" in host.daemon.log
