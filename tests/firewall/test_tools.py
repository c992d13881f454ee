"""Which iptables a host has, and how their rules are read and written."""

import asyncio
from pathlib import Path

import pytest
from fake_programs import FakePrograms

from flannel.errors import CannotRun, FirewallError
from flannel.firewall import tools
from flannel.firewall.tools import Iptables, find_iptables, legacy_tables, unlisted_legacy_tables

LEGACY = Iptables("iptables-legacy", "iptables v1.8.9 (legacy)", preferred=False)
NEWER = Iptables("iptables", "iptables v1.8.9 (nf_tables)", preferred=True)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    return FakePrograms(tmp_path / "bin", monkeypatch)


@pytest.fixture
def in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's list of the older iptables' tables; not there yet."""
    monkeypatch.setattr(tools, "_LEGACY_TABLES", tmp_path / "ip_tables_names")
    return tmp_path / "ip_tables_names"


def find() -> list[tuple[str, bool, bool]]:
    return [(each.name, each.legacy, each.preferred) for each in asyncio.run(find_iptables())]


class TestFind:
    def test_a_host_without_iptables_has_no_tools(self, host: FakePrograms) -> None:
        assert find() == []

    def test_two_names_of_one_kind_are_one_tool_with_the_preferred_name(
        self, host: FakePrograms
    ) -> None:
        host.install_iptables("iptables", "legacy")
        host.install_iptables("iptables-nft", "nf_tables")
        host.install_iptables("iptables-legacy", "legacy")
        assert find() == [("iptables", True, True), ("iptables-nft", False, False)]

    def test_without_the_plain_name_the_newer_kind_is_preferred(self, host: FakePrograms) -> None:
        host.install_iptables("iptables-legacy", "legacy")
        host.install_iptables("iptables-nft", "nf_tables")
        assert find() == [("iptables-nft", False, True), ("iptables-legacy", True, False)]

    def test_a_version_without_a_kind_is_the_older_kind(self, host: FakePrograms) -> None:
        host.install_iptables("iptables", "legacy")
        host.prints["iptables --version"] = "iptables v1.4.21\n"
        (only,) = asyncio.run(find_iptables())
        assert (only.legacy, only.version) == (True, (1, 4, 21))

    def test_a_program_that_does_not_start_is_an_error(self, host: FakePrograms) -> None:
        host.install("iptables")
        with pytest.raises(CannotRun, match=r"cannot run iptables --version: iptables: refused"):
            find()


class TestLegacyTables:
    def test_while_the_module_is_not_loaded_there_is_no_list(self, in_use: Path) -> None:
        assert legacy_tables() is None
        in_use.write_text("")
        assert legacy_tables() == []
        in_use.write_text("nat\nfilter\n")
        assert legacy_tables() == ["nat", "filter"]

    def test_a_list_that_may_not_be_read_is_an_error_and_not_empty(self, in_use: Path) -> None:
        in_use.mkdir()
        with pytest.raises(FirewallError, match="cannot list the tables of iptables-legacy: Is a"):
            legacy_tables()
        assert unlisted_legacy_tables([]) == [
            "cannot list the tables of iptables-legacy: Is a directory"
        ]

    def test_tables_in_use_that_no_program_lists_are_named(self, in_use: Path) -> None:
        assert unlisted_legacy_tables([NEWER]) == []
        in_use.write_text("nat\nfilter\n")
        assert unlisted_legacy_tables([NEWER]) == [
            "tables of iptables-legacy are in use, and it is not installed: nat, filter"
        ]
        assert unlisted_legacy_tables([NEWER, LEGACY]) == []


class TestSave:
    def test_all_tables_of_the_newer_kind_are_read_at_once(self, host: FakePrograms) -> None:
        host.prints["iptables-save"] = "*filter\nCOMMIT\n"
        assert asyncio.run(NEWER.save()) == "*filter\nCOMMIT\n"
        host.prints["iptables-save -t nat"] = "*nat\nCOMMIT\n"
        assert asyncio.run(NEWER.save(("nat",))) == "*nat\nCOMMIT\n"

    def test_only_tables_in_use_of_the_older_kind_are_read(
        self, host: FakePrograms, in_use: Path
    ) -> None:
        assert asyncio.run(LEGACY.save()) == asyncio.run(LEGACY.save(("filter",))) == ""
        in_use.write_text("raw\nfilter\n")
        for table in ("raw", "filter"):
            host.prints[f"iptables-legacy-save -t {table}"] = f"*{table}\nCOMMIT\n"
        assert asyncio.run(LEGACY.save()) == "*raw\nCOMMIT\n*filter\nCOMMIT\n"
        assert asyncio.run(LEGACY.save(("nat", "filter"))) == "*filter\nCOMMIT\n"

    def test_a_refusal_names_the_table_and_the_program(self, host: FakePrograms) -> None:
        with pytest.raises(FirewallError, match="cannot list the rules with iptables: iptables-s"):
            asyncio.run(NEWER.save())
        with pytest.raises(FirewallError, match="cannot list table nat with iptables: iptables-s"):
            asyncio.run(NEWER.save(("nat",)))

    def test_bytes_that_are_not_text_survive_save_and_restore(self, host: FakePrograms) -> None:
        host.prints["iptables-save"] = '-A FORWARD -m comment --comment "\udcff" -j X\n'
        saved = asyncio.run(NEWER.save())
        assert saved == host.prints["iptables-save"]
        with pytest.raises(FirewallError, match="cannot write rules with iptables: iptables-r"):
            asyncio.run(NEWER.restore("x"))
        assert host.ran[-1] == "iptables-restore --noflush -w 5"
