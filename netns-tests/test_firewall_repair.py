"""The firewall kept: changes by others are reverted, peers join and leave."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from firewalls import (
    RULES,
    Peers,
    elements,
    has_peer,
    keeping,
    listing,
    reaches_us,
    until,
)
from private_network import ip, run

from flannel import programs
from flannel.firewall import nfnetlink
from flannel.firewall.keeper import Firewall, Rules
from flannel.firewall.nfnetlink import generation
from flannel.firewall.nft_table import TABLE
from flannel.kernel import sysctls


@pytest.mark.usefixtures("network")
class TestRepair:
    @pytest.mark.parametrize(
        "harm",
        [
            "nft flush ruleset",
            f"nft delete table ip {TABLE}",
            f"nft flush chain ip {TABLE} input",
            f"nft add rule ip {TABLE} input accept",
            f"nft insert rule ip {TABLE} postrouting accept",
            f"nft add element ip {TABLE} peers {{ 192.0.2.66 }}",
            f"nft flush set ip {TABLE} peers",
            "iptables -F",
            "iptables -D FORWARD 1",
            "iptables -I FLANNEL-FWD -j DROP",
            "iptables -I FORWARD -j REJECT",
        ],
    )
    def test_changes_of_rules_by_others_are_reverted(
        self, harm: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def damage(firewall: Firewall) -> None:
            before = listing()
            run(*harm.split())
            assert listing() != before
            if "REJECT" in harm:  # somebody's last word, and not ours to remove
                await until(reaches_us)
            else:
                await until(lambda: listing() == before)
            await until(lambda: firewall.repairs > 0)

        keeping(damage)
        assert 1 <= caplog.text.count("repaired the firewall") <= 2  # nft and iptables

    def test_repeated_changes_of_rules_are_logged_once_and_counted(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def damage(firewall: Firewall) -> None:
            for n in (1, 2):
                run("nft", "delete", "table", "ip", TABLE)
                await until(lambda: firewall.repairs == n)  # noqa: B023 - awaited in its turn

        keeping(damage)
        assert caplog.text.count("repaired the firewall: table ip flannel was gone") == 1

    @pytest.mark.parametrize("rules", [RULES, replace(RULES, guard=None)], ids=["all", "unguarded"])
    def test_no_program_is_run_while_nothing_changes(
        self, rules: Rules, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        looks = 0
        ran: list[Sequence[str]] = []

        def look() -> bytes | None:
            nonlocal looks
            looks += 1
            return generation()

        really = programs.run

        async def spy(argv: Sequence[str], **options: Any) -> Any:
            if looks > 2:  # what the first one has written is looked at once more
                ran.append(argv)
            return await really(argv, **options)

        monkeypatch.setattr(nfnetlink, "generation", look)
        monkeypatch.setattr(programs, "run", spy)

        async def wait(_: Firewall) -> None:
            await until(lambda: looks > 6)

        keeping(wait, rules)
        assert [argv for argv in ran if "legacy" not in argv[0]] == []
        assert caplog.text == ""

    def test_the_generation_changes_with_nftables_only(self) -> None:
        first = generation()
        assert first is not None
        assert generation() == first
        run("iptables-legacy", "-P", "FORWARD", "DROP")
        assert generation() == first
        run("iptables-nft", "-A", "FORWARD", "-j", "ACCEPT")
        second = generation()
        run("nft", "add", "table", "ip", "other")
        assert len({first, second, generation()}) == 3

    def test_peers_that_join_or_leave_change_elements_only(self) -> None:
        peers = Peers(10_000)

        async def change(firewall: Firewall) -> None:
            handles = run("nft", "-a", "list", "chain", "ip", TABLE, "input")
            firewall.peers_changed({peers.move(1, to=20_000)})
            await until(lambda: has_peer(20_000))
            # They are the rules that were: those of a table made anew have other handles.
            assert run("nft", "-a", "list", "chain", "ip", TABLE, "input") == handles

        assert keeping(change, peers=peers).repairs == 0
        assert elements() == peers.addresses

    def test_no_change_of_peers_is_lost(self) -> None:
        peers = Peers(3)

        async def change(firewall: Firewall) -> None:
            for n in range(4, 40):  # some of them at the moment of a look
                firewall.peers_changed({peers.move(n, to=n), peers.move(1, to=n + 100)})
                await until(lambda: has_peer(n) and has_peer(n + 100))  # noqa: B023 - as above

        assert keeping(change, peers=peers).repairs == 0
        assert elements() == peers.addresses

    def test_many_changes_take_few_calls_of_nft(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While leases change all the time, nft runs for a tenth of it."""
        peers = Peers(10)
        calls: list[tuple[float, float]] = []
        really = programs.run

        async def spy(argv: Sequence[str], **options: Any) -> Any:
            began = monotonic()
            done = await really(argv, **options)
            calls.append((began, monotonic()))
            return done

        async def change(firewall: Firewall) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(programs, "run", spy)
                for n in count():
                    firewall.peers_changed({peers.move(1 + n % 10, to=100 + n)})
                    await asyncio.sleep(0.001)
                    if len(calls) > 5:
                        break
            await until(lambda: has_peer(100 + n))

        # No look at all of it comes in between.
        assert keeping(change, peers=peers, resync=600).repairs == 0
        assert elements() == peers.addresses
        for (began, ended), (after, _) in pairwise(calls):
            assert after - ended >= min(9 * (ended - began), 1) - 0.001

    def test_sysctls_of_the_device_are_set_and_restored(self) -> None:
        ip("link add flannel.1 type vxlan id 1 dstport 8472")
        path = Path("/proc/thread-self/root/proc/sys/net/ipv4/conf/flannel.1")
        for name, value in (("rp_filter", "0"), ("accept_redirects", "1"), ("send_redirects", "1")):
            (path / name).write_text(value)

        async def disturb(firewall: Firewall) -> None:
            assert sysctls.ensure("flannel.1") == []
            assert (path / "rp_filter").read_text() == "1\n"
            (path / "rp_filter").write_text("0")
            await until(lambda: firewall.repairs == 1)
            assert (path / "rp_filter").read_text() == "1\n"

        keeping(disturb, device="flannel.1")
