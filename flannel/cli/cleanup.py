"""flannel cleanup: remove everything of flannel's from this host, and release its lease.

With --keep-lease the host keeps lease and identity: it gets the same subnet when it comes back.
"""

import asyncio
from functools import partial
from pathlib import Path

from flannel.cli.context import Context
from flannel.cli.running import refuse_while_running
from flannel.daemon import identity, saved_state
from flannel.errors import CannotWrite, FlannelError, KernelError, StoreError
from flannel.firewall.removal import Part, find_ours
from flannel.handover import docker_opts
from flannel.health.pages import socket_path
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import EVERYTHING
from flannel.kernel.host import is_container_bridge, is_ours
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.lease import Lease
from flannel.printable import say
from flannel.run_lock import FILE_NAME

_RELEASE = (
    "{} is leased to this host, which has no identity any more. Until the lease ends, other hosts "
    "keep routes to it, and nobody else gets it. Release it?"
)


async def cleanup(context: Context, keep_lease: bool = False) -> int:
    """Show what is ours, ask, remove it, and ask for the lease; exit status 1 if something is left.

    :param keep_lease: keep lease, identity and saved state, and do not ask for them.
    :raises BadOption: flanneld is running.
    """
    await refuse_while_running(context, "clean up")
    node_id = identity.find(context.options.state_dir) if not keep_lease else ""
    async with context.kernel() as kernel:
        firewall = await find_ours()
        handed_over, unasked = await context.find_handed_over()
        parts = [*handed_over, *await _links(kernel.netlink), *_entries(kernel.tables)]
        parts += [*blackhole_parts(kernel), *firewall.parts, *_files(context, keep_lease)]
        unread = firewall.unread + unasked
        notes = [f"not seen: {why}" for why in unread + firewall.foreign]
        if not context.as_json:
            say(*_found(parts), *notes)
        question = "Containers here are cut off from the other hosts without it. Remove it?"
        if parts and not context.confirm(question):
            return 1
        removed, failed = await remove_parts(parts)
    released, left = await _release(context, node_id)
    document = {"removed": removed, "failed": failed, "unread": unread + firewall.foreign,
                "released": released}  # fmt: skip
    context.show(document, *_outcome(removed, failed), *(f"released {each}" for each in released),
                 left if removed or released else "")  # fmt: skip
    return 1 if failed or unread else 0


def _found(parts: list[Part]) -> list[str]:
    if not parts:
        return ["there is nothing of ours on this host"]
    return ["of ours on this host:", *(f"  {each.what}" for each in parts)]


def _outcome(removed: list[str], failed: list[str]) -> list[str]:
    if failed:
        return ["NOT removed:", *(f"  {why}" for why in failed)]
    return ["removed"] if removed else []


async def _release(context: Context, node_id: str) -> tuple[list[str], str]:
    """Release the leases of this host after asking: those released, and a note on one that stays.

    :param node_id: the identity of this host; "": none is known.
    """
    stays = "the lease stays in etcd until it ends, or: flannel release SUBNET"
    if not node_id:
        return [], stays
    try:
        leases = [each for each in (await context.store.snapshot()).leases if _is_of(each, node_id)]
        released = [each for each in leases if context.confirm(_RELEASE.format(each.subnet))]
        for each in released:
            await context.store.release(each)
    except StoreError as why:
        return [], f"{stays}; {why}"
    return [str(each) for each in released], stays if len(released) < len(leases) else ""


def _is_of(lease: Lease, node_id: str) -> bool:
    """Whether that host holds it, other than as a reservation."""
    return lease.attrs.node_id == node_id and lease.ttl is not None


async def remove_parts(parts: list[Part]) -> tuple[list[str], list[str]]:
    """Remove each part; return the names of those removed, and the reasons for the rest."""
    removed, failed = [], []
    for each in parts:
        try:
            await each.remove()
        except FlannelError as why:
            failed.append(str(why))
        else:
            removed.append(each.what)
    return removed, failed


async def _links(netlink: Netlink) -> list[Part]:
    """Our device, and the bridge of -hand-over if no container is on it."""
    links = await netlink.list_links()
    used = {link.master for link in links}
    return [
        Part(f"device {link.name}", partial(netlink.delete_link, link))
        for link in links
        if is_ours(link) or (is_container_bridge(link) and link.index not in used)
    ]


def _entries(tables: RtNetlink) -> list[Part]:
    entries = tables.list_own(EVERYTHING)

    async def remove() -> None:
        # Routes over our link have ended with it.
        for entry, errno, words in tables.delete(tables.list_own(EVERYTHING)):
            raise KernelError(f"remove {entry}", errno, words)

    return [Part(f"{len(entries)} routes and nexthops", remove)] if entries else []


def blackhole_parts(kernel: Kernel) -> list[Part]:
    """The routes of -ip-blackhole-route."""
    return [
        Part(f"blackhole route {dst}", partial(kernel.netlink.delete_blackhole, dst))
        for dst in sorted(kernel.tables.list_blackholes())
    ]


def _files(context: Context, keep_lease: bool) -> list[Part]:
    subnet_file, state = context.options.subnet_file, context.options.state_dir
    paths = [
        subnet_file,
        subnet_file.with_name(docker_opts.FILE_NAME),
        socket_path(subnet_file),
        subnet_file.with_name(FILE_NAME),
    ]
    if not keep_lease:
        paths += [state / saved_state.FILE_NAME, state / identity.FILE_NAME, state / FILE_NAME]
    return [
        Part(f"file {path}", partial(asyncio.to_thread, _unlink, path))
        for path in paths
        if path.exists()
    ]


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as why:
        raise CannotWrite(f"cannot remove {path}: {why.strerror}") from why
