"""A host with eth0 and perhaps flannel.1, in memory, and the comparison that a flanneld makes."""

import asyncio
from ipaddress import IPv4Address

from fake_kernel import FakeNetlink

from flannel.backends.vxlan.device import ensure_device
from flannel.kernel.links import Link, VxlanSettings
from flannel.kernel.other_namespaces import Stray
from flannel.kernel.repairs import Repairs

MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:99"
ETH0 = Link(2, "eth0", "", 1500, True, "")
SETTINGS = VxlanSettings(1, 2, IPv4Address("192.0.2.1"), 8472, False, False)
OURS = Link(4, "flannel.1", "vxlan", 1450, True, MAC, SETTINGS, alias="flannel")


class Host:
    """A host with eth0, perhaps our link, and what a flanneld does there."""

    def __init__(self, *links: Link) -> None:
        self.netlink = FakeNetlink(ETH0, *links)
        self.repairs = Repairs()
        self.strays: list[Stray] = []
        self.deleted_strays: list[Stray] = []

    def ensure(
        self, settings: VxlanSettings = SETTINGS, *, mtu: int = 1450, published: bool = True
    ) -> Link:
        made = ensure_device(
            self.netlink,
            mac=MAC,
            mtu=mtu,
            settings=settings,
            repairs=self.repairs,
            published=published,
        )
        return asyncio.run(made)

    @property
    def ours(self) -> Link:
        return self.netlink.by_name("flannel.1")

    def noted(self) -> str:
        """What the comparison would be logged with."""
        self.repairs.commit("flannel.1")
        return self.repairs.last.removeprefix("repaired flannel.1: ")
