"""dockerd's HTTP API by its socket (docs.docker.com/reference/api/engine): JSON in, JSON out.

The API, not the command `docker`: that is a package of its own since Debian 13 and missing on many
hosts, it reads contexts and files of its user, and it starts a program of 50 MB for each look. The
paths have no version, so dockerd answers in its own. HTTP/1.0: each answer ends with its
connection, and its body has no chunks.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flannel.errors import BadOption, CannotHandOver
from flannel.printable import as_json, printable

SOCKET = Path("/run/docker.sock")
"""Docker's default, where docker.socket of systemd listens as well."""
PID_FILE = Path("/run/docker.pid")
"""dockerd's default for --pidfile."""

_TIMEOUT = 30.0
"""Seconds for an answer; a network is made in 0.1, and waits for the lock of iptables."""
_LARGEST = 8 << 20
"""The most bytes of an answer: the containers and networks of a host."""


class DockerApi:
    """Asks one dockerd.

    :param environ: DOCKER_HOST, docker's own variable, may name a different socket.
    :raises BadOption: DOCKER_HOST names no socket of this host.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        host = environ.get("DOCKER_HOST", "")
        if host and not host.startswith("unix:///"):
            text = printable(host, 60)
            raise BadOption(
                f"cannot use DOCKER_HOST {text}: docker is asked by its socket, unix:///..."
            )
        self.socket = Path(host.removeprefix("unix://")) if host else SOCKET

    def _require_running(self) -> None:
        # A connection to docker.socket would start a docker that its operator has stopped.
        if self.socket == SOCKET and not PID_FILE.exists():
            raise CannotHandOver(f"docker does not run: there is no {PID_FILE}")

    async def get(self, path: str) -> Any:
        """The document at ``path``.

        :raises CannotHandOver: docker does not answer, or refuses.
        """
        return await self._ask("GET", path)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to ``body``; raises as `get`."""
        return await self._ask("POST", path, body)

    async def delete(self, path: str) -> None:
        """Delete what is at ``path``, which need not be there; raises as `get`."""
        await self._ask("DELETE", path, may_lack=True)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        may_lack: bool = False,
    ) -> Any:
        self._require_running()
        content = as_json(body).encode() if body is not None else b""
        head = f"{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        try:
            async with asyncio.timeout(_TIMEOUT):
                answer = await self._exchange(request)
        except TimeoutError:
            raise CannotHandOver(
                f"cannot ask docker at {self.socket}: no answer within {_TIMEOUT:g} s"
            ) from None
        except OSError as why:
            reason = why.strerror or os.strerror(why.errno) if why.errno else str(why)
            raise CannotHandOver(f"cannot ask docker at {self.socket}: {reason}") from why
        status, document = _parse(answer)
        if may_lack and status == 404:
            return None
        if not 200 <= status < 300:
            words = document.get("message") if isinstance(document, dict) else None
            reason = printable(str(words or f"HTTP status {status}"), 300)
            raise CannotHandOver(f"cannot change docker's network: docker answers: {reason}")
        return document

    async def _exchange(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(os.fspath(self.socket))
        try:
            writer.write(request)
            await writer.drain()
            answer = bytearray()
            while len(answer) <= _LARGEST and (more := await reader.read(1 << 16)):
                answer += more
            return bytes(answer)
        finally:
            writer.close()


def _parse(answer: bytes) -> tuple[int, Any]:
    """The status and the document; None without one.

    :raises CannotHandOver: it is not an answer of docker.
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(answer) > _LARGEST or len(words) < 3 or not words[1].isdigit():
        raise CannotHandOver("cannot use the answer of docker: it is not HTTP, or too long")
    try:
        return int(words[1]), json.loads(body) if body.strip() else None
    except (ValueError, RecursionError):
        raise CannotHandOver("cannot use the answer of docker: it is not JSON") from None
