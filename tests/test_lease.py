"""Keys and values of leases, as CoreOS flannel writes them, and the table of them."""

import contextlib
import json
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flannel.lease
from flannel.errors import BadLease
from flannel.lease import (
    Lease,
    LeaseAdded,
    LeaseAttrs,
    LeaseRemoved,
    LeaseTable,
    parse_subnet_key,
    subnet_key,
)

MAC = "be:0b:51:3e:a5:a3"

# Recorded from upstream v0.13 and from the documents of its newest version.
RECORDED = [
    (
        '{"PublicIP":"10.9.0.1","BackendType":"vxlan","BackendData":{"VtepMAC":"%s"}}' % MAC,  # noqa: UP031 - braces are JSON's here
        LeaseAttrs(IPv4Address("10.9.0.1"), "vxlan", {"VtepMAC": MAC}),
    ),
    (
        '{"PublicIP":"10.9.0.1","BackendType":"host-gw"}',
        LeaseAttrs(IPv4Address("10.9.0.1"), "host-gw"),
    ),
    ('{"PublicIP":"10.9.0.1"}', LeaseAttrs(IPv4Address("10.9.0.1"))),
]


@pytest.mark.parametrize(("text", "attrs"), RECORDED)
def test_values_are_written_byte_for_byte_as_upstream_writes_them(
    text: str, attrs: LeaseAttrs
) -> None:
    assert attrs.to_json() == text


@pytest.mark.parametrize(("text", "attrs"), RECORDED)
def test_values_of_upstream_are_read(text: str, attrs: LeaseAttrs) -> None:
    assert LeaseAttrs.from_json(text) == attrs


@pytest.mark.parametrize(
    ("text", "attrs"),
    [
        (
            '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",'
            '"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}',
            LeaseAttrs(
                IPv4Address("192.168.64.3"), "vxlan", {"VNI": 1, "VtepMAC": "c6:d2:32:6f:8f:44"}
            ),
        ),
        ('{ "publicip" : "10.0.0.1" }', LeaseAttrs(IPv4Address("10.0.0.1"))),
        (
            '{"Node":"x","BACKENDTYPE":"host-gw","PublicIP":"10.0.0.1"}',
            LeaseAttrs(IPv4Address("10.0.0.1"), "host-gw"),
        ),
        ('{"PublicIP":"10.0.0.1","BackendType":null}', LeaseAttrs(IPv4Address("10.0.0.1"))),
        ('{"PublicIP":"10.0.0.1","PublicIP":"10.0.0.2"}', LeaseAttrs(IPv4Address("10.0.0.2"))),
    ],
)
def test_values_in_other_spellings_are_read_as_go_reads_them(text: str, attrs: LeaseAttrs) -> None:
    assert LeaseAttrs.from_json(text) == attrs


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("null", "null, not an object"),
        ("[]", "[], not an object"),
        ("7", "7, not an object"),
        ("\0", "not JSON"),
        ("[" * 50_000, "nested too deeply"),
        ('{"a":' * 12_000, "nested too deeply"),
        # Decoded without trouble, it is too deep for what is done with a lease then.
        ('{"PublicIP":"10.0.0.1","x":' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
        ('{"PublicIP":"10.0.0.1","x":' + '[{"a":' * 10 + "7" + "}]" * 10 + "}", "too deeply"),
        ('{"PublicIP":"10.0.0.1","x":"' + "y" * 1_000_000 + '"}', "more than 65536"),
        ("{}", "PublicIP is null"),
        ('{"PublicIP":167772161}', "PublicIP is 167772161"),
        ('{"PublicIP":null}', "PublicIP is null"),
        ('{"PublicIP":["10.0.0.1"]}', 'PublicIP is ["10.0.0.1"]'),
        ('{"PublicIP":""}', 'PublicIP is ""'),
        ('{"PublicIP":"10.0.0.1', "not JSON"),
        ('{"PublicIP":"fe80::1"}', 'PublicIP is "fe80::1"'),
        ('{"PublicIP":"10.0.0.1/24"}', "not an IPv4 address"),
        ('{"PublicIP":"010.0.0.1"}', "not an IPv4 address"),
        ('{"PublicIP":"0.0.0.0"}', "not the address of a host"),
        ('{"PublicIP":"127.0.0.1"}', "not the address of a host"),
        ('{"PublicIP":"224.0.0.5"}', "not the address of a host"),
        ('{"PublicIP":"255.255.255.255"}', "not the address of a host"),
        ('{"PublicIP":"10.0.0.1","BackendType":5}', "BackendType is 5"),
        ('{"PublicIP":"10.0.0.1","BackendData":NaN}', "not JSON"),
    ],
)
def test_a_bad_value_is_refused_and_the_reason_named(text: str, why: str) -> None:
    with pytest.raises(BadLease) as error:
        LeaseAttrs.from_json(text)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text() | st.binary().map(repr))
