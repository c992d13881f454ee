r"""Iptables: finds the iptables of this host, and reads and writes their rules.

    for tool in await find_iptables():       # the preferred one first
        text = await tool.save(("filter",))
        await tool.restore("*filter\n...\nCOMMIT\n")

There are two iptables: one keeps its rules in nf_tables, the older one beside it ("legacy"), and
the kernel applies both. The name ``iptables`` can mean either (Debian's alternatives), and a host
may have two or three names for the same one. flanneld, `flannel check`, `explain` and `cleanup` all
use this module, so that all of them use the same tables.
"""

import re
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from flannel import programs
from flannel.errors import CannotRun, FirewallError

TIMEOUT = 30.0
"""Seconds for a program of the firewall."""
_LOCK_WAIT = "5"
"""Seconds to wait while another program has iptables' lock."""

SEARCH = "iptables", "iptables-nft", "iptables-legacy"

_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")


class Iptables:
    """One of the two iptables of a host.

    :ivar name: the name of the program.
    :ivar legacy: its rules are not in nf_tables.
    :ivar preferred: other programs that run ``iptables`` get this one.
    :ivar version: such as (1, 8, 9).
    """

    def __init__(self, name: str, version: str, *, preferred: bool) -> None:
        self.name = name
        self.legacy = "nf_tables" not in version
        self.preferred = preferred
        self.version = tuple(map(int, re.findall(r"\d+", version)[:3]))

    async def save(self, tables: Collection[str] | None = None, *, counters: bool = False) -> str:
        """The output of ``iptables-save`` for these tables; None: for all.

        The older iptables is asked only for tables in use: the kernel loads a table that is read.

        :raises CannotRun: the program does not run.
        :raises FirewallError: the program refuses.
        """
        wanted: Collection[str | None] = (None,) if tables is None else tables
        if self.legacy:
            in_use = legacy_tables() or ()
            wanted = in_use if tables is None else [each for each in tables if each in in_use]
        return "".join([await self._save(table, counters) for table in wanted])

    async def _save(self, table: str | None, counters: bool) -> str:
        words = [f"{self.name}-save", *(("-t", table) if table is not None else ())]
        words += ["-c"] if counters else []
        done = await programs.run(words, timeout=TIMEOUT)
        if done.status != 0:
            what = f"table {table}" if table is not None else "the rules"
            raise FirewallError(f"cannot list {what} with {self.name}: {done.complaint}")
        return done.stdout.decode(errors="surrogateescape")

    async def restore(self, text: str) -> None:
        """Apply a document of ``iptables-restore``, in one transaction for each table.

        Only the chains and rules that the document names change.

        :raises CannotRun: the program does not run.
        :raises FirewallError: the program refuses.
        """
        done = await programs.run(
            [f"{self.name}-restore", "--noflush", "-w", _LOCK_WAIT],
            stdin=text.encode(errors="surrogateescape"),
            timeout=TIMEOUT,
        )
        if done.status != 0:
            raise FirewallError(f"cannot write rules with {self.name}: {done.complaint}")


def legacy_tables() -> list[str] | None:
    """The tables of the older iptables that are in use; None if ip_tables is not loaded.

    The kernel loads the module of each table, match and target on demand
    (xt_request_find_table_lock in net/netfilter/x_tables.c), but not ip_tables: the program calls
    modprobe for that, which needs CAP_SYS_MODULE, and flanneld has dropped that capability.

    :raises FirewallError: this process may not read the list.
    """
    try:
        return _LEGACY_TABLES.read_text(errors="replace").split()
    except FileNotFoundError:
        return None
    except OSError as why:
        raise FirewallError(f"cannot list the tables of iptables-legacy: {why.strerror}") from why


async def find_iptables(which: Callable[[str], str | None] = shutil.which) -> list[Iptables]:
    """The iptables of this host, at most one of each kind, the preferred one first.

    :raises CannotRun: a program does not report its version.
    """
    found: list[Iptables] = []
    for name in SEARCH:
        if which(name) is None:
            continue
        done = await programs.run([name, "--version"], timeout=TIMEOUT)
        if done.status != 0:
            raise CannotRun(f"cannot run {name} --version: {done.complaint}")
        each = Iptables(name, done.stdout.decode(errors="replace"), preferred=not found)
        if all(each.legacy is not other.legacy for other in found):
            found.append(each)
    return found


def unlisted_legacy_tables(tools: Iterable[Iptables]) -> list[str]:
    """Why no tool lists the older iptables' tables; [] if one does, or no table is in use."""
    if any(tool.legacy for tool in tools):
        return []
    try:
        tables = legacy_tables()
    except FirewallError as why:
        return [str(why)]
    names = ", ".join(tables or ())
    return (
        [f"tables of iptables-legacy are in use, and it is not installed: {names}"] if names else []
    )
