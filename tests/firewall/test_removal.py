"""Our part of a host's firewall, and its removal."""

import asyncio
from pathlib import Path

import pytest
from fake_programs import FakePrograms

from flannel.errors import FirewallError
from flannel.firewall import nfnetlink, tools
from flannel.firewall.iptables import removal
from flannel.firewall.removal import Ours, find_ours

SAVED = (
    "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"
    "*filter\n:FORWARD DROP [0:0]\n:FLANNEL-FWD - [0:0]\n:DOCKER - [0:0]\n"
    '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD\n'
    "-A FORWARD -j DOCKER\n-A FLANNEL-FWD -s 10.1.0.0/16 -j ACCEPT\nCOMMIT\n"
)
REMOVAL = (
    '*filter\n-D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD\n'
    "-F FLANNEL-FWD\n-X FLANNEL-FWD\nCOMMIT\n"
)


def filter_of(text: str) -> str:
    return text[text.index("*filter") :]


class TestIptables:
    def test_only_our_chains_are_removed(self) -> None:
        assert removal(SAVED) == REMOVAL
        assert removal(SAVED.replace("FLANNEL-FWD", "OTHER")) == ""

    def test_the_chains_of_all_flannels_are_ours(self) -> None:
        nat = "*nat\n:FLANNEL - [0:0]\n:FLANNEL-POSTRTG - [0:0]\n-A POSTROUTING -j FLANNEL\n"
        assert removal(f"{nat}-A POSTROUTING -j FLANNEL-POSTRTG\nCOMMIT\n").splitlines() == [
            "*nat", "-D POSTROUTING -j FLANNEL", "-F FLANNEL", "-X FLANNEL",
            "-D POSTROUTING -j FLANNEL-POSTRTG", "-F FLANNEL-POSTRTG", "-X FLANNEL-POSTRTG",
            "COMMIT",
        ]  # fmt: skip

    def test_jumps_from_other_chains_are_removed_too(self) -> None:
        lines = removal(
            SAVED.replace("-A FORWARD -j DOCKER\n", "-A DOCKER -s 10.1.0.0/16 -g FLANNEL-FWD\n")
        ).splitlines()
        assert lines[2] == "-D DOCKER -s 10.1.0.0/16 -g FLANNEL-FWD"

    def test_a_chain_of_our_name_in_another_table_is_not_ours(self) -> None:
        assert removal("*mangle\n:FLANNEL-FWD - [0:0]\nCOMMIT\n") == ""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    monkeypatch.setattr(tools, "_LEGACY_TABLES", tmp_path / "ip_tables_names")
    tables = {("ip", "flannel"), ("ip", "flannel-ipv4"), ("ip6", "flannel"), ("inet", "mine")}
    monkeypatch.setattr(nfnetlink, "list_tables", lambda: tables)
    host = FakePrograms(tmp_path / "bin", monkeypatch)
    host.install_iptables("iptables", "nf_tables")
    host.prints["iptables-save -t filter"] = filter_of(SAVED)
    for table in ("nat", "mangle", "raw"):
        host.prints[f"iptables-save -t {table}"] = ""
    return host


def find() -> Ours:
    return asyncio.run(find_ours())


async def remove_all(ours: Ours) -> None:
    for part in ours.parts:
        await part.remove()


def test_table_and_chains_are_found_and_removed(host: FakePrograms) -> None:
    host.install("nft")
    host.prints |= {"nft delete table ip flannel": "", "iptables-restore --noflush -w 5": ""}
    ours = find()
    assert [each.what for each in ours.parts] == [
        "nftables table ip flannel",
        "iptables chains FLANNEL-FWD",
    ]
    assert ours.unread == ours.foreign == []
    asyncio.run(remove_all(ours))
    assert host.ran[-2:] == ["nft delete table ip flannel", "iptables-restore --noflush -w 5"]
    assert host.stdin[-1] == REMOVAL


def test_without_nft_or_if_nft_refuses_the_table_is_not_removed(host: FakePrograms) -> None:
    table = find().parts[0]
    with pytest.raises(FirewallError, match="cannot remove nftables table ip flannel: there is no"):
        asyncio.run(table.remove())
    host.install("nft")
    with pytest.raises(FirewallError, match="cannot remove nftables table ip flannel: nft: ref"):
        asyncio.run(table.remove())


def test_a_ruleset_that_cannot_be_read_is_named(
    host: FakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> set[tuple[str, str]]:
        raise FirewallError("cannot list the tables of nf_tables: Operation not permitted")

    monkeypatch.setattr(nfnetlink, "list_tables", refuse)
    del host.prints["iptables-save -t nat"]
    (tmp_path / "ip_tables_names").write_text("nat\n")
    assert find() == Ours(
        [],
        ["cannot list the tables of nf_tables: Operation not permitted",
         "cannot list table nat with iptables: iptables-save: refused"],
        ["tables of iptables-legacy are in use, and it is not installed: nat"],
    )  # fmt: skip
    host.hangs.add("iptables --version")
    assert find().unread[1] == "cannot run iptables: it did not end within 30 s"
