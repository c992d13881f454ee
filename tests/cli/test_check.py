"""flannel check: what flanneld and the store report, and the command as a whole."""

from ipaddress import IPv4Interface, IPv4Network

import pytest
from fake_context import CONFIG, OWN, PEER, World, status_document

from flannel.cli.context import DaemonDown, DaemonUnseen
from flannel.cli.findings import KINDS
from flannel.errors import KernelError, StoreUnavailable
from flannel.handover.subnet_env import SubnetEnv


def findings(world: World) -> dict[str, str]:
    """What was found, by its kind."""
    return {
        each["finding"]: each["what"] for each in world.run("check", "--json").document["findings"]
    }


def test_a_healthy_host_has_no_findings(world: World) -> None:
    done = world.run("check")
    assert (done.status, done.out) == (0, "all is well\n")
    assert world.run("check", "--json").document == {"healthy": True, "findings": []}


def test_a_fault_is_a_line_with_its_reason_and_cure_and_status_1(world: World) -> None:
    world.set_sysctl("ip_forward", 0)
    done = world.run("check")
    assert done.status == 1
    kind = KINDS["ip-forward"]
    assert done.lines == [f"FAULT ip-forward: net.ipv4.ip_forward is 0; {kind.why} -> {kind.cure}"]
    document = world.run("check", "--json").document
    assert document == {
        "healthy": False,
        "findings": [{"finding": "ip-forward", "severity": "fault",
                      "what": "net.ipv4.ip_forward is 0", "why": kind.why, "cure": kind.cure}],
    }  # fmt: skip


def test_a_warning_alone_leaves_exit_status_0(world: World) -> None:
    world.daemon["conditions"] = {"guard": "no program of this host can make the guard"}
    done = world.run("check")
    assert done.status == 0
    assert done.out.startswith("WARNING unguarded: no program of this host can make the guard; ")


class TestFlanneld:
    def test_a_flanneld_that_is_down_is_a_fault(self, world: World) -> None:
        world.pages = DaemonDown("cannot ask flanneld: Connection refused")
        assert findings(world) == {"daemon-down": "cannot ask flanneld: Connection refused"}

    def test_a_daemon_that_only_root_may_ask_is_distinguished_from_a_dead_one(
        self, world: World
    ) -> None:
        world.pages = DaemonUnseen("cannot ask flanneld: Permission denied")
        assert findings(world) == {"daemon-unseen": "cannot ask flanneld: Permission denied"}

    def test_a_flanneld_that_is_not_ready_is_a_fault_with_its_reason(self, world: World) -> None:
        world.daemon.update(ready=False, unready="subnet.env: not there yet")
        assert findings(world) == {"not-ready": "subnet.env: not there yet"}

    @pytest.mark.parametrize(
        ("condition", "kind"),
        [("nft", "firewall"), ("iptables", "firewall"), ("sysctls", "firewall"),
         ("masquerade", "firewall"), ("guard", "unguarded"),
         ("resources", "resources"), ("state", "resources"), ("hand-over", "hand-over"),
         ("other-interface", "other-interface")],
    )  # fmt: skip
    def test_conditions_of_flanneld_are_findings(
        self, world: World, condition: str, kind: str
    ) -> None:
        world.daemon["conditions"] = {condition: "cannot do it: because"}
        assert findings(world) == {kind: "cannot do it: because"}

    @pytest.mark.parametrize(("renewal_in", "is_late"), [(-3700.0, True), (-60.0, False),
                                                         (None, False)])  # fmt: skip
    def test_a_lease_should_be_renewed_in_time(
        self, world: World, renewal_in: float | None, is_late: bool
    ) -> None:
        world.daemon["lease"]["renewal_in"] = renewal_in
        text = "lease 10.1.5.0/24 should be renewed since 1 h 1 min"
        assert findings(world) == ({"renewal-overdue": text} if is_late else {})

    def test_subnet_env_must_have_the_lease_s_subnet(self, world: World) -> None:
        env = SubnetEnv(IPv4Network("10.1.0.0/16"), IPv4Interface("10.1.6.1/24"), 1450, True)
        world.write_env(env)
        assert findings(world)["subnet-env"] == (
            f"{world.env_file} is 10.1.6.1/24, and the lease is 10.1.5.0/24"
        )
        world.env_file.unlink()
        assert findings(world)["subnet-env"].endswith("is missing, and the lease is 10.1.5.0/24")

    def test_the_rest_is_examined_while_flanneld_has_no_network_yet(self, world: World) -> None:
        world.pages = {"/status": {**status_document(None), "unready": "starting"}}
        assert findings(world)["not-ready"] == "starting"


class TestStore:
    def test_a_store_that_does_not_answer_is_a_fault_and_the_rest_is_examined(
        self, world: World
    ) -> None:
        world.store.refusal = StoreUnavailable("cannot list leases: refused")
        world.set_sysctl("ip_forward", 0)
        assert findings(world) == {
            "etcd-down": "cannot list leases: refused",
            "ip-forward": "net.ipv4.ip_forward is 0",
        }

    def test_a_network_config_must_be_there_and_of_use(self, world: World) -> None:
        world.store.configure(None)
        assert findings(world)["no-config"] == "there is none at /coreos.com/network/config"
        world.store.configure(CONFIG.replace("/16", "/99"))
        assert "10.1.0.0/99" in findings(world)["bad-config"]

    def test_without_flanneld_the_lease_must_be_in_the_store(self, world: World) -> None:
        world.pages = DaemonDown("refused")
        world.store.remove(OWN)
        assert findings(world)["no-lease"] == "etcd has none for 10.1.5.0/24"
        world.env_file.unlink()
        assert findings(world)["no-lease"] == "etcd has none for this host"

    def test_leases_that_share_an_address_are_named(self, world: World) -> None:
        lease = world.lease(77)
        world.store.put(PEER, lease.attrs, 3600)
        assert findings(world)["same-address"] == (
            "192.0.2.77 is in the leases 10.1.9.0/24, 10.1.77.0/24"
        )


def test_a_kernel_that_cannot_be_asked_is_a_finding_beside_the_others(world: World) -> None:
    world.no_kernel = KernelError("open a netlink socket", 1)
    world.pages = DaemonDown("refused")
    assert findings(world) == {
        "daemon-down": "refused",
        "unseen": "this host's network: cannot open a netlink socket: Operation not permitted",
    }


def test_findings_before_an_error_of_the_kernel_are_kept(world: World) -> None:
    world.set_sysctl("ip_forward", 0)
    world.netlink.refuses["find_way"] = 1
    assert findings(world).keys() == {"ip-forward", "unseen"}


def test_a_firewall_that_could_not_be_read_is_named(world: World) -> None:
    world.programs.install("nft")
    assert findings(world) == {"unseen": "cannot list the rules with nft: nft: refused"}
