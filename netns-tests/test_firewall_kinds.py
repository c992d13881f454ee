"""Hosts with different firewall programs: flanneld, check, explain and cleanup see the same."""

import asyncio
import re
import shutil
from collections.abc import Mapping
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from firewalls import NETWORK, RULES, SUBNET, keeping, nothing
from flannel_command import flannel
from hosts import Host
from namespaces import wait_for
from overlays import VXLAN, start
from private_network import run
from typed_options import typed
from world import World

from flannel.cli import host_view
from flannel.cli.cleanup import cleanup
from flannel.cli.context import Context
from flannel.cli.rulesets.verdict import FORWARDED, Packet, Verdict, judge
from flannel.firewall.keeper import Rules
from flannel.firewall.removal import find_ours
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink


def _iptables(name: str, kind: str) -> dict[str, str]:
    return {f"{name}{end}": f"iptables-{kind}{end}" for end in ("", "-save", "-restore")}


NFT = {"nft": "nft"}
BOTH_NAMES = _iptables("iptables-nft", "nft") | _iptables("iptables-legacy", "legacy")
KINDS: dict[str, dict[str, str]] = {
    "iptables is the older one": _iptables("iptables", "legacy") | BOTH_NAMES | NFT,
    "iptables is the newer one": _iptables("iptables", "nft") | BOTH_NAMES | NFT,
    "iptables is the older one, alone": _iptables("iptables", "legacy"),
    "iptables is the newer one, alone": _iptables("iptables", "nft"),
    "nft alone": NFT,
}
PACKET = Packet(IPv4Address("10.1.5.2"), IPv4Address("10.1.9.2"), "docker0", "flannel.1")


def path(directory: Path, programs: Mapping[str, str]) -> str:
    """A directory for $PATH with these names, and what each of them is."""
    directory.mkdir()
    for name, target in programs.items():
        program = shutil.which(target)
        assert program is not None, target
        (directory / name).symlink_to(program)
    return str(directory)


async def look() -> host_view.Host:
    """What check and explain see of the host."""
    async with Netlink() as netlink:
        with RtNetlink() as tables:
            host = await host_view.Host.look(netlink, tables)
            await host.read_firewall()
    return host


async def forward_verdict() -> tuple[Verdict, list[str]]:
    """What check and explain think of a packet, and what they could not see."""
    host = await look()
    return judge(host.chains, FORWARDED, PACKET), host.unseen


def clean_up(tmp_path: Path) -> int:
    files = (f"-subnet-file={tmp_path / 'subnet.env'}", f"-state-dir={tmp_path / 'state'}")
    return asyncio.run(cleanup(Context(typed(*files), yes=True)))


def all_rules() -> list[str]:
    """Of both iptables: rules, chains of somebody, and policies that drop."""
    saved = [run(f"{tool}-save").splitlines() for tool in ("iptables-nft", "iptables-legacy")]
    return [line for each in saved for line in each if re.match(r"-A|:\S+ (-|DROP)", line)]


