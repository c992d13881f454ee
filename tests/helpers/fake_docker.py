"""A dockerd of which only the networks are there, on a socket of a test's directory."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from flannel.handover.docker_api import DockerApi

T = TypeVar("T")


class FakeDocker:
    """Answers as dockerd does.

    :ivar networks: by id, as dockerd shows them.
    :ivar containers: the names of those attached to a network, by its id.
    :ivar refuses: the answer to each request that changes something: a status and a message.
    :ivar raw: the whole answer to each request, if it is set.
    :ivar asked: methods and paths, in order.
    """

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "docker.sock"
        self.api = DockerApi({"DOCKER_HOST": f"unix://{self._socket}"})
        self.networks: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, list[str]] = {}
        self.refuses: tuple[int, str] | None = None
        self.raw: bytes | None = None
        self.asked: list[str] = []

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` while dockerd runs."""

        async def all_of_it() -> T:
            async with await asyncio.start_unix_server(self._serve, self._socket):
                return await work()

        return asyncio.run(all_of_it())

    def add(self, **network: Any) -> str:
        """Make a network; return its id."""
        number = f"{len(self.asked)}{len(self.networks)}"
        self.networks[number] = {"Id": number, **network}
        return number

    def by_name(self) -> dict[str, dict[str, Any]]:
        return {each["Name"]: each for each in self.networks.values()}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, version = head.splitlines()[0].split()
        length = int(head.partition("Content-Length: ")[2].split()[0])
        body = json.loads(await reader.readexactly(length)) if length else None
        assert version == "HTTP/1.0"
        self.asked.append(f"{method} {urlsplit(target).path}")
        status, answer = self._answer(method, target, body)
        text = json.dumps(answer) if answer is not None else ""
        writer.write(self.raw or f"HTTP/1.0 {status} X\r\nA: b\r\n\r\n{text}".encode())
        await writer.drain()
        writer.close()

    def _answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        path = urlsplit(target).path
        if method != "GET" and self.refuses is not None:
            status, message = self.refuses
            return status, {"message": message}
        match method, path.split("/")[1:]:
            case "GET", ["networks"]:
                return 200, list(self.networks.values())
            case "GET", ["containers", "json"]:
                query = parse_qs(urlsplit(target).query)
                assert query["all"] == ["1"]
                (network,) = json.loads(query["filters"][0])["network"]
                names = self.containers.get(network, [])
                return 200, [{"Id": name * 8, "Names": [f"/{name}"]} for name in names]
            case "POST", ["networks", "create"]:
                del body["CheckDuplicate"]
                return 201, {"Id": self.add(**body, Scope="local")}
            case "DELETE", ["networks", number]:
                found = self.networks.pop(number, None)
                return (204, None) if found else (404, {"message": "network not found"})
        return 404, {"message": "page not found"}
