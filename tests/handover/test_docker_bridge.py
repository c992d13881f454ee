"""docker's bridge beside the lease, of values; on real ones see netns-tests/test_docker.py."""

from ipaddress import IPv4Interface

import pytest

from flannel.handover.docker_bridge import misfits
from flannel.kernel.links import Address, Link

SUBNET = IPv4Interface("10.1.5.1/24")
MTU = 1450


def link(index: int, name: str, kind: str, mtu: int = 1500, master: int = 0) -> Link:
    return Link(index, name, kind, mtu, True, "02:00:00:00:00:01", master=master)


def address(index: int, text: str) -> Address:
    return Address(index, IPv4Interface(text), 0)


ETH0 = link(2, "eth0", "")
DOCKER0 = link(3, "docker0", "bridge")
FITS = address(3, "10.1.5.1/24")


@pytest.mark.parametrize(
    ("links", "addresses"),
    [
        ([ETH0], [address(2, "192.0.2.11/24")]),
        ([ETH0, DOCKER0], [FITS]),  # MTU 1500, for no container is there
        ([DOCKER0, link(4, "veth1", "veth", 1450, master=3)], [FITS]),
        ([DOCKER0, link(4, "veth1", "veth", 1400, master=3)], [FITS]),
        ([DOCKER0, link(4, "veth1", "veth", 1500, master=9)], [FITS]),  # of another bridge
        ([DOCKER0], [address(3, "169.254.7.7/16"), FITS]),
        ([link(3, "docker0", "veth")], [address(3, "172.17.0.1/16")]),
        (
            [
                *(DOCKER0, link(4, "veth1", "veth", 1500, master=3), link(5, "br-f1", "bridge")),
                link(6, "veth2", "veth", 1450, master=5),
            ],
            [address(3, "172.17.0.1/16"), address(5, "10.1.5.1/24")],
        ),
    ],
)
def test_a_bridge_that_fits_or_is_not_dockers_is_not_reported(
    links: list[Link], addresses: list[Address]
) -> None:
    assert misfits(SUBNET, MTU, links, addresses) == []


@pytest.mark.parametrize(
    ("addresses", "has"),
    [
        ([address(3, "172.17.0.1/16")], "172.17.0.1/16"),
        ([address(3, "10.1.6.1/24"), address(2, "10.1.5.1/24")], "10.1.6.1/24"),
        ([address(3, "10.1.5.1/16")], "10.1.5.1/16"),
        ([address(3, "10.1.5.2/24")], "10.1.5.2/24"),
        ([address(3, "10.1.6.1/24"), address(3, "10.1.7.1/24")], "10.1.6.1/24 and 10.1.7.1/24"),
        ([], "no address"),
    ],
)
def test_a_bridge_without_the_leases_address_is_named(addresses: list[Address], has: str) -> None:
    container = link(4, "veth1", "veth", 1450, master=3)
    (found,) = misfits(SUBNET, MTU, [ETH0, DOCKER0, container], addresses)
    assert str(found) == (
        f"docker0 has {has}, not 10.1.5.1/24 of the lease: other hosts do not reach the containers"
        " here; restart docker with what mk-docker-opts writes"
    )


def test_no_restart_is_asked_for_while_docker0_has_no_container() -> None:
    """They may get a network of their own, before which docker0 is all there is to look at."""
    (found,) = misfits(SUBNET, MTU, [ETH0, DOCKER0], [address(3, "172.17.0.1/16")])
    assert str(found) == (
        "docker0 has 172.17.0.1/16, not 10.1.5.1/24 of the lease: other hosts do not reach the "
        "containers here; docker takes the lease's when it starts with what mk-docker-opts writes"
    )


def test_containers_with_a_larger_mtu_are_named_with_the_largest() -> None:
    links = [DOCKER0, *(link(n, f"veth{n}", "veth", 1400 + 25 * n, master=3) for n in range(1, 5))]
    (found,) = misfits(SUBNET, MTU, links, [FITS])
    assert found.what == "docker0 has containers with MTU 1500, and the overlay carries 1450"


def test_containers_of_another_bridge_with_the_leases_address_need_its_mtu_too() -> None:
    other = [link(5, "br-f1", "bridge"), link(6, "veth2", "veth", 1500, master=5)]
    (found,) = misfits(SUBNET, MTU, [DOCKER0, *other], [address(5, "10.1.5.1/24")])
    assert str(found) == (
        "br-f1 has containers with MTU 1500, and the overlay carries 1450: their large packets are "
        "refused or lost; remove them, and start others"
    )
    assert misfits(SUBNET, MTU, other, [address(5, "10.1.5.1/24")]) == [found]


HANDED = link(6, "flannel-br", "bridge")
CONTAINER = link(7, "veth2", "veth", 1450, master=6)


def test_beside_networks_of_hand_over_docker0_is_left_alone() -> None:
    own_choice, before = address(3, "172.17.0.1/16"), address(6, "10.1.4.1/24")
    container = link(4, "veth1", "veth", 1500, master=3)
    assert misfits(SUBNET, MTU, [DOCKER0, container], [own_choice], docker0=False) == []
    # Its own bridge has an address of an earlier lease until its next container starts.
    links = [DOCKER0, container, HANDED]
    assert misfits(SUBNET, MTU, links, [own_choice, before], docker0=False) == []
    (found,) = misfits(SUBNET, MTU, [*links, CONTAINER], [own_choice, before], docker0=False)
    assert str(found) == (
        "flannel-br has 10.1.4.1/24, not 10.1.5.1/24 of the lease: other hosts do not reach the "
        "containers here; remove them, and start others"
    )
    fits = address(6, "10.1.5.1/24")
    assert misfits(SUBNET, MTU, [*links, CONTAINER], [own_choice, fits], docker0=False) == []


def test_a_bridge_can_have_both_faults() -> None:
    links = [DOCKER0, link(4, "veth1", "veth", 1500, master=3)]
    assert len(misfits(SUBNET, MTU, links, [address(3, "172.17.0.1/16")])) == 2
