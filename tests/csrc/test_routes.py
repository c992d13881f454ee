import errno
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internals import Internals

addresses = st.integers(0, 2**32 - 1)
hosts = st.integers(1, 2**32 - 1)


@st.composite
def networks(draw: st.DrawFn) -> IPv4Network:
    """Any; most within one small one, so that they nest and collide."""
    address = draw(addresses | st.integers(0x0A010000, 0x0A01FFFF))
    return IPv4Network((address, draw(st.integers(0, 32))), strict=False)


tables = st.dictionaries(networks(), hosts, max_size=40)


class Table:
    """A table in C."""

    def __init__(self, internals: Internals, routes: list[tuple[int, int, int]]) -> None:
        self.lib = internals.lib
        handle = internals.ffi.new("struct routes **")
        result = self.lib.routes_new(handle, routes, len(routes))
        if result != 0:
            assert handle[0] == internals.ffi.NULL
            raise OSError(-result, "routes_new")
        self.routes = internals.ffi.gc(handle[0], self.lib.routes_free)

    def find(self, address: int) -> int:
        return int(self.lib.routes_find(self.routes, address))

    def has_host(self, host: int) -> bool:
        return bool(self.lib.routes_has_host(self.routes, host))


def as_routes(table: dict[IPv4Network, int]) -> list[tuple[int, int, int]]:
    return [(int(net.network_address), net.prefixlen, host) for net, host in table.items()]


def longest_prefix(table: dict[IPv4Network, int], address: int) -> int:
    """By looking at every route, the way of RFC 1812, 5.2.4.3."""
    matching = [net for net in table if IPv4Address(address) in net]
    return table[max(matching, key=lambda net: net.prefixlen)] if matching else 0


@given(table=tables, strangers=st.lists(addresses, max_size=10))
def test_the_longest_prefix_wins(
    internals: Internals, table: dict[IPv4Network, int], strangers: list[int]
) -> None:
    routes = Table(internals, as_routes(table))
    edges = [
        (int(edge) + step) % 2**32
        for net in table
        for edge in (net.network_address, net.broadcast_address)
        for step in (-1, 0, 1)
    ]
    for address in strangers + edges:
        assert routes.find(address) == longest_prefix(table, address), IPv4Address(address)


@given(table=tables, strangers=st.lists(addresses, max_size=10))
def test_the_table_knows_the_hosts_of_its_routes_and_no_others(
    internals: Internals, table: dict[IPv4Network, int], strangers: list[int]
) -> None:
    routes = Table(internals, as_routes(table))
    for host in [0, *strangers, *table.values()]:
        assert routes.has_host(host) == (host in table.values())


@given(table=tables.filter(bool), data=st.data())
def test_a_subnet_has_one_host(
    internals: Internals, table: dict[IPv4Network, int], data: st.DataObject
) -> None:
    routes = as_routes(table)
    subnet, prefix_len, _ = data.draw(st.sampled_from(routes))
    routes.insert(data.draw(st.integers(0, len(routes))), (subnet, prefix_len, data.draw(hosts)))
    with pytest.raises(OSError, match="routes_new") as refused:
        Table(internals, routes)
    assert refused.value.errno == errno.EEXIST


@pytest.mark.parametrize(
    "route",
    [
        (0x0A010F01, 24, 1),
        (0x0A010F00, 23, 1),
        (1, 31, 1),
        (0x80000000, 0, 1),
        (0x0A010F00, 33, 1),
        (0x0A010F00, 2**32 - 1, 1),
        (0x0A010F00, 24, 0),
    ],
    ids=["last bit", "first bit", "a /31", "a /0", "33", "-1", "no host"],
)
def test_a_route_with_host_bits_a_wrong_length_or_no_host_is_refused(
    internals: Internals, route: tuple[int, int, int]
) -> None:
    for routes in ([route], [(0x0A020000, 16, 9), route]):
        with pytest.raises(OSError, match="routes_new") as refused:
            Table(internals, routes)
        assert refused.value.errno == errno.EINVAL


def test_ten_thousand_leases_are_all_found(internals: Internals) -> None:
    """And every address around them leads where it should, the lease's own ends included."""
    first = int(IPv4Address("10.0.0.0"))
    routes = Table(internals, [(first + n * 256, 24, n + 1) for n in range(10_000)])
    for n in range(10_000):
        assert routes.find(first + n * 256) == routes.find(first + n * 256 + 255) == n + 1
        assert routes.has_host(n + 1)
    assert routes.find(first - 1) == routes.find(first + 10_000 * 256) == 0
    assert not routes.has_host(10_001)


def test_an_empty_table_has_no_route(internals: Internals) -> None:
    routes = Table(internals, [])
    assert routes.find(0) == routes.find(2**32 - 1) == 0
    assert not routes.has_host(1)
