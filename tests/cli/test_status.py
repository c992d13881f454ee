"""flannel status: what is shown of a flanneld that runs, and of a host where none does."""

import asyncio
import json
from ipaddress import IPv4Interface, IPv4Network

import pytest
from fake_context import OWN, World, status_document

from flannel.cli import status
from flannel.cli.context import DaemonDown, DaemonUnseen
from flannel.errors import KernelError, StoreUnavailable
from flannel.handover.subnet_env import SubnetEnv
from flannel.kernel.links import Link

DOWN = DaemonDown("cannot ask flanneld at /run/flannel/flanneld.sock: Connection refused")
UNSEEN = DaemonUnseen("cannot ask flanneld at /run/flannel/flanneld.sock: Permission denied")


def shown(world: World, name: str) -> list[str]:
    """The values that stand behind a name."""
    return [
        line[len(name) :].strip()
        for line in world.run("status").lines
        if line.startswith(f"{name} ")
    ]


class TestWithFlanneld:
    def test_a_flanneld_that_is_ready_has_a_line_for_each_part(self, world: World) -> None:
        done = world.run("status")
        assert done.status == 0
        assert [line.split()[0] for line in done.lines] == [
            "flanneld", "network", "lease", "device", "interface", "peers", "etcd", "firewall",
            "repairs", "drops",
        ]  # fmt: skip
        assert shown(world, "interface") == ["eth0 192.0.2.1, MTU 1500"]
        assert shown(world, "device") == ["flannel.1, MTU 1450"]

    def test_the_document_is_flanneld_s(self, world: World) -> None:
        assert world.run("status", "--json").document == {"daemon": world.daemon}

    def test_a_flanneld_that_starts_is_not_ready_and_has_the_reason(self, world: World) -> None:
        world.pages = {"/status": status_document(None)}
        done = world.run("status")
        assert done.status == 1
        assert "NOT READY: starting;" in done.lines[0]
        assert [line.split()[0] for line in done.lines] == ["flanneld", "etcd", "repairs"]

    def test_trouble_is_shown_in_words(self, world: World) -> None:
        world.daemon["etcd"] |= {"answered_ago": 61.0, "errors": 4, "trouble": "refused"}
        world.daemon["conditions"] = {"watch": "cannot follow the leases: refused"}
        world.daemon["repairs"] = {"count": 2, "last": "repaired flannel.1: a route", "last_ago": 5}
        world.daemon["counters"] = {"rx_spoofed": 3, "rx_other": 0}
        world.daemon["firewall"] |= {"dropped": {"unknown_peer": 7}, "repairs": 2}
        [etcd] = shown(world, "etcd")
        assert etcd.startswith("UNREACHABLE, http://192.0.2.7:2379, answered 1 min 1 s ago")
        assert etcd.endswith(", 4 failed requests")
        assert shown(world, "trouble") == ["cannot follow the leases: refused"]
        assert shown(world, "repairs") == ["2, the last 5 s ago: repaired flannel.1: a route"]
        assert shown(world, "drops") == ["rx_spoofed 3, unknown_peer 7"]
        assert shown(world, "firewall") == ["only peers may send, repaired 2 times"]

    @pytest.mark.parametrize(
        ("backend", "text"),
        [
            ("vxlan", "no guard: every host that reaches the port can send"),
            ("udp", "no guard, for the packet loop has its own"),
            ("host-gw", "no guard"),
        ],
    )
    def test_the_text_about_a_missing_guard_depends_on_the_backend(
        self, world: World, backend: str, text: str
    ) -> None:
        world.daemon["firewall"]["guarded"] = False
        world.daemon["backend"] = backend
        assert shown(world, "firewall") == [text]

    def test_a_reservation_has_no_end_and_no_renewal(self, world: World) -> None:
        world.pages = {"/status": status_document(world.store.put(OWN, world.own.attrs, None))}
        assert shown(world, "lease") == ["10.1.5.0/24, a reservation"]

    @pytest.mark.parametrize(
        ("members", "text"),
        [
            ({"renewed_ago": None}, "not renewed since the start, ends in 22 h 13 min, "
                                    "due for renewal in 11 h 6 min"),
            ({"renewed_ago": None, "left": None, "renewal_in": None},
             "not renewed since the start, its end is unknown until etcd answers"),
            ({"left": -70.0, "renewal_in": -10.0}, "renewed 5 s ago, ended 1 min 10 s ago"),
            ({"left": 70.0, "renewal_in": -10.0},
             "renewed 5 s ago, ends in 1 min 10 s, due for renewal in 0 s"),
        ],
    )  # fmt: skip
    def test_values_that_etcd_has_not_reported_are_not_invented(
        self, world: World, members: dict[str, float | None], text: str
    ) -> None:
        world.daemon["lease"] |= {"renewed_ago": 5.0, "left": 80000.0, **members}
        assert shown(world, "lease") == [f"10.1.5.0/24, {text}"]

    def test_a_public_address_that_differs_is_shown(self, world: World) -> None:
        world.daemon["interface"]["public_ip"] = "198.51.100.1"
        assert shown(world, "interface") == ["eth0 192.0.2.1, public 198.51.100.1, MTU 1500"]


