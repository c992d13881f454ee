"""Nftables: the output of nft is parsed; a fake program receives its input."""

import asyncio
import json
from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Any

import pytest

from flannel import programs
from flannel.errors import FirewallError
from flannel.firewall.nftables import Nftables, is_last_drop, parse
from flannel.firewall.peer_addresses import LEASES, PEERS, Element
from flannel.firewall.rules import Guard, Rules
from flannel.programs import Done

VXLAN = Guard("flannel.1", "eth0", port=8472, vni=1)
RULES = Rules(IPv4Network("10.1.0.0/16"), IPv4Network("10.1.5.0/24"), guard=VXLAN)
ELEMENTS = {Element(PEERS, "192.0.2.1"), Element(LEASES, "192.0.2.1 . 0xa010600")}


def printed(*objects: dict[str, Any]) -> bytes:
    """A document of ``nft -j``."""
    return json.dumps({"nftables": [{"metainfo": {"version": "1"}}, *objects]}).encode()


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        ([{"drop": None}], True),
        ([{"counter": {"packets": 1, "bytes": 9}}, {"log": None}, {"reject": None}], True),
        ([{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}], True),
        ([{"reject": {"type": "icmpv6", "expr": "no-route"}}], False),
        ([{"reject": {"type": "tcp reset"}}], False),
        ([{"match": {"left": 1, "op": "==", "right": 1}}, {"drop": None}], False),
        ([{"limit": {"rate": 1}}, {"drop": None}], False),
        ([{"accept": None}], False),
        ([], False),
        (["drop", None], False),
        (None, False),
    ],
)
def test_a_chain_ends_in_a_drop_if_its_last_rule_drops_every_packet(
    expressions: object, expected: bool
) -> None:
    assert is_last_drop(expressions) is expected


class TestParse:
    def listing(self, handle: int, packets: int, peers: list[Any], leases: list[Any]) -> bytes:
        return printed(
            {"table": {"name": "flannel", "handle": handle}},
            {"counter": {"name": "spoofed", "handle": 3, "packets": packets, "bytes": 9}},
            {"set": {"name": "peers", "handle": 4, "elem": peers}},
            {"set": {"name": "leases", "handle": 5, "elem": leases}},
            {"rule": {"chain": "input", "handle": handle + 1, "expr": [{"drop": None}]}},
        )

    def test_elements_and_counters_are_not_part_of_a_listings_content(self) -> None:
        one = parse(self.listing(2, 0, ["192.0.2.1"], []))
        other = parse(self.listing(9, 5, ["192.0.2.2"], [{"concat": ["192.0.2.2", 0x0A010600]}]))
        assert one.content == other.content
        assert one.elements == {Element(PEERS, "192.0.2.1")}
        assert other.elements == {
            Element(PEERS, "192.0.2.2"),
            Element(LEASES, "192.0.2.2 . 0xa010600"),
        }
        assert other.counters == {"spoofed": (5, 9)}

    @pytest.mark.parametrize(
        "element",
        [
            {"elem": {"val": "192.0.2.1", "timeout": 60}},
            {"prefix": {"addr": "192.0.2.0", "len": 24}},
            {"concat": ["192.0.2.1", "10.1.6.0"]},
            7,
        ],
    )
    def test_an_element_that_we_cannot_have_made_is_a_difference(self, element: Any) -> None:
        strange = parse(self.listing(2, 0, [element], []))
        assert strange.elements == set()
        assert strange.content != parse(self.listing(2, 0, [], [])).content

    def test_members_that_a_newer_nft_adds_are_ignored(self) -> None:
        new = {"flowtable": {"name": "f", "handle": 8}}, {"comment": None}, {"table": {"x": [1]}}
        assert parse(printed(*new)) == parse(printed(*new))

    def test_the_owner_of_a_table_is_seen(self) -> None:
        assert parse(printed({"table": {"name": "flannel", "flags": ["owner"]}})).owned
        assert parse(printed({"table": {"name": "flannel", "flags": "owner"}})).owned
        assert not parse(printed({"table": {"name": "flannel"}})).owned

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"nonsense",
            b"[]",
            b"7",
            b"{}",
            b'{"nftables": 7}',
            b'{"nftables": ["x"]}',
            b"[" * 100_000,
            b'{"nftables": [{"counter": {"name": "spoofed"}}]}',
            b'{"nftables": [{"counter": {"name": "spoofed", "packets": "x", "bytes": 1}}]}',
            b'{"nftables": [{"set": {"name": "peers", "elem": 7}}]}',
            b"\xff\xfe",
        ],
    )
    def test_garbage_is_an_error_with_a_reason(self, text: bytes) -> None:
        with pytest.raises(FirewallError, match=r"^cannot read what nft prints"):
            parse(text)


class FakeNft:
    """A fake nft with an empty ruleset: keeps its input, and refuses it if the test wants that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: Sequence[tuple[str, str]]) -> None:
        self.written: list[str] = []
        self._refuses = refuses
        monkeypatch.setattr(programs, "run", self._run)

    async def _run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109 # the signature of what it stands for
        stdin: bytes = b"",
    ) -> Done:
        if "list" in argv:
            return Done(0, printed(), b"")
        text = stdin.decode()
        for part, stderr in self._refuses:
            if part in text:
                return Done(1, b"", stderr.encode())
        self.written.append(text)
        return Done(0, b"", b"")


class TestOldNft:
    SYNTAX = "/dev/stdin:30:14-19: Error: syntax error, unexpected typeof, expecting type"
    KERNEL = "/dev/stdin:1:1-5: Error: Could not process rule: Cannot allocate memory"

    def ensure(self, nft: Nftables) -> None:
        asyncio.run(nft.ensure(RULES, ELEMENTS, ()))

    def test_an_nft_without_pairs_guards_by_addresses_and_that_is_logged(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        fake = FakeNft(monkeypatch, [("typeof", self.SYNTAX)])
        nft = Nftables("nft")
        self.ensure(nft)
        self.ensure(nft)
        assert all("elements = { 192.0.2.1 }" in text for text in fake.written)
        assert caplog.text.count("this nft has no sets of raw payload") == 1

    @pytest.mark.parametrize("refused", [("typeof", KERNEL), ("table", SYNTAX)])
    def test_another_error_is_not_taken_for_a_lack_of_pairs(
        self,
        refused: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake = FakeNft(monkeypatch, [refused])
        nft = Nftables("nft")
        with pytest.raises(FirewallError, match=r"^cannot write table ip flannel: "):
            self.ensure(nft)
        assert fake.written == []
        assert caplog.text == ""
        fake._refuses = []
        self.ensure(nft)
        assert "set leases { typeof" in fake.written[0]
