"""The firewall on the real kernel, by nft and by both iptables.

The rules that are made, and that only ours are touched.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest
from firewalls import (
    GUARD,
    IPTABLES,
    NETWORK,
    RULES,
    SUBNET,
    elements,
    keeping,
    listing,
    nothing,
    only,
    restore,
    ruleset,
    saved,
    until,
)
from private_network import run

from flannel.firewall.keeper import Firewall, Rules
from flannel.firewall.nft_table import TABLE, counter_names


@pytest.mark.usefixtures("network")
class TestRules:
    def test_nft_alone_holds_masquerade_and_guard(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", only(tmp_path / "bin", "nft"))
            firewall = keeping(nothing)
        assert firewall.is_guarded
        assert firewall.repairs == 0
        assert re.findall(r"^table (.*) {", ruleset(), re.MULTILINE) == [f"ip {TABLE}"]
        assert elements() == {"172.16.0.1", "172.16.0.2"}

    @IPTABLES
    def test_iptables_alone_masquerades_and_reports_the_missing_guard(
        self,
        iptables: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", only(tmp_path / "bin", iptables))
            firewall = keeping(nothing)
        assert not firewall.is_guarded
        assert caplog.text.count("cannot guard UDP port 8472: there is no nft") == 1
        assert "-A FORWARD -m comment" in saved(iptables, "filter")
        nat = saved(iptables, "nat")
        assert nat.count("FLANNEL-POSTRTG") == 7  # declared, jumped to, 5 rules
        assert TABLE not in re.findall(r"^table ip (\S+)", ruleset(), re.MULTILINE)

    def test_the_older_iptables_is_left_alone_until_its_module_is_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        names = Path("/proc/thread-self/net/ip_tables_names")
        monkeypatch.setattr("flannel.firewall.tools._LEGACY_TABLES", tmp_path / "names")
        monkeypatch.setenv("PATH", only(tmp_path / "bin", "iptables-legacy"))

        def in_use() -> list[str]:
            return names.read_text().split()

        async def load(firewall: Firewall) -> None:
            assert (firewall.repairs, in_use()) == (0, [])
            (tmp_path / "names").symlink_to(names)
            await until(lambda: "filter" in in_use())

        keeping(load, Rules(NETWORK, SUBNET, forward=True))
        assert "cannot masquerade" not in caplog.text
        (tmp_path / "names").unlink()
        keeping(nothing, RULES)
        said = "the kernel module ip_tables is not loaded, and flanneld may not load it; trying"
        assert caplog.text.count(said) == 1

    def test_without_nft_and_iptables_that_is_reported_and_flanneld_runs_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", str(tmp_path))
            keeping(nothing)
        assert "cannot masquerade: there is neither nft nor iptables in $PATH" in caplog.text

    def test_rules_that_are_no_longer_wanted_are_removed(self) -> None:
        empty = ruleset()
        keeping(nothing)
        assert ruleset() != empty
        keeping(nothing, Rules(NETWORK, SUBNET))
        assert "flannel" not in ruleset().lower()

    def test_a_firewall_made_again_is_the_same_and_counts_on(self) -> None:
        keeping(nothing)
        before = listing()
        run("nft", "add", "table", "ip", TABLE)
        text = run("nft", "list", "table", "ip", TABLE)
        counted = re.sub(r"(counter spoofed {\s+)packets 0 bytes 0", r"\1packets 7 bytes 490", text)
        assert counted != text
        replace = f"delete table ip {TABLE}\n{counted}"
        subprocess.run(["nft", "-f", "-"], input=replace, text=True, check=True)

        async def look(firewall: Firewall) -> None:
            assert (await firewall.counters())["spoofed"] == (7, 490)
            assert set(await firewall.counters()) == set(counter_names(GUARD))

        assert keeping(look).repairs == 0
        assert listing() == before

    def test_forwarding_is_accepted_in_each_iptables_that_forbids_it(self) -> None:
        run("iptables-legacy", "-P", "FORWARD", "DROP")
        keeping(nothing)
        for iptables in ("iptables-nft", "iptables-legacy"):
            assert "-j FLANNEL-FWD" in saved(iptables, "filter")
        run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
        keeping(nothing)
        assert "FLANNEL" not in saved("iptables-legacy", "filter")

    def test_a_table_that_no_other_can_overrule_is_named(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        text = FOREIGN_NFT.replace("policy accept", "policy drop")
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        keeping(nothing)
        assert caplog.text.count("chain forward of table inet filter drops what it does not") == 1
        assert "accept ip saddr 10.1.0.0/16 and ip daddr 10.1.0.0/16 itself" in caplog.text

    def test_one_whose_last_rule_rejects_is_named_like_one_with_that_policy(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As firewalld's."""
        rules = "ct state invalid drop; counter reject with icmpx type admin-prohibited"
        text = FOREIGN_NFT.replace("ct state invalid drop", rules)
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        keeping(nothing)
        assert caplog.text.count("chain forward of table inet filter drops what it does not") == 1


