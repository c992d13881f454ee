"""The listing of all rules of a host, and the names of those that cannot be read."""

import asyncio
from pathlib import Path

import pytest
from fake_programs import FakePrograms

from flannel.errors import FirewallError
from flannel.firewall import nfnetlink, tools
from flannel.firewall.listing import Listing, Saved, read_rules

FILTER = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
RULESET = '{"nftables": []}'
NFT = "nft -j list ruleset"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    monkeypatch.setattr(tools, "_LEGACY_TABLES", tmp_path / "ip_tables_names")
    monkeypatch.setattr(nfnetlink, "list_tables", set)
    return FakePrograms(tmp_path / "bin", monkeypatch)


def read() -> Listing:
    return asyncio.run(read_rules())


def test_each_kind_of_iptables_is_read_once_and_nft_beside_it(
    host: FakePrograms, tmp_path: Path
) -> None:
    (tmp_path / "ip_tables_names").write_text("filter\n")
    host.install_iptables("iptables", "legacy")
    host.install_iptables("iptables-legacy", "legacy")
    host.install_iptables("iptables-nft", "nf_tables", prints=FILTER)
    host.install("nft")
    host.prints |= {"iptables-save -t filter": FILTER, NFT: RULESET}
    assert read() == Listing(
        [Saved("iptables", True, FILTER), Saved("iptables-nft", False, FILTER)], RULESET, []
    )


def test_tables_that_both_iptables_and_nft_list_are_doubled() -> None:
    nat = FILTER.replace("filter", "nat")
    listing = Listing([Saved("iptables", True, FILTER), Saved("iptables-nft", False, nat)])
    assert listing.doubled == {"nat"}


def test_a_listing_that_fails_is_named_and_the_rest_is_read(host: FakePrograms) -> None:
    host.install_iptables("iptables", "nf_tables")
    host.install("nft")
    host.hangs.add("iptables-save")
    host.prints[NFT] = RULESET
    assert read() == Listing([], RULESET, ["cannot run iptables-save: it did not end within 30 s"])
    del host.prints[NFT]
    host.hangs.clear()
    listing = read()
    assert (listing.nft, listing.unread) == ("", ["cannot list the rules with nft: nft: refused"])
    host.hangs |= {NFT, "iptables --version"}
    assert [reason.partition(": ")[0] for reason in read().unread] == [
        "cannot run iptables",
        "cannot run nft",
    ]


def test_a_host_without_programs_and_without_rules_has_nothing_unread(host: FakePrograms) -> None:
    assert read() == Listing()


def test_tables_without_a_program_that_lists_them_are_unread(
    host: FakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {("ip", "filter"), ("ip", "mine"), ("inet", "firewalld"), ("ip6", "x"), ("arp", "y")}
    monkeypatch.setattr(nfnetlink, "list_tables", lambda: tables)
    no_nft = "nf_tables has rules in {}, and there is no nft to list them"
    assert read().unread == [no_nft.format("inet firewalld, ip filter, ip mine")]
    host.install_iptables("iptables", "nf_tables", prints=FILTER)
    (tmp_path / "ip_tables_names").write_text("nat\n")
    assert read().unread == [
        "tables of iptables-legacy are in use, and it is not installed: nat",
        no_nft.format("inet firewalld, ip mine"),
    ]


def test_tables_that_may_not_be_listed_are_unread(
    host: FakePrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> set[tuple[str, str]]:
        raise FirewallError("cannot list the tables of nf_tables: Operation not permitted")

    monkeypatch.setattr(nfnetlink, "list_tables", refuse)
    assert read().unread == ["cannot list the tables of nf_tables: Operation not permitted"]


def test_bytes_that_are_not_text_can_be_printed(host: FakePrograms) -> None:
    host.install_iptables("iptables", "nf_tables", prints='--comment "\udcff"')
    assert read().iptables[0].text == '--comment "\ufffd"'
