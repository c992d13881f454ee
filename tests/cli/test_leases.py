"""flannel leases, reserve, release: what is printed, and what is in the store afterwards."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from fake_context import OWN, PEER, World
from fake_host import HOST

from flannel.cli.context import DaemonDown
from flannel.errors import StoreUnavailable
from flannel.lease import LeaseAttrs

DOWN = StoreUnavailable("cannot list leases: connection refused")
NO_DAEMON = DaemonDown("cannot ask flanneld at /run/flannel/flanneld.sock: No such file")


class TestLeases:
    def test_each_lease_has_a_row_in_the_order_of_the_subnets(self, world: World) -> None:
        world.lease(77)
        reserved = world.store.put(IPv4Network("10.1.6.0/24"), LeaseAttrs(HOST), None)
        done = world.run("leases")
        assert done.status == 0
        assert [line.split() for line in done.lines] == [
            ["SUBNET", "HOST", "BACKEND", "ENDS", "IN", "DATA"],
            ["10.1.5.0/24", "192.0.2.1", "vxlan", "22", "h", "13", "min", "VtepMAC=x"],
            ["10.1.6.0/24", "192.0.2.1", "reserved"],
            ["10.1.9.0/24", "192.0.2.9", "vxlan", "19", "h", "26", "min",
             "VtepMAC=02:00:00:00:00:09"],
            ["10.1.77.0/24", "192.0.2.77", "vxlan", "1", "h"],
        ]  # fmt: skip
        assert reserved.ttl is None

    def test_the_document_has_their_members(self, world: World) -> None:
        world.store.remove(OWN)
        assert world.run("leases", "--json").document == {
            "leases": [
                {"subnet": "10.1.9.0/24", "public_ip": "192.0.2.9", "backend": "vxlan",
                 "backend_data": {"VtepMAC": "02:00:00:00:00:09"}, "node_id": "it", "ttl": 70000,
                 "reservation": False}
            ],
            "note": "",
        }  # fmt: skip

    def test_without_the_store_flanneld_is_asked_and_that_is_noted(self, world: World) -> None:
        world.store.refusal = DOWN
        done = world.run("leases")
        assert done.status == 0
        assert [line.split()[0] for line in done.lines[1:3]] == [str(OWN), str(PEER)]
        assert done.lines[3] == f"{DOWN}; as flanneld last saw them"
        world.daemon["lease"] = None
        assert len(world.run("leases", "--json").document["leases"]) == 1

    def test_leases_that_flanneld_read_from_its_file_have_no_known_end(self, world: World) -> None:
        world.store.refusal = DOWN
        assert isinstance(world.pages, dict)
        for each in (world.daemon["lease"], *world.pages["/peers"]):
            each |= {"ttl": None, "left": None, "reservation": False}
        assert [line.split()[3] for line in world.run("leases").lines[1:3]] == ["unknown"] * 2

    def test_without_both_the_error_is_the_store_s(self, world: World) -> None:
        world.store.refusal = DOWN
        world.pages = NO_DAEMON
        done = world.run("leases")
        assert (done.status, done.out, done.err) == (1, "", f"flannel: {DOWN}\n")

    @pytest.mark.parametrize("data", ["text", 5, [1, 2]])
    def test_data_of_any_kind_is_shown(self, world: World, data: object) -> None:
        world.lease(77, backend_data=data)
        assert world.run("leases").lines[-1].endswith(str(data))


class TestReserve:
    def test_a_subnet_that_is_free_is_reserved(self, world: World) -> None:
        done = world.run("reserve", "192.0.2.50", "10.1.50.0/24")
        assert (done.status, done.out) == (0, "reserved 10.1.50.0/24 for 192.0.2.50\n")
        lease = world.store.leases[IPv4Network("10.1.50.0/24")]
        assert (lease.attrs.public_ip, lease.ttl) == (IPv4Address("192.0.2.50"), None)

    def test_any_free_subnet_is_reserved_where_none_is_named(self, world: World) -> None:
        document = world.run("reserve", "192.0.2.50", "--json").document
        assert document["public_ip"] == "192.0.2.50"
        assert IPv4Network(document["subnet"]) in world.store.leases

    @pytest.mark.parametrize(
        ("subnet", "why"),
        [
            ("10.1.9.0/24", "cannot lease 10.1.9.0/24"),
            ("10.2.9.0/24", "cannot reserve 10.2.9.0/24: it is not a /24 from"),
            ("10.1.9.0/25", "cannot reserve 10.1.9.0/25: it is not a /24 from"),
        ],
    )
    def test_a_subnet_that_cannot_be_reserved_is_refused_with_the_reason(
        self, world: World, subnet: str, why: str
    ) -> None:
        before = dict(world.store.leases)
        done = world.run("reserve", "192.0.2.50", subnet)
        assert done.status == 1
        assert done.err.startswith(f"flannel: {why}")
        assert world.store.leases == before

    @pytest.mark.parametrize("subnet", [(), (str(PEER),), ("--subnet", str(PEER))])
    def test_the_lease_of_a_host_becomes_its_reservation(
        self, world: World, subnet: tuple[str, ...]
    ) -> None:
        done = world.run("reserve", "192.0.2.9", *subnet)
        assert (done.status, done.out) == (0, (
            "reserved 10.1.9.0/24 for 192.0.2.9, which holds it; nothing changes for its "
            "containers\n"))  # fmt: skip
        reserved = world.store.leases[PEER]
        assert (reserved.ttl, reserved.attrs) == (None, world.peer.attrs)

    def test_a_host_is_moved_after_a_yes(self, world: World) -> None:
        wish = ("reserve", "192.0.2.9", "--subnet", "10.1.50.0/24")
        world.terminal = "n\n"
        assert world.run(*wish).status == 1
        assert len(world.store.leases) == 2
        world.terminal = "y\n"
        done = world.run(*wish)
        assert "192.0.2.9 holds 10.1.9.0/24. It changes to 10.1.50.0/24 at the next" in done.err
        assert done.out.endswith("; on that host: systemctl restart flanneld docker\n")
        assert world.store.leases[IPv4Network("10.1.50.0/24")].has_no_host_yet
        assert world.store.leases[PEER].ttl == 70000
        document = world.run("reserve", "192.0.2.9", "10.1.51.0/24", "--yes", "--json").document
        assert document["moves_from"] == "10.1.9.0/24"
        assert IPv4Network("10.1.50.0/24") not in world.store.leases

    def test_without_a_network_config_there_is_nothing_to_reserve(self, world: World) -> None:
        world.store.configure(None)
        done = world.run("reserve", "192.0.2.50")
        assert (done.status, done.out) == (2, "")
        assert "there is no network config yet" in done.err


class TestRelease:
    def test_a_lease_is_released_after_a_yes(self, world: World) -> None:
        world.terminal = "y\n"
        done = world.run("release", str(PEER))
        assert (done.status, done.out) == (0, "released 10.1.9.0/24 of 192.0.2.9\n")
        assert "10.1.9.0/24 is held by 192.0.2.9, ends in 19 h 26 min." in done.err
        assert PEER not in world.store.leases

    @pytest.mark.parametrize("typed", ["n\n", "\n", "", "ja\n"])
    def test_anything_but_yes_is_a_no(self, world: World, typed: str) -> None:
        world.terminal = typed
        assert world.run("release", str(PEER)).status == 1
        assert PEER in world.store.leases

    def test_without_a_terminal_yes_must_be_on_the_command_line(self, world: World) -> None:
        done = world.run("release", str(PEER))
        assert done.status == 2
        assert "use --yes" in done.err
        assert world.run("release", str(PEER), "--yes", "--json").document == {
            "released": {"subnet": "10.1.9.0/24", "public_ip": "192.0.2.9", "backend": "vxlan",
                         "backend_data": {"VtepMAC": "02:00:00:00:00:09"}, "node_id": "it",
                         "ttl": 70000, "reservation": False}
        }  # fmt: skip
        assert PEER not in world.store.leases

    def test_the_question_is_not_part_of_the_document(self, world: World) -> None:
        world.terminal = "yes\n"
        assert world.run("release", str(PEER), "--json").document["released"]

    def test_a_reservation_is_called_one(self, world: World) -> None:
        world.store.put(PEER, world.peer.attrs, None)
        world.terminal = "n\n"
        assert "a reservation." in world.run("release", str(PEER)).err

    def test_a_subnet_that_nobody_holds_is_a_mistake(self, world: World) -> None:
        done = world.run("release", "10.1.8.0/24", "--yes")
        assert done.status == 2
        assert done.err == (
            "flannel: cannot release 10.1.8.0/24: nobody holds it; flannel leases lists them\n"
        )
