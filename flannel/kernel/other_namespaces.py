"""VXLAN links of this host that stand in other network namespaces: found by VNI and port, deleted.

A link that is moved to another namespace keeps its VNI and port in the one where it was made. The
kernel numbers the namespaces that this one knows, and a link that leaves for another makes it
known; requests with IFLA_TARGET_NETNSID (Linux 4.20) act there.
"""

import errno
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address

from flannel.errors import KernelError
from flannel.kernel import rtlayout as rt
from flannel.kernel.rtnetlink import RtNetlink


@dataclass(frozen=True, slots=True)
class Stray:
    """A VXLAN link in another namespace.

    :ivar namespace: the number that ours has for it.
    :ivar index: of the link, there.
    """

    namespace: int
    index: int
    name: str
    alias: str
    local: IPv4Address | None


def find_vxlan(vni: int, port: int) -> list[Stray]:
    """The VXLAN links with this VNI and port in all namespaces that ours knows.

    :raises KernelError: the namespaces cannot be listed.
    """
    found = []
    with RtNetlink() as tables:
        for namespace in _list_namespaces(tables):
            # It ends meanwhile, is not ours to look into, or the kernel cannot look there.
            with suppress(KernelError):
                found += _find_in(tables, namespace, vni, port)
    return found


def delete(stray: Stray) -> None:
    """Delete the link; content if it is absent.

    :raises KernelError: the kernel refuses.
    """
    body = rt.IFINFOMSG.pack(0, 0, stray.index, 0, 0)
    target = rt.number_attribute(rt.IFLA_TARGET_NETNSID, stray.namespace)
    doing = f"delete link {stray.name} in another network namespace"
    with RtNetlink() as tables:
        try:
            tables.request(rt.RTM_DELLINK, doing, body, target)
        except KernelError as why:
            if why.errno != errno.ENODEV:
                raise


def _list_namespaces(tables: RtNetlink) -> list[int]:
    payloads = tables.dump(rt.RTM_GETNSID, rt.RTGENMSG.pack(0), "list network namespaces")
    return [
        rt.number(rt.attributes(payload, rt.RTGENMSG.size).get(rt.NETNSA_NSID))
        for payload in payloads
    ]


def _find_in(tables: RtNetlink, namespace: int, vni: int, port: int) -> list[Stray]:
    body = rt.IFINFOMSG.pack(0, 0, 0, 0, 0)
    target = rt.number_attribute(rt.IFLA_TARGET_NETNSID, namespace)
    payloads = tables.dump(rt.RTM_GETLINK, body + target, "list the links of another namespace")
    parsed = (_parse(payload, namespace, vni, port) for payload in payloads)
    return [stray for stray in parsed if stray is not None]


def _parse(payload: bytes, namespace: int, vni: int, port: int) -> Stray | None:
    _, _, index, _, _ = rt.IFINFOMSG.unpack_from(payload)
    link = rt.attributes(payload, rt.IFINFOMSG.size)
    if rt.IFLA_TARGET_NETNSID not in link:
        return None  # an older kernel lists the links of this namespace instead
    info = rt.attributes(link.get(rt.IFLA_LINKINFO, b""), 0)
    if _text(info.get(rt.IFLA_INFO_KIND)) != "vxlan":
        return None
    settings = rt.attributes(info.get(rt.IFLA_INFO_DATA, b""), 0)
    there = int.from_bytes(settings.get(rt.IFLA_VXLAN_PORT, b""), "big")
    if (rt.number(settings.get(rt.IFLA_VXLAN_ID)), there) != (vni, port):
        return None
    local = settings.get(rt.IFLA_VXLAN_LOCAL)
    return Stray(
        namespace,
        index,
        _text(link.get(rt.IFLA_IFNAME)),
        _text(link.get(rt.IFLA_IFALIAS)),
        IPv4Address(local) if local else None,
    )


def _text(attribute: bytes | None) -> str:
    return (attribute or b"").rstrip(b"\0").decode(errors="replace")
