"""VXLAN's plan for a peer, its tables, and the backend that starts it. A kernel in memory."""

import asyncio
import errno
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest
from fake_kernel import FakeNetlink, FakeTables

from flannel.backends import make_backend
from flannel.backends.vxlan import device, network
from flannel.backends.vxlan.network import VxlanNetwork, parse_vtep_mac
from flannel.errors import BadLease, BadNetworkConfig, KernelError
from flannel.firewall.rules import Guard
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Entry, Fdb, Neighbour, Nexthop, Route, key
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Link
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

ADDRESS = IPv4Address("192.0.2.1")
INTERFACE = ExternalInterface(2, "eth0", 1500, ADDRESS, ADDRESS, (IPv4Interface("192.0.2.1/24"),))
SUBNET = IPv4Network("10.5.2.0/24")
MAC = bytes.fromhex("020000000002")
OWN = Lease(IPv4Network("10.5.1.0/24"), LeaseAttrs(ADDRESS, "vxlan"))


def config(text: str = "") -> NetworkConfig:
    return NetworkConfig.from_json(
        f'{{"Network":"10.5.0.0/16","Backend":{{"Type":"vxlan"{text}}}}}'
    )


def peer(address: str = "192.0.2.2", backend: str = "vxlan", data: Any = None) -> Lease:
    data = {"VtepMAC": MAC.hex(":")} if data is None else data
    return Lease(SUBNET, LeaseAttrs(IPv4Address(address), backend, data))


