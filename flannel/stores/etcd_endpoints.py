"""Endpoints: sends single requests of the v2 API to etcd's members in turn; classifies the outcome.

It is the only user of python-etcd. These features of the library are turned off, because each would
lose or double a write, or hide a dead member: re-sending a PUT whose answer was lost (urllib3's
default), following redirects with our password, replacing the endpoints by those that the cluster
advertises, and failover.
"""

import json
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import urlsplit

import urllib3

from flannel.errors import StoreDenied, StoreUnavailable
from flannel.imports import deferred
from flannel.lease import LAST_INDEX
from flannel.stores import StoreHealth, bounded, resolver
from flannel.stores.idle_cuts import LEAST_SILENCE, IdleCuts
from flannel.stores.tls_trouble import TlsFiles, find_misfit, why_tls_failed

with deferred("dns.resolver"):  # for python-etcd's ``srv_domain``
    import etcd

log = logging.getLogger(__name__)

_CONNECT = 1.0
_REQUEST_TIMEOUT = urllib3.Timeout(connect=_CONNECT, read=2.0)
"""Seconds for a request to one member. A write takes 2 ms; if a member needs seconds, the next one
is asked."""

_ANSWER = bounded.Bounds(6.0, 4 << 20)
"""For the whole of an answer about one key, whose value may be of any size...
"""
_LISTING = bounded.Bounds(30.0, 32 << 20)
"""...and of one about a directory: 60,000 leases are 15 MB."""

_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # tcp(7). A long poll is silent, and so is a partition or a server without power: send a probe
    # after two seconds of silence, and close the connection after three without an answer.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4000),
)

_WITHOUT_END = (bounded.TooLate, bounded.TooLong)
_NO_END = "its answer has no end"
_NO_V2 = "it does not serve the v2 API (etcd wants --enable-v2)"


class Answer(NamedTuple):
    """etcd's document, and its X-Etcd-Index."""

    document: dict[str, Any]
    etcd_index: int


class Refused(StoreUnavailable):
    """etcd did not do what the request asks: the root of the four classes below.

    An impossible refusal, such as a conflict for a read, makes the answer untrustworthy.
    """

    def __init__(self, index: int = 0) -> None:
        super().__init__(f"etcd's answer makes no sense here: {type(self).__name__}")
        self.index = index


class NotFound(Refused):
    """The key does not exist; ``index`` is etcd's index at that moment."""


class Conflict(Refused):
    """A condition of a write (prevExist, prevIndex) does not hold."""


class ValueRefused(Refused):
    """etcd refuses a write of a value with ``refresh``, as 2.3 and later do."""


class HistoryLost(Refused):
    """etcd has dropped the events that a watch asked for, or a different cluster answers."""


