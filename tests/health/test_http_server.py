"""The small HTTP server: right answers, and clients that misbehave."""

import asyncio
import http.client
import resource
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from loopback import tcp_port
from waiting import wait_for

from flannel.health import connections, http_server
from flannel.health.http_server import Page, answer, serving


async def well() -> Page:
    return Page(200, b"well\n")


async def ill() -> Page:
    return Page(503, b"ill\n")


PAGES = {"/a": well, "/b": ill}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client is too slow, however long this machine needs for it."""
    monkeypatch.setattr(connections, "PATIENCE", 600.0)


async def broken() -> Page:
    raise RuntimeError("a mistake")


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /a HTTP/1.1", 200, "well\n"),
        ("GET /a?x=1 HTTP/1.0", 200, "well\n"),
        ("HEAD /a HTTP/1.1", 200, ""),
        ("GET /b HTTP/1.1", 503, "ill\n"),
        ("GET /c HTTP/1.1", 404, "there is /a, /b\n"),
        ("POST /a HTTP/1.1", 405, "only GET and HEAD\n"),
        ("GET /a", 400, "this is not HTTP/1.1\n"),
        ("", 400, "this is not HTTP/1.1\n"),
        ("\xff\xfe GET /a x HTTP/1.1", 400, "this is not HTTP/1.1\n"),
    ],
)
def test_each_request_has_its_answer(request_line: str, status: int, body: str) -> None:
    request = f"{request_line}\r\nHost: x\r\n\r\n".encode("latin-1")
    head, _, found = asyncio.run(answer(request, PAGES)).decode("latin-1").partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert found == body
    assert "Connection: close" in head.split("\r\n")


def test_head_has_the_content_length_of_get() -> None:
    assert b"Content-Length: 5\r\n" in asyncio.run(answer(b"HEAD /a HTTP/1.1\r\n\r\n", PAGES))


def test_a_page_with_a_mistake_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    found = asyncio.run(answer(b"GET /x HTTP/1.1\r\n\r\n", {"/x": broken}))
    assert found.startswith(b"HTTP/1.1 500 ")
    assert "a mistake" in caplog.text


def serve(path: Path, talk: Callable[[], None]) -> None:
    """Run ``talk`` in a thread while ``PAGES`` are served at ``path``."""

    async def main() -> None:
        async with serving(path, PAGES):
            await asyncio.to_thread(wait_for, lambda: is_listening(path))
            await asyncio.to_thread(talk)

    asyncio.run(main())


def is_listening(path: Path) -> bool:
    try:
        connect(path).close()
    except OSError:
        return False
    return True


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(100)
    try:
        client.connect(str(path))
    except OSError:
        client.close()
        raise
    return client


def get(path: Path) -> bytes:
    with connect(path) as client:
        client.sendall(b"GET /a HTTP/1.1\r\n\r\n")
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_the_unix_socket_is_its_owners_alone_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "made" / "socket"

    def talk() -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert get(path).endswith(b"well\n")

    serve(path, talk)
    assert not path.exists()


def test_the_socket_file_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    serve(path, lambda: assert_answers(path))


def assert_answers(path: Path) -> None:
    """Sooner or later: on a busy machine this client may be too slow for the server."""
    wait_for(lambda: get_or_nothing(path).endswith(b"well\n"))


def test_slow_and_endless_requests_are_cut_off_and_others_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.3)
    path = tmp_path / "socket"

    def talk() -> None:
        with connect(path) as silent, connect(path) as endless:
            silent.sendall(b"GET /a")
            wait_for(lambda: is_cut_off(endless))
            assert_answers(path)
            wait_for(lambda: is_turned_away(silent))

    serve(path, talk)


def is_cut_off(client: socket.socket) -> bool:
    try:
        client.sendall(b"x" * 4096)
    except OSError:
        return True
    return False


@pytest.fixture
def descriptors() -> Iterator[None]:
    """More than a process has by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("descriptors")
