"""flannel hand-back: leave this host to upstream's daemon, while packets flow on.

Upstream's daemon cannot remove a route over a nexthop object, cannot use flannel0 while our TUN
device has that name, and does not update the guard, which drops its datagrams and those of new
hosts. So each of our routes is replaced by one in upstream's form, in one step. The things that
upstream uses too stay: flannel.<VNI>, subnet.env, the lease, and the chain that accepts the
overlay's packets in FORWARD.
"""

from functools import partial

from flannel.cli.cleanup import blackhole_parts, remove_parts
from flannel.cli.context import Context
from flannel.cli.running import refuse_while_running
from flannel.errors import KernelError
from flannel.firewall.removal import Part, find_ours
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import EVERYTHING, Nexthop, Route
from flannel.kernel.host import is_ours
from flannel.kernel.rtnetlink import RtNetlink

_BOOT = 3
"""RTPROT_BOOT: the protocol of upstream's routes, and of those that people add by hand."""


async def hand_back(context: Context) -> int:
    """Hand this host back; return exit status 1 if something could not be changed.

    :raises BadOption: flanneld is running.
    """
    await refuse_while_running(context, "hand this host back")
    async with context.kernel() as kernel:
        firewall = await find_ours(keep_forward=True)
        parts = [
            *_routes(kernel.tables),
            *await _tun_devices(kernel),
            *blackhole_parts(kernel),
            *firewall.parts,
        ]
        done, failed = await remove_parts(parts)
    unread = firewall.unread + firewall.foreign
    lines = [f"handed back: {each}" for each in done] or ["there is nothing to hand back"]
    lines += [f"NOT handed back: {why}" for why in failed]
    lines += [f"not seen: {why}" for why in unread]
    if done and not failed:
        lines.append("start the other daemon now: nobody guards the overlay or masquerades for it")
    context.show({"done": done, "failed": failed, "unread": unread}, *lines)
    return 1 if failed or firewall.unread else 0


def _routes(tables: RtNetlink) -> list[Part]:
    entries = tables.list_own(EVERYTHING)
    routes = [each for each in entries if isinstance(each, Route)]
    hops = [each for each in entries if isinstance(each, Nexthop)]

    async def rewrite() -> None:
        # This replaces the route with the same destination and metric: no route is ever missing.
        failures = tables.put([each._replace(nexthop=0, protocol=_BOOT) for each in routes])
        # Last, as the kernel removes the routes of a removed nexthop.
        kept = {failure.entry.dst for failure in failures if isinstance(failure.entry, Route)}
        failures += tables.delete([hop for hop in hops if hop.id.to_bytes(4, "big") not in kept])
        for entry, number, words in failures:
            raise KernelError(f"hand {entry} back", number, words)

    what = f"{len(routes)} routes, without {len(hops)} nexthops"
    return [Part(what, rewrite)] if entries else []


async def _tun_devices(kernel: Kernel) -> list[Part]:
    return [
        Part(f"device {link.name}", partial(kernel.netlink.delete_link, link))
        for link in await kernel.netlink.list_links()
        if is_ours(link) and link.kind == "tun"
    ]