def test_no_text_makes_the_reader_raise_anything_else(text: str) -> None:
    with contextlib.suppress(BadLease):
        LeaseAttrs.from_json(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_makes_the_reader_raise_anything_else(document: object) -> None:
    with contextlib.suppress(BadLease):
        LeaseAttrs.from_json(json.dumps(document))


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_every_subnet_survives_the_way_to_its_key_and_back(address: int, length: int) -> None:
    subnet = IPv4Network((address, length), strict=False)
    assert parse_subnet_key(subnet_key(subnet)) == subnet


def test_keys_of_leases_are_the_same_as_upstreams() -> None:
    subnet = IPv4Network("10.5.1.0/24")
    assert subnet_key(subnet) == "10.5.1.0-24"
    assert parse_subnet_key("10.5.1.0-24") == subnet
    assert parse_subnet_key("10.5.1.0-24&fc00:0:0:1::-64") == subnet


@pytest.mark.parametrize(
    "key",
    [
        "foo", "", "999.1.1.0-24", "10.5.1.0-33", "10.5.1.0-", "10.5.1.0", "10.5.1.7-24",
        "10.5.1.0-024", "010.5.1.0-24", "10.5.1-24", " 10.5.1.0-24", "10.5.1.0-24 ",
        "10.5.1.0-24\n", "x10.5.1.0-24", "10.5.1.0-24x", "10.5.1.0-24;reboot", "$(id)",
        "1" * 20 + "-24", "10.5.1.0-٢٤", "fe80::-64", "10.5.1.0-24&", "..........-24",
    ],
)  # fmt: skip
def test_a_key_that_is_not_exactly_a_subnet_is_refused(key: str) -> None:
    with pytest.raises(BadLease):
        parse_subnet_key(key)


@given(st.text())
def test_no_key_makes_the_parser_raise_anything_else(key: str) -> None:
    with contextlib.suppress(BadLease):
        parse_subnet_key(key)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e309", "NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("where", ['{{"x":{}}}', "[[{}]]", "{}"])
def test_a_number_that_no_reader_of_json_has_makes_the_lease_bad(number: str, where: str) -> None:
    data = where.format(number)
    with pytest.raises(BadLease, match=r"is not JSON|too large a number"):
        LeaseAttrs.from_json(f'{{"PublicIP":"10.9.0.1","BackendData":{data}}}')


def lease(subnet: str, host: str = "10.9.0.1", **other: int) -> Lease:
    return Lease(IPv4Network(subnet), LeaseAttrs(IPv4Address(host), "host-gw"), **other)


A, B, C = (IPv4Network(f"10.5.{n}.0/24") for n in (1, 2, 3))


class TestLeaseTable:
    """Both ways in report exactly what a peer would have to treat differently."""

    def test_a_snapshot_reports_new_different_and_missing_leases(self) -> None:
        table = LeaseTable()
        assert table.reset([lease(str(A)), lease(str(B))]) == {A, B}
        assert table.reset([lease(str(B), "10.9.0.7"), lease(str(C))]) == {A, B, C}
        assert table.leases.keys() == {B, C}

    def test_a_host_that_moved_while_history_was_lost_is_noticed(self) -> None:
        table = LeaseTable()
        table.reset([lease(str(A), "10.9.0.1")])
        assert table.reset([lease(str(A), "10.9.0.2")]) == {A}

    def test_a_different_ttl_or_index_is_not_a_difference(self) -> None:
        table = LeaseTable()
        table.reset([lease(str(A), ttl=100, index=5)])
        assert table.reset([lease(str(A), ttl=86400, index=9)]) == set()
        assert table.update([LeaseAdded(lease(str(A), ttl=5, index=10))]) == set()
        assert table.leases[A].index == 10

    def test_events_report_the_subnets_that_they_changed(self) -> None:
        table = LeaseTable()
        assert table.update([LeaseAdded(lease(str(A))), LeaseAdded(lease(str(B)))]) == {A, B}
        assert table.update([LeaseRemoved(A), LeaseRemoved(C)]) == {A}
        assert table.leases.keys() == {B}

    def test_a_lease_that_returns_to_an_emptied_store_is_settled_without_a_look_at_the_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody looks through all that are still missing for each."""
        subnets = [IPv4Network((0x0A000000 + 256 * n, 24)) for n in range(1_000)]
        leases = [lease(str(each), str(each.network_address + 0x01000000)) for each in subnets]
        table = LeaseTable(leases)
        assert table.reset([], keep_until=1.0) == set()
        looked_at: list[LeaseAttrs] = []
        look = flannel.lease._Hosts.__contains__

        def count(hosts: flannel.lease._Hosts, attrs: LeaseAttrs) -> bool:
            looked_at.append(attrs)
            return look(hosts, attrs)

        monkeypatch.setattr("flannel.lease._Hosts.__contains__", count)
        assert table.update(map(LeaseAdded, leases[:-1])) == set()
        assert len(looked_at) < len(leases)
        assert table.expire(1.0) == {subnets[-1]}


class TestNodeId:
    """An extra member at the end, which upstream ignores."""

    def test_the_node_id_is_the_last_member(self) -> None:
        attrs = LeaseAttrs(IPv4Address("10.9.0.1"), "vxlan", {"VtepMAC": "be:0b:51:3e:a5:a3"}, "a1")
        assert attrs.to_json() == (
            '{"PublicIP":"10.9.0.1","BackendType":"vxlan",'
            '"BackendData":{"VtepMAC":"be:0b:51:3e:a5:a3"},"NodeID":"a1"}'
        )
        assert LeaseAttrs.from_json(attrs.to_json()) == attrs

    @pytest.mark.parametrize("value", ["null", '""'])
    def test_a_host_without_a_node_id_is_known_by_its_address(self, value: str) -> None:
        attrs = LeaseAttrs.from_json(f'{{"PublicIP":"10.9.0.1","NodeID":{value}}}')
        assert attrs == LeaseAttrs(IPv4Address("10.9.0.1"))

    @pytest.mark.parametrize("value", ["7", "[]", '"a b"', '"\\n"', '"' + "a" * 65 + '"'])
    def test_an_invalid_node_id_makes_the_lease_bad(self, value: str) -> None:
        with pytest.raises(BadLease, match="its NodeID is"):
            LeaseAttrs.from_json(f'{{"PublicIP":"10.9.0.1","NodeID":{value}}}')


@pytest.mark.parametrize(("written", "backend"), [("", "udp"), ("vxlan", "vxlan"), ("x", "x")])
def test_a_lease_that_names_no_backend_has_the_udp_backend(written: str, backend: str) -> None:
    assert LeaseAttrs(IPv4Address("192.0.2.1"), written).backend == backend
