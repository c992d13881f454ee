"""flannel cleanup: remove all that is ours from this host. The lease stays in etcd."""

from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

from flannel import identity, saved_state
from flannel.cli.context import Context, DaemonDown
from flannel.cli.host_view import is_ours
from flannel.errors import BadOption
from flannel.health import socket_path
from flannel.netlink import Link, Netlink
from flannel.reconcile import Entry
from flannel.rtnetlink import RtNetlink

_EVERYTHING = IPv4Network("0.0.0.0/0")


async def cleanup(context: Context) -> int:
    """Show it, ask, remove it."""
    try:
        await context.ask_daemon("/status")
    except DaemonDown:
        pass
    else:
        raise BadOption("cannot clean up: flanneld runs, and would put it back; stop it first")
    async with Netlink() as netlink:
        with RtNetlink() as tables:
            links = [link for link in await netlink.list_links() if is_ours(link)]
            entries = tables.list_own(_EVERYTHING)
            files = _files(context)
            what = _what(links, entries, files)
            if not what:
                context.show({"removed": []}, "there is nothing of ours on this host")
                return 0
            if not context.as_json:
                print("\n".join(["of ours on this host:", *(f"  {each}" for each in what)]))
            question = "Containers here are cut off from the other hosts without it. Remove it?"
            if not context.confirm(question):
                return 1
            for link in links:
                await netlink.delete_link(link)
            tables.delete(tables.list_own(_EVERYTHING))
    for path in files:
        path.unlink(missing_ok=True)
    context.show({"removed": what}, "removed; the lease stays in etcd until it ends, or: flannel "
                 "release SUBNET")  # fmt: skip
    return 0


def _files(context: Context) -> list[Path]:
    subnet_file, state = context.options.subnet_file, context.options.state_dir
    paths = (
        subnet_file,
        socket_path(subnet_file),
        state / saved_state.FILE_NAME,
        state / identity.FILE_NAME,
    )
    return [path for path in paths if path.exists()]


def _what(links: Sequence[Link], entries: Sequence[Entry], files: Sequence[Path]) -> list[str]:
    what = [f"device {link.name}" for link in links]
    if entries:
        what.append(f"{len(entries)} routes and nexthops")
    return what + [f"file {path}" for path in files]
