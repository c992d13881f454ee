"""flannel config get, check, set: documents that are read, judged and written."""

import io
import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from fake_context import CONFIG, OWN, World

from flannel.cli import config
from flannel.errors import BadNetworkConfig, StoreUnavailable
from flannel.lease import Lease, LeaseAttrs

OTHER = '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "VNI": 7}}'
DOWN = StoreUnavailable("cannot read /coreos.com/network/config: connection refused")


class TestGet:
    def test_the_document_is_printed_as_it_was_written(self, world: World) -> None:
        text = '{\n  "Network": "10.1.0.0/16"\n}'
        world.store.configure(text)
        done = world.run("config", "get")
        assert (done.status, done.out) == (0, f"{text}\n")
        document = world.run("config", "get", "--json").document
        assert document == {"config": text, "version": world.store.index}

    def test_the_key_is_named_where_there_is_no_config(self, world: World) -> None:
        world.store.configure(None)
        done = world.run("config", "get")
        assert (done.status, done.out) == (1, "")
        assert done.err == "there is no network config at /coreos.com/network/config\n"


class TestCheck:
    def test_a_change_is_shown_with_its_consequences(self, world: World) -> None:
        done = world.run("config", "check", OTHER.replace("vxlan", "host-gw"))
        assert done.status == 0
        assert done.lines == [
            "right",
            '  Backend.Type: "vxlan" -> "host-gw"',
            "  Backend.VNI: null -> 7",
            "  WARNING: Backend.VNI is unknown and has no effect",
            "  room for 255 hosts; 2 have a lease",
            "  2 of the leases are of another backend: those hosts change over, and are not "
            "reached by the others until both sides have",
        ]

    def test_a_smaller_range_names_the_leases_that_it_ends(self, world: World) -> None:
        world.lease(77)
        world.lease(78)
        small = '{"Network": "10.1.9.0/24", "SubnetLen": 26, "Backend": {"Type": "vxlan"}}'
        lines = world.run("config", "check", small).lines
        assert lines[0] == "right, but not for all hosts"
        assert "  NOT ENOUGH: some hosts would be left without a subnet" in lines
        assert "  no longer fits, gets another subnet: lease 10.1.9.0/24 of 192.0.2.9" in lines

    def test_addresses_of_this_host_in_the_range_are_named(self, world: World) -> None:
        done = world.run("config", "check", '{"Network": "192.0.0.0/16"}', "--json")
        document = done.document
        assert (done.status, document["valid"], document["fit"]) == (1, True, False)
        assert document["overlap"] == "address 192.0.2.1/24 of eth0"
        assert document["refused"] == ["10.1.5.0/24 of 192.0.2.1", "10.1.9.0/24 of 192.0.2.9"]

    def test_without_the_addresses_of_this_host_overlap_is_empty(self, world: World) -> None:
        world.netlink.refuses["list_links"] = 12
        done = world.run("config", "check", OTHER, "--json")
        assert (done.status, done.document["overlap"]) == (0, "")

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{", "it is not JSON"),
            ('{"Network": "10.1.0.0/33"}', "Network"),
            ('{"Network": "10.1.0.0/16", "Backend": {"Type": "warp"}}', "warp"),
        ],
    )
    def test_an_invalid_document_is_wrong_with_the_reason(
        self, world: World, text: str, why: str
    ) -> None:
        done = world.run("config", "check", text)
        assert done.status == 1
        assert done.out.startswith("wrong: ")
        assert why in done.out
        document = world.run("config", "check", text, "--json").document
        assert document["valid"] is False
        assert why in document["why"]

    def test_config_check_reads_the_document_in_the_store_by_default(self, world: World) -> None:
        assert world.run("config", "check").lines[:2] == ["right", "  no change"]
        world.store.configure('{"Network": "10.1.0.0/16", "SubnetLen": 99}')
        assert world.run("config", "check").status == 1
        world.store.configure(None)
        done = world.run("config", "check")
        assert (done.status, done.out) == (2, "")

    def test_a_document_that_replaces_one_of_no_use_is_all_new(self, world: World) -> None:
        world.store.configure("{")
        changes = world.run("config", "check", CONFIG, "--json").document["changes"]
        assert changes == [
            {"member": "Backend.Type", "before": None, "after": "vxlan"},
            {"member": "Network", "before": None, "after": "10.1.0.0/16"},
        ]

    def test_without_the_store_only_the_document_itself_is_judged(self, world: World) -> None:
        world.store.refusal = DOWN
        done = world.run("config", "check", OTHER)
        assert (done.status, done.out) == (0, f"right; {DOWN}\n")

    def test_a_file_or_standard_input_can_have_it(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "net.json"
        file.write_text(OTHER)
        assert world.run("config", "check", str(file)).status == 0
        world.terminal = OTHER
        assert world.run("config", "check", "-").lines[1] == "  Backend.VNI: null -> 7"
        file.write_bytes(b"\xff")
        done = world.run("config", "check", str(file))
        assert done.status == 2
        assert done.err.startswith(f"flannel: cannot read {file}: ")


class TestSet:
    def test_a_document_is_written_after_a_yes(self, world: World) -> None:
        world.terminal = "y\n"
        done = world.run("config", "set", OTHER)
        assert done.status == 1  # no host has followed
        shown = ["  Backend.VNI: null -> 7", "  room for 255 hosts; 2 have a lease", "written"]
        assert done.lines[:3] == shown
        assert "Write it?" in done.err
        assert json.loads(world.run("config", "get").out) == json.loads(OTHER)

    def test_a_yes_may_come_through_a_pipe(self, world: World) -> None:
        world.stdin = io.StringIO("y\n")
        assert world.run("config", "set", OTHER, "--no-wait").status == 0
        world.stdin = io.StringIO("")
        done = world.run("config", "set", CONFIG)
        assert (done.status, "this is no terminal; use --yes" in done.err) == (2, True)

    def test_the_hosts_that_have_not_followed_are_named(self, world: World) -> None:
        done = world.run("config", "set", OTHER, "--yes")
        assert done.status == 1
        assert done.lines[-3:] == [
            "0 of 2 hosts have followed",
            "  NOT FOLLOWED: the host of lease 10.1.5.0/24 of 192.0.2.1; see flannel status there",
            "  NOT FOLLOWED: the host of lease 10.1.9.0/24 of 192.0.2.9; see flannel status there",
        ]
        done = world.run("config", "set", CONFIG, "--yes", "--json", "--no-wait")
        assert (done.status, done.document["hosts"]) == (0, None)

    def test_a_network_that_is_not_for_this_host_is_written_and_status_1(
        self, world: World
    ) -> None:
        overlapping = '{"Network": "192.0.0.0/16"}'
        done = world.run("config", "set", overlapping, "--yes", "--no-wait")
        assert (done.status, done.lines[-1]) == (1, "written")

    def test_nothing_is_written_after_a_no(self, world: World) -> None:
        world.terminal = "n\n"
        assert world.run("config", "set", OTHER).status == 1
        assert world.run("config", "get").out == f"{CONFIG}\n"

    def test_nothing_is_written_that_is_there_already(self, world: World) -> None:
        index = world.store.index
        done = world.run("config", "set", f" {CONFIG}\n", "--yes", "--json")
        assert (done.status, done.document) == (0, {"written": False})
        assert world.store.index == index

    def test_nothing_is_written_that_a_host_would_refuse(self, world: World) -> None:
        done = world.run("config", "set", '{"Network": "10.1.0.0/99"}', "--yes")
        assert done.status == 2
        assert world.run("config", "get").out == f"{CONFIG}\n"

    def test_a_first_document_needs_none_before_it(self, world: World) -> None:
        world.store.configure(None)
        world.store.remove(OWN)
        done = world.run("config", "set", CONFIG, "--yes", "--json")
        assert done.document["written"] is True
        assert done.document["leases"] == 1

    def test_a_document_that_somebody_wrote_meanwhile_is_kept(self, world: World) -> None:
        class Meddler(io.StringIO):
            def isatty(self) -> bool:
                return True

            def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
                world.store.configure('{"Network": "10.9.0.0/16"}')
                return "y\n"

        world.stdin = Meddler()
        done = world.run("config", "set", OTHER)
        assert done.status == 1
        assert "changed meanwhile" in done.err
        assert world.run("config", "get").out == '{"Network": "10.9.0.0/16"}\n'


LEASE = Lease(IPv4Network("10.1.5.0/24"), LeaseAttrs(IPv4Address("192.0.2.11"), "vxlan"), 60)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"Network": "10.1.0.0/33"}',
        '{"Network": "10.1.0.0/16", "Backend": {"Type": "warp"}}',
        '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "VNI": "one"}}',
        '{"Network": "10.1.0.0/16", "Backend": {"Type": "udp", "Port": 70000}}',
    ],
)
def test_a_config_is_refused_as_a_host_would_refuse_it(text: str) -> None:
    with pytest.raises(BadNetworkConfig):
        config.validate(text)


def test_a_change_of_config_names_the_affected_hosts() -> None:
    before = '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}'
    after = '{"Network": "10.2.0.0/24", "SubnetLen": 26, "Backend": {"Type": "host-gw"}}'
    report = config.report(before, after, [LEASE])
    assert report["losing"] == ["10.1.5.0/24 of 192.0.2.11"]
    assert report["other_backend"] == ["10.1.5.0/24 of 192.0.2.11"]
    assert {each["member"] for each in report["changes"]} == {
        "Network",
        "SubnetLen",
        "Backend.Type",
    }
    assert config.report(before, before, [LEASE])["changes"] == []


def test_upper_and_lower_case_make_no_difference_of_a_config() -> None:
    before = '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}'
    after = '{"network": "10.1.0.0/16", "backend": {"type": "vxlan", "vni": 7}}'
    assert config.report(before, after, [])["changes"] == [
        {"member": "backend.vni", "before": None, "after": 7}
    ]
