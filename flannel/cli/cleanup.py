"""flannel cleanup: remove all that is ours from this host. The lease stays in etcd."""

import json
import shutil
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import NamedTuple

from flannel import programs
from flannel.cli.context import Context, DaemonDown
from flannel.cli.host_view import has_legacy_tables
from flannel.daemon import identity, saved_state
from flannel.errors import BadOption, CannotRun
from flannel.health.pages import socket_path
from flannel.kernel.entries import Entry
from flannel.kernel.host import is_ours
from flannel.kernel.links import Link
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink

_NFT_TABLE = {"family": "ip", "name": "flannel"}
_CHAINS = ("FLANNEL-FWD", "FLANNEL-POSTRTG")
_PATIENCE = 10.0
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
            firewall = await _firewall()
            links = [link for link in await netlink.list_links() if is_ours(link)]
            entries = tables.list_own(_EVERYTHING)
            blackholes = tables.list_blackholes()
            files = _files(context)
            what = _what(links, entries, blackholes, files) + [each.what for each in firewall]
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
            for subnet in blackholes:
                await netlink.delete_blackhole(subnet)
            for each in firewall:
                await _run(each.argv, each.document)
    for path in files:
        path.unlink(missing_ok=True)
    context.show({"removed": what}, "removed; the lease stays in etcd until it ends, or: flannel "
                 "release SUBNET")  # fmt: skip
    return 0


class _Removal(NamedTuple):
    """Something to be removed, and the program that does."""

    what: str
    argv: tuple[str, ...]
    document: str = ""


async def _firewall() -> list[_Removal]:
    """What is ours in the firewall."""
    found = []
    if shutil.which("nft") is not None:
        listed = json.loads(await _run(("nft", "-j", "list", "tables")))["nftables"]
        if any(each.get("table", {}).items() >= _NFT_TABLE.items() for each in listed):
            table = (_NFT_TABLE["family"], _NFT_TABLE["name"])
            found.append(_Removal("nftables table ip flannel", ("nft", "delete", "table", *table)))
    for tool in ("iptables", "iptables-legacy"):
        if shutil.which(f"{tool}-save") is None:
            continue
        # Of the legacy kind an empty table is made by looking at it.
        if tool == "iptables-legacy" and not has_legacy_tables():
            continue
        document = iptables_removal(await _run((f"{tool}-save",)))
        if document:
            argv = (f"{tool}-restore", "--noflush", "--wait")
            found.append(_Removal(f"{tool} chains {', '.join(_CHAINS)}", argv, document))
    return found


def iptables_removal(saved: str) -> str:
    """Input of iptables-restore that removes our chains and the rules that jump to them.

    Empty if there are none.

    :param saved: what iptables-save prints.
    """
    lines: list[str] = []
    table: list[str] = []
    for line in saved.splitlines():
        words = line.split()
        if line.startswith("*"):
            table = [line]
        elif line.startswith(":") and words[0][1:] in _CHAINS:
            table += [f"-F {words[0][1:]}", f"-X {words[0][1:]}"]
        elif line.startswith("-A ") and words[1] not in _CHAINS and words[-1] in _CHAINS:
            table.insert(1, f"-D {line[3:]}")
        elif line == "COMMIT" and len(table) > 1:
            lines += [*table, line]
    return "".join(f"{line}\n" for line in lines)


async def _run(argv: Sequence[str], document: str = "") -> str:
    done = await programs.run(argv, stdin=document.encode(), timeout=_PATIENCE)
    if done.status != 0:
        raise CannotRun(f"cannot run {' '.join(argv)}: {done.complaint}")
    return done.stdout.decode(errors="replace")


def _files(context: Context) -> list[Path]:
    subnet_file, state = context.options.subnet_file, context.options.state_dir
    paths = (
        subnet_file,
        socket_path(subnet_file),
        state / saved_state.FILE_NAME,
        state / identity.FILE_NAME,
    )
    return [path for path in paths if path.exists()]


def _what(
    links: Sequence[Link],
    entries: Sequence[Entry],
    blackholes: Iterable[IPv4Network],
    files: Sequence[Path],
) -> list[str]:
    what = [f"device {link.name}" for link in links]
    if entries:
        what.append(f"{len(entries)} routes and nexthops")
    what += [f"blackhole route {each}" for each in sorted(blackholes)]
    return what + [f"file {path}" for path in files]
