"""A missing, refusing, hanging or broken nft: run again at each look, and reported meanwhile."""

import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from firewalls import RULES, Peers, elements, keeping, only, ruleset, saved, until
from private_network import run

from flannel.conditions import Condition, Conditions
from flannel.firewall import nfnetlink
from flannel.firewall.keeper import Firewall
from flannel.firewall.nft_table import TABLE

FAILURES = {
    "refuses": ("echo 'netlink: Error: Operation not permitted' >&2; exit 1", "not permitted"),
    "has no memory": ("echo 'cache initialization failed: Cannot allocate memory' >&2; exit 1",
                      "Cannot allocate memory"),
    "prints rubbish": ("echo nonsense", "it begins with 'nonsense"),
    "prints nothing": ("exit 0", "it begins with ''"),
    "prints JSON of another kind": ("echo '{\"nftables\": [{\"chain\": {}}]}'", "of chains"),
    "is killed": ("kill -9 $$", "no reason given"),
    "hangs": ("sleep 100", "did not end within"),
}  # fmt: skip


class Nft:
    """An nft in a directory of its own, alone in $PATH, that works or does not."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._really = shutil.which("nft")
        self._sleep = shutil.which("sleep")
        self.path = directory / "nft"
        directory.mkdir()
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PATH", str(directory))

    def works(self) -> None:
        self._monkeypatch.setattr("flannel.firewall.nftables.TIMEOUT", 100.0)
        self._write(f'exec {self._really} "$@"')

    def fails(self, how: str) -> None:
        if "sleep" in how:  # on a busy machine any program may take a second
            self._monkeypatch.setattr("flannel.firewall.nftables.TIMEOUT", 1.0)
        self._write(how.replace("sleep", str(self._sleep)))

    def _write(self, script: str) -> None:
        new = self.path.with_name("new")
        new.write_text(f"#!/bin/sh\n{script}\n")
        new.chmod(0o755)
        new.rename(self.path)

    def table(self) -> str:
        done = subprocess.run(
            [str(self._really), "list", "table", "ip", TABLE], capture_output=True, text=True
        )
        return done.stdout


@pytest.fixture
def nft(network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nft:
    return Nft(tmp_path / "bin", monkeypatch)


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(logging.getLogger("conditions"))


class TestNft:
    @pytest.mark.parametrize("failure", FAILURES)
    def test_a_program_that_fails_is_run_again_and_is_a_condition_until_it_works(
        self, nft: Nft, conditions: Conditions, failure: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        how, reason = FAILURES[failure]
        nft.fails(how)

        async def repair(firewall: Firewall) -> None:
            assert not firewall.is_guarded
            assert firewall.failures >= 1
            assert reason in conditions.text(Condition.NFT)
            nft.works()
            await until(lambda: firewall.is_guarded)
            await until(lambda: conditions.document() == {})

        firewall = keeping(repair, conditions=conditions)
        assert firewall.repairs == 0
        assert "172.16.0.1" in nft.table()
        assert "masquerade" in nft.table()
        assert "there is no nft" not in caplog.text
        assert caplog.text.count(reason) == 1

    @pytest.mark.parametrize("failure", FAILURES)
    def test_a_failing_nft_keeps_out_new_peers_only_while_it_fails(
        self, nft: Nft, conditions: Conditions, failure: str
    ) -> None:
        nft.works()
        peers = Peers(2)

        async def disturb(firewall: Firewall) -> None:
            assert firewall.is_guarded
            # From now on nothing but the change of a peer makes it run nft.
            await until(lambda: firewall._generation == nfnetlink.generation())
            nft.fails(FAILURES[failure][0])
            firewall.peers_changed({peers.move(3, to=3)})
            await until(lambda: FAILURES[failure][1] in conditions.text(Condition.NFT))
            assert firewall.is_guarded  # nobody has seen that it is not
            assert await firewall.counters() == {}
            nft.works()
            await until(lambda: "172.16.0.3" in nft.table())
            await until(lambda: conditions.document() == {})

        firewall = keeping(disturb, peers=peers, conditions=conditions)
        if "exit 1" in FAILURES[failure][0]:  # others may have said that they had written
            assert firewall.repairs == 0

    def test_a_program_that_is_installed_later_is_used_and_one_that_is_removed_is_reported(
        self, nft: Nft, conditions: Conditions
    ) -> None:
        async def install(firewall: Firewall) -> None:
            assert "there is no nft in $PATH" in conditions.text(Condition.GUARD)
            assert conditions.text(Condition.MASQUERADE)
            nft.works()
            await until(lambda: firewall.is_guarded)
            await until(lambda: conditions.document() == {})
            nft.path.unlink()
            await until(lambda: not firewall.is_guarded)
            text = conditions.text(Condition.GUARD)
            assert text.endswith("of an earlier run is in force, and drops packets of hosts that "
                                 "join")  # fmt: skip
            nft.works()
            await until(lambda: firewall.is_guarded)

        assert keeping(install, conditions=conditions).repairs == 0

    def test_a_table_of_another_owner_is_named_and_replaced_when_that_one_ends(
        self, network: None, conditions: Conditions
    ) -> None:
        owner = subprocess.Popen(
            ["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert owner.stdin is not None
        owner.stdin.write(
            f"add table ip {TABLE} {{ flags owner; }}\n"
            f"add chain ip {TABLE} c {{ type filter hook input priority 0; }}\n"
        )
        owner.stdin.flush()

        async def end(firewall: Firewall) -> None:
            assert not firewall.is_guarded
            text = conditions.text(Condition.NFT)
            assert "another program owns it" in text or "not permitted" in text
            owner.communicate("quit\n")
            await until(lambda: firewall.is_guarded)
            await until(lambda: conditions.document() == {})

        try:
            while "chain c" not in ruleset():
                os.sched_yield()
            keeping(end, conditions=conditions)
        finally:
            owner.kill()
            owner.wait()
        assert elements() == {"172.16.0.1", "172.16.0.2"}


def test_iptables_replaces_an_nft_that_does_not_work(
    network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conditions: Conditions
) -> None:
    really = shutil.which("nft")
    path = Path(only(tmp_path / "bin", "iptables-nft"))
    (path / "nft").write_text("#!/bin/sh\nexit 1\n")
    (path / "nft").chmod(0o755)

    def both() -> str:
        return saved("iptables", "nat") + saved("iptables", "raw")

    async def stand_in(firewall: Firewall) -> None:
        assert not firewall.is_guarded
        assert "MASQUERADE" in both()
        assert "tx_injected" in both()
        (path / "nft").write_text(f'#!/bin/sh\nexec {really} "$@"\n')
        await until(lambda: firewall.is_guarded)
        await until(lambda: conditions.document() == {})
        await until(lambda: "FLANNEL" not in both())

    before = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(path))
    firewall = keeping(stand_in, RULES, conditions=conditions)
    monkeypatch.setenv("PATH", before)
    assert firewall.repairs == 0
    assert "tx_injected" in run("nft", "list", "table", "ip", TABLE)