class Endpoints:
    """The endpoints of one cluster.

    `ask` and `poll` block and may be called from any thread. Reads and writes go to the member
    that answered last, and to the next one if it does not answer. A request whose answer was lost
    is sent again to the next member, so a `Conflict` may be caused by our own request: after one,
    the caller has to read the key.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        certfile: Path | None = None,
        keyfile: Path | None = None,
        cafile: Path | None = None,
        username: str = "",
        password: str = "",
    ) -> None:
        self._files = TlsFiles(cafile, certfile, keyfile)

        def client(endpoint: str) -> Any:
            url = urlsplit(endpoint)
            made = etcd.Client(
                host=url.hostname if ":" not in (url.hostname or "") else f"[{url.hostname}]",
                port=url.port,
                protocol=url.scheme,
                cert=(str(certfile), str(keyfile)) if certfile and keyfile else None,
                ca_cert=str(cafile) if cafile else None,
                username=username or None,
                password=password or None,
                allow_reconnect=False,
                allow_redirect=False,
            )
            made.http.pool_classes_by_scheme = bounded.POOLS
            made.http.connection_pool_kw["retries"] = False
            made.http.connection_pool_kw["socket_options"] = _SOCKET_OPTIONS
            return made

        self._endpoints = tuple(endpoints)
        self._clients = [client(endpoint) for endpoint in endpoints]
        # Long polls have their own connections, so that a short request never waits behind one.
        self._pollers = [client(endpoint) for endpoint in endpoints]
        self._current = 0
        self._answered_at: float | None = None
        self._heard_at = 0.0
        self._errors = 0
        self._cuts = IdleCuts()

    def ask(self, doing: str, method: str, key: str, params: Mapping[str, str]) -> Answer:
        """Send one request to the members in turn, until one answers.

        :param doing: for messages, e.g. ``read the network config``.
        :raises Refused: etcd refuses the request.
        :raises StoreUnavailable: no member answered.
        :raises StoreDenied: no member answered, and one refuses our credentials, or we refuse its
            certificate.
        """
        trouble = []
        failed: type[StoreUnavailable | StoreDenied] = StoreUnavailable
        bounds = _LISTING if "recursive" in params else _ANSWER
        first = self._current
        for turn in range(len(self._clients)):
            number = (first + turn) % len(self._clients)
            client = self._clients[number]
            try:
                answer = self._request(client, method, key, params, _REQUEST_TIMEOUT, bounds)
            except Refused:
                self._answered(number)
                raise
            except (_Denied, _Trouble) as why:
                # Certificates expire member by member: another member's may be good.
                if isinstance(why, _Denied):
                    failed = StoreDenied
                trouble.append(f"{self._endpoints[number]}: {why}")
                self._heard_at = monotonic()  # each may take long
            else:
                self._answered(number)
                return answer
        self._failed()
        raise failed(f"cannot {doing}: {'; '.join(trouble)}")

    @property
    def patience(self) -> float:
        """Seconds after which `ask` and `poll` have ended, by the sum of their bounds."""
        return len(self._clients) * (resolver.PATIENCE + _CONNECT + _LISTING.seconds)

    def poll(
        self, doing: str, key: str, params: Mapping[str, str], seconds: float
    ) -> Answer | None:
        """Wait for an event at the member that answered last; None if none came in time.

        A member that hangs looks the same as one without events, and so does a connection that is
        cut after a silence: after None, call `ask`, which moves on to another member if needed.

        :raises: as `ask` does.
        """
        number = self._current
        timeout = urllib3.Timeout(connect=_CONNECT, read=seconds)
        bounds = replace(_LISTING, seconds=seconds + _ANSWER.seconds)
        began = monotonic()
        try:
            answer = self._request(
                self._pollers[number], "GET", key, {**params, "wait": "true"}, timeout, bounds
            )
        except etcd.EtcdWatchTimedOut:
            self._heard_at = monotonic()
            self._cuts.note_whole(self._endpoints[number], monotonic() - began)
            return None
        except Refused:
            self._answered(number)
            raise
        except (_Denied, _Trouble) as why:
            silence, age = monotonic() - began, bounded.connection_age()
            if isinstance(why, _Broken) and age is not None and silence >= LEAST_SILENCE:
                self._cuts.note_cut(self._endpoints[number], silence, age)
                return None
            self.leave(number)
            failed = StoreDenied if isinstance(why, _Denied) else StoreUnavailable
            raise failed(f"cannot {doing}: {self._endpoints[number]}: {why}") from None
        self._answered(number)
        return answer

    def _request(self, client: Any, *request: Any) -> Answer:
        try:
            return _request(client, *request)
        except etcd.EtcdWatchTimedOut:  # a connection that failed, to python-etcd
            raise
        except etcd.EtcdConnectionFailed as error:
            raise _connection_trouble(error.cause, self._files) from None
        except (_Denied, _Trouble):
            # A load balancer keeps a connection at one server: a new one may reach a better server.
            client.http.clear()
            raise

    @property
    def first(self) -> int:
        """The number of the member that is asked first now."""
        return self._current

    def leave(self, number: int) -> str:
        """Ask the member after ``number`` first, unless that has changed; return its endpoint."""
        self._failed()
        if self._current == number:
            self._current = (number + 1) % len(self._clients)
        return self._endpoints[number]

    def miss(self) -> None:
        """Count a request that could not be sent, because this host lacks a resource."""
        self._failed()

    def health(self) -> StoreHealth:
        """How the members answer."""
        endpoint = self._endpoints[self._current]
        return StoreHealth(endpoint, self._answered_at, self._heard_at, self._errors)

    def _answered(self, number: int) -> None:
        self._current = number
        self._answered_at = self._heard_at = monotonic()

    def _failed(self) -> None:
        self._heard_at = monotonic()
        self._errors += 1

    def close(self) -> None:
        """Close all connections that no request uses."""
        for client in (*self._clients, *self._pollers):
            client.http.clear()


class _Trouble(Exception):
    """This member gave no usable answer; another one may."""


class _Broken(_Trouble):
    """The connection ended, or a proxy before the member answered instead of it."""


class _Denied(Exception):
    """Credentials or certificates are wrong, this member's or ours."""