FOREIGN_NFT = """
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state invalid drop;
    }
    set flannel { type ipv4_addr; elements = { 192.0.2.7 } }
}
table ip other {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr 10.9.0.0/16 masquerade;
    }
}
"""
FOREIGN_TABLES = {("inet", "filter"), ("ip", "other")}
FOREIGN_IPTABLES = """*filter
:DOCKER-USER - [0:0]
:DOCKER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 -m comment --comment "ours, not \\"flanneld forward\\"" -j ACCEPT
-A FORWARD -s 10.9.0.0/16 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.9.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
"""


@pytest.mark.usefixtures("network")
class TestOthersRules:
    @IPTABLES
    def test_rules_of_other_programs_are_unchanged(self, iptables: str) -> None:
        def without_ours(text: str) -> str:
            return "".join(line for line in text.splitlines(True) if "FLANNEL" not in line)

        def others() -> tuple[str, ...]:
            listing = run("nft", "-j", "-s", "list", "ruleset")
            objects = [
                json.dumps(each)
                for each in json.loads(listing)["nftables"]
                for body in each.values()
                if (body.get("family"), body.get("table") or body.get("name")) in FOREIGN_TABLES
            ]
            tables = ("filter", "nat")
            return (*objects, *(without_ours(saved(iptables, table)) for table in tables))

        subprocess.run(["nft", "-f", "-"], input=FOREIGN_NFT, text=True, check=True)
        restore(iptables, FOREIGN_IPTABLES)
        run(iptables, "-P", "FORWARD", "DROP")
        before = others()

        async def disturb(firewall: Firewall) -> None:
            assert others() == before
            run("nft", "delete", "table", "ip", TABLE)
            run(iptables, "-F", "FLANNEL-FWD")
            await until(lambda: firewall.repairs == 2)
            await until(lambda: "172.16.0.1" in ruleset())

        keeping(disturb)
        assert others() == before
        forward = re.findall("^-A FORWARD .*-j (.*)", saved(iptables, "filter"), re.MULTILINE)
        assert forward == ["DOCKER-USER", "FLANNEL-FWD", "DOCKER", "ACCEPT", "ACCEPT"]
        keeping(nothing, Rules(NETWORK, SUBNET))
        assert others() == before
        assert "FLANNEL" not in saved(iptables, "filter") + saved(iptables, "nat")

    @IPTABLES
    def test_rules_of_earlier_flannels_are_replaced(self, iptables: str) -> None:
        restore(iptables, FOREIGN_IPTABLES)
        before = saved(iptables, "filter"), saved(iptables, "nat")
        n, comment = NETWORK, '-m comment --comment "flanneld masq"'
        old = f"""*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -s {n} -j ACCEPT
-A FORWARD -d {n} -j ACCEPT
-A FORWARD -s {n} -m comment --comment "flanneld forward" -j ACCEPT
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.8.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
*nat
:FLANNEL - [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -s {n} -j FLANNEL
-A POSTROUTING -s {n} -d {n} {comment} -j RETURN
-A POSTROUTING -s {n} ! -d 224.0.0.0/4 {comment} -j MASQUERADE --random-fully
-A POSTROUTING ! -s {n} -d 10.1.7.0/24 -j RETURN
-A POSTROUTING ! -s {n} -d {n} -j MASQUERADE
-A POSTROUTING {comment} -j FLANNEL-POSTRTG
-A FLANNEL -d {n} -j ACCEPT
-A FLANNEL ! -d 224.0.0.0/4 -j MASQUERADE
-A FLANNEL-POSTRTG -s {n} ! -d 224.0.0.0/4 {comment} -j MASQUERADE
COMMIT
"""
        restore(iptables, old, "--noflush")
        for family, table in (("ip", "flannel-ipv4"), ("ip6", "flannel-ipv6")):
            chain = "chain postrtg { type nat hook postrouting priority srcnat; }"
            text = f"table {family} {table} {{\n{chain}\n}}"
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        keeping(nothing)
        assert "flannel-ipv" not in ruleset()
        assert saved(iptables, "nat") == before[1]
        lines = saved(iptables, "filter").splitlines()
        assert [line for line in lines if "FLANNEL" not in line] == before[0].splitlines()
        assert len([line for line in lines if "FLANNEL" in line]) == 4
        assert "10.8.0.0" not in "".join(lines)