class TestCrowds:
    """Of too many, those that have been there longest without a request go, and no other does."""

    def test_the_oldest_clients_are_dropped_for_the_newest(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"

        def talk() -> None:
            crowd = [connect(path) for _ in range(connections.MAX_CLIENTS + 10)]
            wait_for(lambda: is_turned_away(crowd[9]))
            assert sum(map(is_turned_away, crowd[:11])) in (10, 11)  # is_listening() was there
            assert not any(map(is_turned_away, crowd[11:]))
            for client in crowd:
                client.close()
            assert_answers(path)

        serve(path, talk)

    @pytest.mark.parametrize("sent", [b"", b"G", b"GET /a HTTP/1.1\r\nX-Slow: "])
    def test_a_probe_is_answered_at_once_beside_a_thousand_unfinished_requests(
        self, tmp_path: Path, sent: bytes
    ) -> None:
        path = tmp_path / "socket"

        def talk() -> None:
            crowd = [connect(path) for _ in range(1000)]
            for client in crowd:
                with suppress(OSError):  # it has been turned away
                    client.sendall(sent)
            for _ in range(20):
                assert get(path).endswith(b"well\n")
            for client in crowd:
                client.close()

        serve(path, talk)

    def test_a_probe_is_answered_while_others_keep_coming(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        is_over = threading.Event()
        n_come = 0  # since the probe before

        def come() -> None:
            nonlocal n_come
            crowd: deque[socket.socket] = deque()
            while not is_over.wait(0.001):
                if n_come > 200:
                    continue  # this thread is so much quicker than the one that probes
                crowd.append(connect(path))
                n_come += 1
                if len(crowd) > 1000:
                    crowd.popleft().close()
            for client in crowd:
                client.close()

        def talk() -> None:
            nonlocal n_come
            others = threading.Thread(target=come)
            others.start()
            try:
                for _ in range(50):
                    n_come = 0
                    assert get(path).endswith(b"well\n")
            finally:
                is_over.set()
                others.join()

        serve(path, talk)

    def test_clients_that_are_being_answered_are_dropped_last(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        asked, may_answer = asyncio.Event(), asyncio.Event()

        async def slow() -> Page:
            asked.set()
            await may_answer.wait()
            return Page(200, b"at last\n")

        async def main() -> bytes:
            async with serving(path, {"/slow": slow}):
                await asyncio.to_thread(wait_for, lambda: is_listening(path))
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
                await asked.wait()
                crowd = await asyncio.to_thread(lambda: [connect(path) for _ in range(600)])
                await asyncio.to_thread(wait_for, lambda: is_turned_away(crowd[300]))
                may_answer.set()
                found = await reader.read()
                writer.close()
                for client in crowd:
                    client.close()
                return found

        assert asyncio.run(main()).endswith(b"at last\n")


def is_turned_away(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(100) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def get_or_nothing(path: Path) -> bytes:
    try:
        return get(path)
    except ConnectionError:
        return b""


def test_an_address_in_use_is_logged_once_and_bound_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "_RETRY", 0.02)
    port = tcp_port()
    holder = socket.create_server(("127.0.0.1", port))

    async def main() -> None:
        async with serving(("127.0.0.1", port), PAGES):
            await asyncio.to_thread(wait_for, lambda: bool(caplog.records))
            await asyncio.sleep(0.1)  # several tries
            holder.close()
            await asyncio.to_thread(wait_for, answers)

    def answers() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
        try:
            connection.request("GET", "/a")
            return connection.getresponse().read() == b"well\n"
        except ConnectionRefusedError:
            return False
        finally:
            connection.close()

    asyncio.run(main())
    said = [record for record in caplog.records if record.name == "flannel.health.http_server"]
    assert [record.getMessage() for record in said] == [
        f"cannot listen on 127.0.0.1:{port}: Address already in use; trying again"
    ]


@pytest.mark.parametrize("instead", ["nothing", "another socket", "a file"])
def test_a_socket_file_that_somebody_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instead: str
) -> None:
    monkeypatch.setattr(http_server, "_LOOK", 0.01)
    path = tmp_path / "socket"

    def talk() -> None:
        if instead == "nothing":
            path.unlink()
        else:
            # Put in its place in one step: the server looks all the time and may bind in between.
            other = tmp_path / "other"
            if instead == "a file":
                other.touch()
            else:
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(str(other))
            other.replace(path)
        wait_for(lambda: is_listening(path))
        assert get(path).endswith(b"well\n")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    serve(path, talk)
    assert not path.exists()


def test_if_the_socket_cannot_be_made_again_the_previous_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system may be hidden, full or read-only for a while; others may still see the file."""
    monkeypatch.setattr(http_server, "_LOOK", 0.01)
    monkeypatch.setattr(http_server, "_RETRY", 0.01)
    path, hidden = tmp_path / "run" / "socket", tmp_path / "hidden"
    hidden.mkdir()
    path.parent.symlink_to(hidden)

    def talk() -> None:
        # Both changes in one step: the server looks all the time, and makes what is missing.
        other = tmp_path / "other"
        other.touch()
        other.replace(path.parent)  # no directory
        wait_for(lambda: "cannot listen on" in caplog.text)
        assert get(hidden / "socket").endswith(b"well\n")
        other.symlink_to(hidden)
        other.replace(path.parent)
        assert get(path).endswith(b"well\n")

    serve(path, talk)
    assert not path.exists()
    assert caplog.text.count("cannot listen on") == 1


def test_the_socket_file_of_another_process_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_LOOK", 3600.0)  # it would take the place again
    path = tmp_path / "socket"

    def talk() -> None:
        path.unlink()
        path.touch()

    serve(path, talk)
    assert path.exists()


def test_where_a_socket_cannot_be_made_serving_ends_without_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()

    async def main() -> None:
        async with serving(tmp_path / "file" / "flanneld.sock", PAGES):
            await asyncio.to_thread(wait_for, lambda: bool(caplog.records))

    asyncio.run(main())
    assert "flanneld.sock: File exists; trying again" in caplog.text
