"""VXLAN links in other namespaces: found and deleted, with a kernel in memory."""

import errno
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Self

import pytest

from flannel.errors import KernelError
from flannel.kernel import other_namespaces as module
from flannel.kernel import rtlayout as rt
from flannel.kernel.other_namespaces import Stray

LOCAL = IPv4Address("192.0.2.1")
OURS = Stray(1, 4, "flannel.1", "flannel", LOCAL)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    header = length.to_bytes(2, "little") + kind.to_bytes(2, "little")
    return header + value + bytes(-length % 4)


def link(
    stray: Stray, *, kind: str = "vxlan", vni: int = 1, port: int = 8472, target: bool = True
) -> bytes:
    """A link as the kernel reports it."""
    settings = rt.number_attribute(rt.IFLA_VXLAN_ID, vni)
    if stray.local is not None:
        settings += rt.address_attribute(rt.IFLA_VXLAN_LOCAL, stray.local.packed)
    settings += attribute(rt.IFLA_VXLAN_PORT, port.to_bytes(2, "big"))
    info = text(rt.IFLA_INFO_KIND, kind) + attribute(0x8000 | rt.IFLA_INFO_DATA, settings)
    parts = [
        rt.IFINFOMSG.pack(0, 1, stray.index, 0, 0),
        text(rt.IFLA_IFNAME, stray.name),
        attribute(rt.IFLA_LINKINFO, info),
    ]
    if stray.alias:
        parts.append(text(rt.IFLA_IFALIAS, stray.alias))
    if target:
        parts.append(rt.number_attribute(rt.IFLA_TARGET_NETNSID, stray.namespace))
    return b"".join(parts)


class Kernel:
    """Namespaces by number with their links; those of None may not be looked into."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.namespaces: dict[int, list[bytes] | None] = {}
        self.refuses = 0
        self.requests: list[tuple[int, bytes, bytes]] = []
        monkeypatch.setattr(module, "RtNetlink", lambda: self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def dump(self, kind: int, request: bytes, doing: str) -> Iterable[bytes]:
        if kind == rt.RTM_GETNSID:
            return [
                rt.RTGENMSG.pack(0) + rt.number_attribute(rt.NETNSA_NSID, number)
                for number in self.namespaces
            ]
        target = rt.attributes(request, rt.IFINFOMSG.size)[rt.IFLA_TARGET_NETNSID]
        found = self.namespaces[rt.number(target)]
        if found is None:
            raise KernelError(doing, errno.EACCES)
        return found

    def request(self, kind: int, doing: str, body: bytes, target: bytes) -> None:
        self.requests.append((kind, body, target))
        if self.refuses:
            raise KernelError(doing, self.refuses)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_links_with_the_vni_and_port_are_found_in_all_namespaces(kernel: Kernel) -> None:
    other = Stray(0, 9, "vx-1", "", None)
    kernel.namespaces = {
        0: [link(other)],
        1: [
            link(OURS),
            link(OURS, vni=2),
            link(OURS, port=4789),
            link(OURS, kind="geneve"),
            rt.IFINFOMSG.pack(0, 1, 1, 0, 0) + rt.number_attribute(rt.IFLA_TARGET_NETNSID, 1),
        ],
    }
    assert module.find_vxlan(1, 8472) == [other, OURS]
    assert module.find_vxlan(2, 8472) == [OURS]
    assert module.find_vxlan(3, 8472) == []


def test_a_namespace_that_cannot_be_looked_into_is_passed_over(kernel: Kernel) -> None:
    kernel.namespaces = {0: None, 1: [link(OURS)]}
    assert module.find_vxlan(1, 8472) == [OURS]


def test_links_of_this_namespace_are_not_taken_for_those_of_another(kernel: Kernel) -> None:
    kernel.namespaces = {1: [link(OURS, target=False)]}  # as an older kernel answers
    assert module.find_vxlan(1, 8472) == []


def test_a_name_that_is_not_utf8_is_not_an_error(kernel: Kernel) -> None:
    strange = link(OURS).replace(b"flannel.1", b"flannel.\xff")
    kernel.namespaces = {1: [strange]}
    (found,) = module.find_vxlan(1, 8472)
    assert found.name == "flannel.\ufffd"


def test_a_link_is_deleted_by_its_index_in_its_namespace(kernel: Kernel) -> None:
    module.delete(OURS)
    body, target = rt.IFINFOMSG.pack(0, 0, 4, 0, 0), rt.number_attribute(46, 1)
    assert kernel.requests == [(rt.RTM_DELLINK, body, target)]


def test_a_link_that_is_gone_meanwhile_is_deleted(kernel: Kernel) -> None:
    kernel.refuses = errno.ENODEV
    module.delete(OURS)


def test_a_refusal_is_an_error(kernel: Kernel) -> None:
    kernel.refuses = errno.EPERM
    with pytest.raises(KernelError, match=r"delete link flannel\.1 in another network namespace"):
        module.delete(OURS)
