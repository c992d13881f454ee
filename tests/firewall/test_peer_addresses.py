"""The elements of the guard's sets while peers join and leave."""

from ipaddress import IPv4Address, IPv4Network

from flannel.firewall.peer_addresses import LEASES, PEERS, Element, PeerAddresses
from flannel.lease import Lease, LeaseAttrs

ONE, OTHER = IPv4Network("10.1.6.0/24"), IPv4Network("10.1.7.0/24")
A, B = (LeaseAttrs(IPv4Address(each), "vxlan", {}) for each in ("192.0.2.1", "192.0.2.2"))


def addresses_of(elements: object) -> set[str]:
    """The elements of the set of addresses."""
    return {each.text for each in elements if each.set == PEERS}  # type: ignore[attr-defined]


def test_a_lease_is_an_address_and_a_pair_with_its_subnet() -> None:
    addresses = PeerAddresses()
    addresses.refresh({ONE: Lease(ONE, A)})
    assert set(addresses.all) == {
        Element(PEERS, "192.0.2.1"),
        Element(LEASES, "192.0.2.1 . 0xa010600"),
    }


def test_an_address_is_removed_with_the_last_lease_that_has_it() -> None:
    peers = {subnet: Lease(subnet, A) for subnet in (ONE, OTHER)}
    addresses = PeerAddresses()
    addresses.refresh(peers)
    assert addresses_of(addresses.all) == {"192.0.2.1"}
    peers[ONE] = Lease(ONE, B)
    assert addresses_of(addresses.update(peers, {ONE})) == {"192.0.2.1", "192.0.2.2"}
    assert addresses_of(addresses.all) == {"192.0.2.1", "192.0.2.2"}
    del peers[OTHER]
    assert addresses_of(addresses.update(peers, {OTHER, IPv4Network("10.1.5.0/24")})) == {
        "192.0.2.1"
    }
    assert addresses_of(addresses.all) == {"192.0.2.2"}
    assert addresses.update(peers, {OTHER}) == set()


def test_a_pair_is_removed_with_its_lease_while_the_address_stays() -> None:
    peers = {subnet: Lease(subnet, A) for subnet in (ONE, OTHER)}
    addresses = PeerAddresses()
    addresses.refresh(peers)
    del peers[OTHER]
    assert addresses.update(peers, {OTHER}) == {
        Element(PEERS, "192.0.2.1"),
        Element(LEASES, "192.0.2.1 . 0xa010700"),
    }
    assert set(addresses.all) == {
        Element(PEERS, "192.0.2.1"),
        Element(LEASES, "192.0.2.1 . 0xa010600"),
    }