class TestWithoutFlanneld:
    @pytest.fixture(autouse=True)
    def is_down(self, world: World) -> None:
        world.pages = DOWN

    def test_the_remains_of_a_stopped_flanneld_are_shown(self, world: World) -> None:
        done = world.run("status")
        assert done.status == 1
        assert done.lines == [
            f"flanneld    DOWN: {DOWN}",
            "subnet.env  10.1.5.1/24 of 10.1.0.0/16, MTU 1450",
            "device      flannel.1, MTU 1450, up: packets flow on",
            "lease       10.1.5.0/24 of 192.0.2.1, ends in 22 h 13 min",
        ]

    def test_the_document_has_all_of_it(self, world: World) -> None:
        found = world.run("status", "--json").document
        assert found["daemon"] is None
        assert found["daemon_error"] == str(DOWN)
        assert found["daemon_unseen"] is False
        assert found["subnet_env"] == {
            "network": "10.1.0.0/16", "subnet": "10.1.5.1/24", "mtu": 1450, "ip_masq": True
        }  # fmt: skip
        assert found["device"] == [{"name": "flannel.1", "mtu": 1450, "up": True, "carries": True}]
        assert found["leases"] == 2
        assert found["lease"]["node_id"] == "me"

    def test_a_flanneld_that_only_root_may_ask_is_not_called_dead(self, world: World) -> None:
        world.pages = UNSEEN
        assert shown(world, "flanneld") == [f"NOT SEEN: {UNSEEN}; run flannel as root"]
        assert world.run("status", "--json").document["daemon_unseen"] is True

    def test_a_tun_device_carries_nothing_without_flanneld(self, world: World) -> None:
        del world.netlink.links[4]
        world.netlink.add(Link(7, "flannel0", "tun", 1472, True, "", alias="flannel"))
        assert shown(world, "device") == [
            "flannel0, MTU 1472, up: without flanneld nothing is carried"
        ]

    def test_packets_do_not_flow_over_a_device_that_is_down(self, world: World) -> None:
        world.netlink.add(Link(4, "flannel.1", "vxlan", 1450, False, "",
                               world.netlink.links[4].vxlan))  # fmt: skip
        assert shown(world, "device") == ["flannel.1, MTU 1450, DOWN"]

    def test_a_host_without_a_lease_reports_that(self, world: World) -> None:
        world.env_file.unlink()
        assert shown(world, "subnet.env") == ["not there"]
        assert shown(world, "lease") == ["none in etcd for the subnet of subnet.env"]
        world.write_env(SubnetEnv(IPv4Network("10.1.0.0/16"), IPv4Interface("10.1.6.1/24"), 1450,
                                  ip_masq=False))  # fmt: skip
        assert shown(world, "lease") == ["none in etcd for the subnet of subnet.env"]

    def test_a_reservation_never_ends(self, world: World) -> None:
        world.store.put(OWN, world.own.attrs, None)
        assert shown(world, "lease")[0].endswith("ends in never: a reservation")

    def test_with_etcd_and_the_kernel_out_of_reach_the_rest_is_shown(self, world: World) -> None:
        world.store.refusal = StoreUnavailable("cannot list leases: connection refused")
        world.no_kernel = KernelError("open a netlink socket", 1)
        assert shown(world, "etcd") == ["DOWN: cannot list leases: connection refused"]
        assert shown(world, "device") == []
        found = world.run("status", "--json").document
        assert found["device_error"] == "cannot open a netlink socket: Operation not permitted"


def test_watching_repeats_until_it_is_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "sleep", sleep)
    cleared: list[int] = []
    monkeypatch.setattr(status, "clear", lambda: cleared.append(1))
    done = world.run("status", "--watch")
    assert done.status == 130
    assert done.out.count("flanneld ") == 3
    assert not cleared  # stdout is no terminal
    pauses.clear()
    lines = world.run("status", "--watch", "--json").out.splitlines()
    assert [json.loads(line)["daemon"]["ready"] for line in lines] == [True] * 3
