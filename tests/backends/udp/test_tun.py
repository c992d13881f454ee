"""The numbers of ioctl() requests, which are not the same everywhere."""

import pytest

from flannel.backends.udp.tun import request


@pytest.mark.parametrize(
    ("machine", "tunsetiff", "tungetiff", "tungetdevnetns"),
    [
        ("x86_64", 0x400454CA, 0x800454D2, 0x54E3),
        ("i686", 0x400454CA, 0x800454D2, 0x54E3),
        ("aarch64", 0x400454CA, 0x800454D2, 0x54E3),
        ("riscv64", 0x400454CA, 0x800454D2, 0x54E3),
        ("s390x", 0x400454CA, 0x800454D2, 0x54E3),
        ("ppc64le", 0x800454CA, 0x400454D2, 0x200054E3),
        ("mips64", 0x800454CA, 0x400454D2, 0x200054E3),
    ],
)
def test_they_are_those_of_the_kernels_headers_for_the_machine(
    machine: str, tunsetiff: int, tungetiff: int, tungetdevnetns: int
) -> None:
    """As a C compiler for it prints TUNSETIFF, TUNGETIFF and TUNGETDEVNETNS."""
    assert request("_IOW", 202, machine) == tunsetiff
    assert request("_IOR", 210, machine) == tungetiff
    assert request("_IO", 227, machine) == tungetdevnetns
