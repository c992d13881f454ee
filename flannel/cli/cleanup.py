"""flannel cleanup: remove everything of flannel's from this host. The lease stays in etcd."""

import asyncio
from functools import partial
from pathlib import Path

from flannel.cli.context import Context
from flannel.cli.running import refuse_while_running
from flannel.daemon import identity, saved_state
from flannel.errors import CannotWrite, FlannelError, KernelError
from flannel.firewall.removal import Part, find_ours
from flannel.health.pages import socket_path
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import EVERYTHING
from flannel.kernel.host import is_ours
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.printable import say
from flannel.run_lock import FILE_NAME


async def cleanup(context: Context) -> int:
    """Show what is ours, ask, and remove it; exit status 1 if something is left.

    :raises BadOption: flanneld is running.
    """
    await refuse_while_running(context, "clean up")
    async with context.kernel() as kernel:
        firewall = await find_ours()
        parts = [*await _links(kernel.netlink), *_entries(kernel.tables), *blackhole_parts(kernel),
                 *firewall.parts, *_files(context)]  # fmt: skip
        notes = [f"not seen: {why}" for why in firewall.unread + firewall.foreign]
        if not context.as_json:
            say(*_found(parts), *notes)
        question = "Containers here are cut off from the other hosts without it. Remove it?"
        if parts and not context.confirm(question):
            return 1
        removed, failed = await remove_parts(parts)
    document = {"removed": removed, "failed": failed, "unread": firewall.unread + firewall.foreign}
    context.show(document, *_outcome(removed, failed))
    return 1 if failed or firewall.unread else 0


def _found(parts: list[Part]) -> list[str]:
    if not parts:
        return ["there is nothing of ours on this host"]
    return ["of ours on this host:", *(f"  {each.what}" for each in parts)]


def _outcome(removed: list[str], failed: list[str]) -> list[str]:
    if failed:
        return ["NOT removed:", *(f"  {why}" for why in failed)]
    if not removed:
        return []
    return ["removed; the lease stays in etcd until it ends, or: flannel release SUBNET"]


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
    return [
        Part(f"device {link.name}", partial(netlink.delete_link, link))
        for link in await netlink.list_links()
        if is_ours(link)
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


def _files(context: Context) -> list[Part]:
    subnet_file, state = context.options.subnet_file, context.options.state_dir
    paths = (
        subnet_file,
        socket_path(subnet_file),
        subnet_file.with_name(FILE_NAME),
        state / saved_state.FILE_NAME,
        state / identity.FILE_NAME,
        state / FILE_NAME,
    )
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