_OUTCOMES: Sequence[tuple[Any, Callable[[int], Exception]]] = (
    (etcd.EtcdAlreadyExist, Conflict),
    (etcd.EtcdCompareFailed, Conflict),
    (etcd.EtcdEventIndexCleared, HistoryLost),
    (etcd.EtcdClusterIdChanged, HistoryLost),
    (etcd.EtcdWatcherCleared, HistoryLost),
    (etcd.EtcdInsufficientPermissions, lambda _: _Denied("user name or password refused")),
    (etcd.EtcdLeaderElectionInProgress, lambda _: _Trouble("it is electing a leader")),
    (etcd.EtcdNotFile, lambda _: _Trouble("the key is a directory")),
    (etcd.EtcdNotDir, lambda _: _Trouble("a part of the key is not a directory")),
)

_REFRESH_VALUE = 211
"""EcodeRefreshValue in etcd's error/error.go; python-etcd does not know it."""


def _request(
    client: Any,
    method: str,
    key: str,
    params: Mapping[str, str],
    timeout: urllib3.Timeout,
    bounds: bounded.Bounds,
) -> Answer:
    try:
        with bounded.answer_within(bounds):
            response = client.api_execute(
                client.key_endpoint + key, method, params=dict(params), timeout=timeout
            )
        index = int(response.headers["X-Etcd-Index"])
        if not _is_index(index):
            raise ValueError
        return Answer(_document(response.data), index)
    except etcd.EtcdWatchTimedOut as over:
        if isinstance(_innermost(over.cause), bounded.TooLate):
            raise _Trouble(_NO_END) from None
        raise
    except etcd.EtcdConnectionFailed:
        raise
    except etcd.EtcdException as error:
        raise _outcome(error, error.payload or {}) from None
    except (ValueError, KeyError, TypeError, RecursionError):  # the answer is not etcd's
        raise _Trouble(_NO_V2) from None


def _document(data: bytes) -> dict[str, Any]:
    """Parse and check an answer.

    It holds a node, perhaps with further nodes; each has the index of its last write, and its
    values have the right types.

    :raises ValueError: or KeyError, TypeError, RecursionError: it does not.
    """
    document: dict[str, Any] = json.loads(data)
    root = document["node"]
    if not isinstance(root, dict):
        raise TypeError
    for node in (root, *root.get("nodes", ())):
        if not isinstance(node, dict) or not _is_index(node["modifiedIndex"]):
            raise TypeError
        if type(node.get("ttl", 0)) is not int or not isinstance(node.get("value", ""), str):
            raise TypeError
    if not isinstance(document["action"], str):
        raise TypeError
    return document


def _is_index(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= LAST_INDEX


def _outcome(error: etcd.EtcdException, payload: Mapping[str, Any]) -> Exception:
    """The exception for an error of etcd."""
    index = payload.get("index")
    if not _is_index(index):
        index = 0
    if isinstance(error, etcd.EtcdKeyNotFound):
        return NotFound(index) if "errorCode" in payload else _Trouble(_NO_V2)
    for kind, outcome in _OUTCOMES:
        if isinstance(error, kind):
            return outcome(index)
    if payload.get("errorCode") == _REFRESH_VALUE:
        return ValueRefused(index)
    # Without a status it was not JSON, as the 404 page of an etcd 3 without --enable-v2.
    status = payload.get("status")
    return _Broken(f"HTTP status {status}" if status else _NO_V2)


def _innermost(error: object) -> object:
    while isinstance(error, BaseException) and not isinstance(error, _WITHOUT_END):
        deeper = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(deeper, BaseException) or deeper is error:
            break
        error = deeper
    return error


def _connection_trouble(cause: object, files: TlsFiles) -> Exception:
    """The exception for an error that urllib3 wraps in several layers."""
    inner = _innermost(cause)
    if isinstance(inner, _WITHOUT_END):
        return _Trouble(_NO_END)
    if isinstance(cause, urllib3.exceptions.SSLError) or "SSL" in type(inner).__name__:
        return _Denied(f"TLS: {why_tls_failed(inner, files)}")
    if isinstance(inner, FileNotFoundError | PermissionError) and (misfit := find_misfit(files)):
        return _Denied(f"TLS: {misfit}")
    if isinstance(inner, OSError) and inner.strerror:
        kind = _Broken if isinstance(inner, ConnectionResetError) else _Trouble
        return kind(inner.strerror.lower())
    if isinstance(cause, urllib3.exceptions.TimeoutError):
        return _Trouble("no answer in time")
    return _Broken("the connection broke")