@pytest.mark.usefixtures("network")
class TestAHostsPrograms:
    @pytest.mark.parametrize("kind", KINDS)
    def test_cleanup_removes_what_flanneld_made_and_nothing_else(
        self,
        kind: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for tool in ("iptables-nft", "iptables-legacy"):  # the operator's, whoever runs them
            run(tool, "-N", "DOCKER-USER")
            run(tool, "-A", "FORWARD", "-j", "DOCKER-USER")
            run(tool, "-P", "FORWARD", "DROP")
        before = all_rules()
        with monkeypatch.context() as patch:
            patch.setenv("PATH", path(tmp_path / "bin", KINDS[kind]))
            keeping(nothing, Rules(NETWORK, SUBNET, masquerade=True, forward=True))
            made = len(asyncio.run(find_ours()).parts)
            assert clean_up(tmp_path) == 0
        assert made >= 1
        removed = capsys.readouterr().out
        assert "NOT removed" not in removed
        assert all_rules() == before
        assert "flannel" not in run("nft", "list", "tables")
        with monkeypatch.context() as patch:
            patch.setenv("PATH", str(tmp_path / "bin"))
            assert clean_up(tmp_path) == 0
        assert capsys.readouterr().out.startswith("there is nothing of ours on this host\n")

    @pytest.mark.parametrize("kind", ["nft alone", "iptables is the newer one, alone"])
    def test_explain_shows_whether_our_guard_checks_sources(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", path(tmp_path / "bin", KINDS[kind]))
        assert not asyncio.run(look()).drops_forged
        keeping(nothing, RULES)
        assert asyncio.run(look()).drops_forged
        keeping(nothing, Rules(NETWORK, SUBNET, masquerade=True, forward=True))
        assert not asyncio.run(look()).drops_forged

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dropping", ["iptables-nft", "iptables-legacy"])
    def test_explain_finds_a_drop_or_names_the_table_that_it_cannot_read(
        self, kind: str, dropping: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for tool in ("iptables-nft", "iptables-legacy"):
            run(tool, "-P", "FORWARD", "ACCEPT")
        run(dropping, "-A", "FORWARD", "-d", "10.1.0.0/16", "-j", "DROP")
        with monkeypatch.context() as patch:
            patch.setenv("PATH", path(tmp_path / "bin", KINDS[kind]))
            verdict, unseen = asyncio.run(forward_verdict())
        if (kind, dropping) == ("nft alone", "iptables-legacy"):
            assert unseen == [
                "tables of iptables-legacy are in use, and it is not installed: filter"
            ]
        elif (kind, dropping) == ("iptables is the older one, alone", "iptables-nft"):
            assert unseen == ["nf_tables has rules in ip filter, and there is no nft to list them"]
        elif (kind, dropping) == ("iptables is the newer one, alone", "iptables-legacy"):
            assert unseen == [
                "tables of iptables-legacy are in use, and it is not installed: filter"
            ]
        else:
            assert (verdict.outcome, verdict.sure) == ("drop", True), verdict
            assert "FORWARD" in verdict.by

    def test_tables_of_others_that_no_program_can_list_are_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("nft", "add table inet firewalld; add table ip6 other; add table arp third")
        programs = path(tmp_path / "bin", KINDS["iptables is the newer one, alone"])
        monkeypatch.setenv("PATH", programs)
        _, unseen = asyncio.run(forward_verdict())
        assert unseen == ["nf_tables has rules in inet firewalld, and there is no nft to list them"]

    def test_a_table_of_ours_that_cannot_be_removed_is_named_and_the_rest_is_removed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("nft", "add table ip flannel")
        keeping(nothing, Rules(NETWORK, SUBNET, forward=True))
        run("nft", "add table ip flannel")
        (tmp_path / "subnet.env").touch()
        programs = path(tmp_path / "bin", KINDS["iptables is the newer one, alone"])
        with monkeypatch.context() as patch:
            patch.setenv("PATH", programs)
            assert clean_up(tmp_path) == 1
        assert "NOT removed:\n  cannot remove nftables table ip flannel: there is no nft\n" in (
            capsys.readouterr().out
        )
        assert all_rules() == []
        assert not (tmp_path / "subnet.env").exists()

    def test_chains_to_which_others_jump_are_removed_with_their_jumps(self, tmp_path: Path) -> None:
        keeping(nothing, Rules(NETWORK, SUBNET, forward=True))
        run("iptables", "-N", "MINE")
        run("iptables", "-A", "MINE", "-g", "FLANNEL-FWD")
        run("iptables", "-A", "MINE", "-j", "ACCEPT")
        assert clean_up(tmp_path) == 0
        saved = run("iptables-save")
        assert "FLANNEL" not in saved
        assert "-A MINE -j ACCEPT" in saved


def has_our_chain(host: Host, tool: str) -> bool:
    return "-j FLANNEL-FWD" in host.run(f"{tool}-save")


def test_a_whole_host_whose_iptables_is_the_older_one(world: World, tmp_path: Path) -> None:
    """Which has rules of the newer kind as well."""
    older = path(tmp_path / "bin", KINDS["iptables is the older one"])
    one, other = start(world, VXLAN, 2)
    programs = f"PATH={older}:/usr/bin:/bin"
    within = ("env", programs)
    one.run("iptables-nft", "-P", "FORWARD", "DROP")
    one.daemon.stop()
    one.start_flanneld("-iface=eth0", "-iptables-forward-rules=false",
                       env={"PATH": programs.removeprefix("PATH=")}).wait_ready()  # fmt: skip
    explained = flannel(one, "explain", str(other.subnet[2]), within=within)
    assert "dropped by policy drop of iptables-nft filter FORWARD" in explained.stdout
    assert explained.returncode == 1

    def is_found() -> bool:
        checked = flannel(one, "check", within=within).stdout
        return "FAULT forward-drop: policy drop of iptables-nft filter FORWARD drops" in checked

    wait_for(is_found, 30, "the policy of iptables-nft to be found")
    one.daemon.stop()
    one.start_flanneld("-iface=eth0", env={"PATH": programs.removeprefix("PATH=")}).wait_ready()
    for tool in ("iptables-nft", "iptables-legacy"):
        wait_for(partial(has_our_chain, one, tool), 30, f"our chain in {tool}")
    assert flannel(one, "explain", str(other.subnet[2]), within=within).returncode == 0
    one.daemon.stop()
    done = flannel(one, "cleanup", "--yes", within=within)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "iptables chains FLANNEL-FWD" in done.stdout
    assert "iptables-nft chains FLANNEL-FWD" in done.stdout
    assert "FLANNEL" not in one.run("iptables-nft-save") + one.run("iptables-legacy-save")
    assert ":FORWARD DROP" in one.run("iptables-nft-save")