class Host:
    """A kernel with eth0, and the backend on it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, text: str = "", *, has_nexthops: bool = True
    ) -> None:
        monkeypatch.setattr("flannel.kernel.sysctls.refuse_ipv6", lambda *_: None)
        self.netlink = FakeNetlink(Link(2, "eth0", "", 1500, True, ""))
        self.tables = FakeTables(has_nexthops=has_nexthops)
        self.kernel = Kernel(self.netlink, self.tables)
        self.config = config(text)
        self.backend = make_backend(self.config, INTERFACE, self.kernel)

    def start(self) -> VxlanNetwork:
        async def started() -> Any:
            await self.backend.lease_attrs("n1")
            return await self.backend.start(OWN)

        found = asyncio.run(started())
        assert isinstance(found, VxlanNetwork)
        return found

    @property
    def index(self) -> int:
        return self.netlink.by_name("flannel.1").index


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def apply(served: VxlanNetwork, *leases: Lease, changed: list[IPv4Network] | None = None) -> None:
    asyncio.run(served.apply({each.subnet: each for each in leases}, changed))


def test_the_lease_carries_the_mac_of_the_link(host: Host) -> None:
    attrs = asyncio.run(host.backend.lease_attrs("n1"))
    mac = host.netlink.by_name("flannel.1").mac
    assert attrs == LeaseAttrs(ADDRESS, "vxlan", {"VtepMAC": mac}, "n1")
    assert mac == device.vtep_mac(ADDRESS, 1, "n1")


def test_a_link_that_was_there_keeps_its_mac_even_if_it_has_to_be_made_anew(host: Host) -> None:
    asyncio.run(host.backend.lease_attrs("n1"))
    index = host.index
    host.netlink.links[index] = replace(host.netlink.links[index], mac="02:00:00:00:00:77")
    attrs = asyncio.run(host.backend.lease_attrs("n1"))
    assert attrs.backend_data == {"VtepMAC": "02:00:00:00:00:77"}
    del host.netlink.links[index]
    asyncio.run(host.backend.start(OWN))
    assert host.netlink.by_name("flannel.1").mac == "02:00:00:00:00:77"


def test_a_kernel_without_vxlan_is_named_and_what_works_there(host: Host) -> None:
    host.netlink.refuses["create_vxlan"] = errno.EOPNOTSUPP
    with pytest.raises(BadNetworkConfig) as raised:
        asyncio.run(host.backend.lease_attrs("n1"))
    assert str(raised.value).endswith(
        'this kernel has no VXLAN; a network config that works without it has {"Backend": '
        '{"Type": "udp"}}'
    )


def test_another_refusal_of_the_kernel_is_tried_again(host: Host) -> None:
    host.netlink.refuses["create_vxlan"] = errno.ENOMEM
    with pytest.raises(KernelError):
        asyncio.run(host.backend.lease_attrs("n1"))


def test_the_network_has_the_link_its_address_and_its_guard(host: Host) -> None:
    served = host.start()
    assert host.netlink.addresses_of("flannel.1") == ["10.5.1.0/32"]
    assert served.device == "flannel.1"
    assert served.guard == Guard("flannel.1", "eth0", (INTERFACE.address,), 8472, 1)
    assert (served.mtu, host.netlink.by_name("flannel.1").mtu) == (1450, 1450)
    assert served.trouble() == ""
    assert served.counters() == {}
    asyncio.run(served.run())  # the kernel carries packets


@pytest.mark.parametrize(
    ("text", "name", "mtu", "port"),
    [(',"VNI":7,"Port":4789,"MTU":1400', "flannel.7", 1350, 4789), ("", "flannel.1", 1450, 8472)],
)
def test_the_config_decides_name_port_and_mtu(
    monkeypatch: pytest.MonkeyPatch, text: str, name: str, mtu: int, port: int
) -> None:
    host = Host(monkeypatch, text)
    host.start()
    link = host.netlink.by_name(name)
    assert link.vxlan is not None
    assert (link.mtu, link.vxlan.port) == (mtu, port)


def test_the_tunnel_leaves_from_an_address_of_this_host_behind_nat_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch)
    public = replace(INTERFACE, public_ip=IPv4Address("203.0.113.1"))
    host.backend = make_backend(host.config, public, host.kernel)
    attrs = asyncio.run(host.backend.lease_attrs("n1"))
    assert attrs.public_ip == IPv4Address("203.0.113.1")
    link = host.netlink.by_name("flannel.1")
    assert link.vxlan is not None
    assert link.vxlan.local == ADDRESS


@pytest.mark.parametrize("has_nexthops", [True, False])
def test_a_peer_is_four_entries_and_three_without_nexthop_objects(
    monkeypatch: pytest.MonkeyPatch, has_nexthops: bool
) -> None:
    host = Host(monkeypatch, has_nexthops=has_nexthops)
    served = host.start()
    apply(served)
    via, link = SUBNET.network_address.packed, host.index
    id_ = int(SUBNET.network_address) if has_nexthops else 0
    wanted: list[Entry] = [
        Fdb(MAC, link, IPv4Address("192.0.2.2").packed),
        Neighbour(via, link, MAC),
        *([Nexthop(id_, via, link, onlink=True)] if has_nexthops else []),
        Route(via, 24, via, link, True, id_),
    ]
    assert list(served.plan(peer())) == wanted
    apply(served, peer(), changed=[SUBNET])
    assert host.tables.entries == {key(entry): entry for entry in wanted}
    assert served.holds(key(wanted[0])) == wanted[0]
    assert served.holds((Fdb, b"", 0)) is None


def test_direct_routing_goes_round_the_tunnel_for_peers_on_the_link_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch, ',"DirectRouting":true')
    served = host.start()
    apply(served)
    near = [entry for entry in served.plan(peer()) if isinstance(entry, Route)]
    assert [(each.via, each.link, each.onlink) for each in near] == [
        (IPv4Address("192.0.2.2").packed, 2, False)
    ]
    assert len(list(served.plan(peer("198.51.100.2")))) == 4
    without_mac = peer(data={})
    assert len(list(served.plan(without_mac))) == 2  # it is not used there


@pytest.mark.parametrize(("backend", "named"), [("", "udp"), ("host-gw", "host-gw")])
def test_a_lease_of_another_backend_is_refused(host: Host, backend: str, named: str) -> None:
    served = host.start()
    with pytest.raises(BadLease, match=f"its backend is {named}, not vxlan"):
        list(served.plan(peer(backend=backend)))


def test_a_link_that_is_made_anew_gets_all_entries_anew(host: Host) -> None:
    served = host.start()
    apply(served, peer())
    old = host.index
    asyncio.run(host.netlink.delete_link(host.netlink.by_name("flannel.1")))
    host.netlink.links[old + 10] = Link(old + 10, "docker0", "bridge", 1500, True, "")
    host.tables.damage(*list(host.tables.entries.values()))
    apply(served, peer())
    assert host.index != old
    assert host.tables.entries == {key(entry): entry for entry in served.plan(peer())}
    assert {each.link for each in host.tables.entries.values()} == {host.index}


def test_an_event_does_not_look_at_the_link(host: Host) -> None:
    served = host.start()
    apply(served)
    host.netlink.refuses["find_link"] = errno.EPERM
    apply(served, peer(), changed=[SUBNET])
    with pytest.raises(KernelError):
        apply(served, peer())


def test_routes_over_the_link_that_somebody_made_are_removed(host: Host) -> None:
    served = host.start()
    apply(served, peer())
    link = host.index
    strange = Route(bytes((10, 9, 0, 0)), 16, bytes((10, 9, 0, 1)), link, protocol=3)
    host.tables.intrude(strange, Neighbour(bytes((10, 5, 9, 0)), link, MAC))
    apply(served, peer())
    assert host.tables.entries == {key(entry): entry for entry in served.plan(peer())}


@pytest.mark.parametrize("text", ["02:00:00:00:00:02", "02-00-00-00-00-02"])
def test_a_mac_may_be_written_with_colons_or_dashes(text: str) -> None:
    assert parse_vtep_mac({"VtepMAC": text}) == MAC
    assert parse_vtep_mac({"vtepmac": text.upper()}) == MAC


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "null, not a MAC"),
        (5, "null, not a MAC"),
        ({}, "null, not a MAC"),
        ({"VtepMAC": 7}, "7, not a MAC"),
        ({"VtepMAC": "02:00:00:00:00"}, "not a MAC"),
        ({"VtepMAC": "02-00:00-00:00-02"}, "not a MAC"),
        ({"VtepMAC": "zz:00:00:00:00:02"}, "not a MAC"),
        ({"VtepMAC": "01:00:5e:00:00:01"}, "not the address of one host"),
        ({"VtepMAC": "ff:ff:ff:ff:ff:ff"}, "not the address of one host"),
        ({"VtepMAC": "00:00:00:00:00:00"}, "not the address of one host"),
    ],
)
def test_a_mac_that_no_host_can_have_is_refused(data: object, why: str) -> None:
    with pytest.raises(BadLease, match=why):
        parse_vtep_mac(data)


def test_the_module_reads_what_the_backend_publishes(host: Host) -> None:
    attrs = asyncio.run(host.backend.lease_attrs("n1"))
    assert len(network.parse_vtep_mac(attrs.backend_data)) == 6
