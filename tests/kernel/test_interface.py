"""ExternalInterface and InterfaceChoice as values."""

import re
from ipaddress import IPv4Address, IPv4Interface

from flannel.kernel.interface import ExternalInterface, InterfaceChoice

INTERFACE = ExternalInterface(
    2, "eth0", 1500, IPv4Address("192.0.2.7"), IPv4Address("192.0.2.7"),
    (IPv4Interface("192.0.2.7/24"), IPv4Interface("203.0.113.1/28")),
)  # fmt: skip


def test_hosts_on_the_link_are_distinguished_from_those_behind_a_router() -> None:
    assert INTERFACE.is_on_link(IPv4Address("192.0.2.200"))
    assert INTERFACE.is_on_link(IPv4Address("203.0.113.14"))
    assert not INTERFACE.is_on_link(IPv4Address("203.0.113.17"))


def test_a_choice_describes_all_that_was_asked_for() -> None:
    choice = InterfaceChoice(["eth7", "192.0.2.9"], [re.compile("^wl")], IPv4Address("192.0.2.1"))
    assert choice.is_given
    assert choice.describe() == (
        "is called or has address eth7, 192.0.2.9 (-iface) or matches ^wl (-iface-regex) or "
        "reaches 192.0.2.1 (-iface-can-reach)"
    )
    assert not InterfaceChoice(public_ip=IPv4Address("203.0.113.1")).is_given
