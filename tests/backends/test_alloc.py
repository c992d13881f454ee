"""alloc: a lease and nothing in the kernel."""

import asyncio
from ipaddress import IPv4Address, IPv4Network

from fake_kernel import FakeNetlink, FakeTables

from flannel.backends import check_config, make_backend
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Fdb, Nexthop, Route
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

CONFIG = NetworkConfig.from_json('{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}')
ADDRESS, PUBLIC = IPv4Address("192.0.2.1"), IPv4Address("203.0.113.1")
INTERFACE = ExternalInterface(3, "eth0", 1500, ADDRESS, PUBLIC, ())
OWN = Lease(IPv4Network("10.5.1.0/24"), LeaseAttrs(PUBLIC))


def test_the_lease_names_no_backend_as_upstreams_does() -> None:
    backend = make_backend(CONFIG, INTERFACE, Kernel(FakeNetlink(), FakeTables()))
    assert asyncio.run(backend.lease_attrs("n1")) == LeaseAttrs(PUBLIC, node_id="n1")
    assert check_config(CONFIG) is None


def test_entries_of_an_earlier_backend_are_removed_at_the_start_and_no_others_are_made() -> None:
    tables = FakeTables()
    hop = Nexthop(0x0A050200, bytes((192, 0, 2, 2)), 3)
    other = Route(bytes((10, 6, 2, 0)), 24, hop.via, 3)
    tables.intrude(hop, Route(bytes((10, 5, 2, 0)), 24, hop.via, 3, False, hop.id), other)
    netlink = FakeNetlink()

    async def scenario() -> None:
        served = await make_backend(CONFIG, INTERFACE, Kernel(netlink, tables)).start(OWN)
        await served.apply({OWN.subnet: OWN})
        await served.apply({OWN.subnet: OWN}, [OWN.subnet])
        await served.run()
        assert (served.device, served.mtu, served.guard) == ("", 1500, None)
        assert served.holds((Fdb, b"", 0)) is None
        assert served.trouble() == ""
        assert served.counters() == {}

    asyncio.run(scenario())
    assert list(tables.entries.values()) == [other]
    assert netlink.calls == []
