"""Names of endpoints, resolved in a bounded time.

getaddrinfo(3) has no time limit that a program can set: with three name servers that do not answer
it takes half a minute for each name. So it runs in a thread, at most one for each name, and no
caller waits longer than `PATIENCE`. A later result is used by the next request: with one dead name
server each answer takes five seconds. While no name server answers, a name keeps its last
addresses.
"""

import errno
import socket
import threading
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError

from flannel.threads import NoThread, start

PATIENCE = 2.0
"""Seconds to resolve a name: as many as a request has for its answer."""

_SILENT = (socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY)
"""Errors of getaddrinfo(3) that do not mean that the name does not exist."""


class Unresolved(OSError):
    """No address of the name is known in time."""


class _Lookup:
    """One run of getaddrinfo(3).

    :ivar ended: set after one of the others.
    """

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.addresses: list[str] = []
        self.error: Exception | None = None


class Resolver:
    """The addresses of names. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, list[str]] = {}
        self._running: dict[str, _Lookup] = {}

    def addresses(self, name: str) -> list[str]:
        """The addresses of ``name``, best first; if it is an address, that one.

        :raises socket.gaierror: there is no such name.
        :raises Unresolved: the name cannot be resolved now.
        """
        with suppress(ValueError):
            return [str(ip_address(name))]
        lookup = self._look_up(name)
        if lookup is None or not lookup.ended.wait(PATIENCE):
            return self._known_of(name, "the name does not resolve: no name server answers in time")
        error = lookup.error
        if error is None:
            return lookup.addresses
        if isinstance(error, socket.gaierror) and error.errno not in _SILENT:
            raise error
        return self._known_of(name, f"the name does not resolve: {_reason(error)}")

    def _known_of(self, name: str, why: str) -> list[str]:
        with self._lock:
            if name in self._known:
                return self._known[name]
        raise Unresolved(errno.EHOSTUNREACH, why)

    def _look_up(self, name: str) -> _Lookup | None:
        """The lookup that runs for ``name``, started if needed; None if it cannot be started."""
        with self._lock:
            lookup = self._running.get(name)
            if lookup is None:
                lookup = self._running[name] = _Lookup()
                try:
                    start(lambda: self._run(name, lookup))
                except NoThread:
                    del self._running[name]
                    return None
            return lookup

    def _run(self, name: str, lookup: _Lookup) -> None:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            lookup.addresses = [str(address[0]) for *_, address in found]
        except Exception as error:  # gaierror; UnicodeError of a name that is none
            lookup.error = error
        with self._lock:
            if lookup.addresses:
                self._known[name] = lookup.addresses
            del self._running[name]
        lookup.ended.set()


def _reason(error: Exception) -> str:
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)


class ResolvedInTime(HTTPConnection):
    """A connection of urllib3 to the first address of its host's name that accepts one."""

    _dns_host: str
    """urllib3's attribute: the host to connect to; ``host`` is derived from it."""

    def _new_conn(self) -> Any:
        name = self._dns_host
        try:
            addresses = _of_all.addresses(name.strip("[]"))
        except (OSError, UnicodeError) as why:
            raise NewConnectionError(self, f"cannot resolve {name}: {why}") from why
        try:
            for address in addresses[:-1]:
                self._dns_host = address
                try:
                    return super()._new_conn()
                except Exception:  # the last one's is raised
                    continue
            self._dns_host = addresses[-1]
            return super()._new_conn()
        finally:
            self._dns_host = name


_of_all = Resolver()
