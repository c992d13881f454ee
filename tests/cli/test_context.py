"""What commands share: flanneld's socket, the variables of its unit, questions, errors."""

import asyncio
import http.client
import io
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fake_context import World
from fake_host import FakeHost
from waiting import until

from flannel import __version__
from flannel.cli import context as context_module
from flannel.cli.context import (
    Context,
    DaemonDown,
    DaemonUnseen,
    duration,
    environment,
    pairs,
    table,
)
from flannel.cli.main import exit_status
from flannel.errors import BadOption, KernelError
from flannel.health import connections
from flannel.health.http_server import Page, serving
from flannel.health.pages import socket_path
from flannel.options.table import parse
from flannel.stores.etcd_v2 import EtcdV2Store


def context(directory: Path, *argv: str) -> Context:
    return Context(parse([f"-subnet-file={directory}/subnet.env", *argv], {}))


class TestFlanneld:
    """On a real socket, as flanneld serves it."""

    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(context_module, "_PATIENCE", 100.0)
        monkeypatch.setattr(connections, "PATIENCE", 100.0)

    def ask(self, directory: Path, page: Callable[[], Awaitable[Page]]) -> object:
        asking = context(directory)
        path = socket_path(asking.options.subnet_file)

        async def main() -> object:
            async with serving(path, {"/status": page}):
                await until(path.exists)
                return await asking.ask_daemon("/status")

        return asyncio.run(main())

    def test_the_document_of_flanneld_is_read(self, tmp_path: Path) -> None:
        async def page() -> Page:
            return Page(200, b'{"ready": true}', "application/json")

        assert self.ask(tmp_path, page) == {"ready": True}

    def test_an_answer_that_is_not_a_document_is_refused(self, tmp_path: Path) -> None:
        async def page() -> Page:
            return Page(200, b"I am here")

        with pytest.raises(DaemonDown, match=r"cannot ask flanneld at .*flanneld.sock: Expecting"):
            self.ask(tmp_path, page)

    def test_flanneld_is_down_where_it_has_no_socket(self, tmp_path: Path) -> None:
        with pytest.raises(DaemonDown, match=r"flanneld\.sock: No such file or directory") as why:
            asyncio.run(context(tmp_path).ask_daemon("/status"))
        assert not isinstance(why.value, DaemonUnseen)

    def test_a_flanneld_that_may_not_be_asked_is_not_called_down(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Refusing(http.client.HTTPConnection):
            def request(self, *_: object, **__: object) -> None:
                raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(http.client, "HTTPConnection", Refusing)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "flanneld.sock"))
        listener.listen()
        with pytest.raises(DaemonUnseen, match="Permission denied"):
            asyncio.run(context(tmp_path).ask_daemon("/status"))
        listener.close()


class TestDoors:
    def test_the_store_is_the_one_that_the_options_name(self, tmp_path: Path) -> None:
        made = context(tmp_path, "-etcd-endpoints=http://192.0.2.1:4001").store
        assert isinstance(made, EtcdV2Store)
        assert made.health().endpoint == "http://192.0.2.1:4001"

    def test_the_kernel_s_doors_are_open_while_they_are_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host, closed = FakeHost(), []

        class Door:
            def __init__(self, door: object) -> None:
                self.door = door

            def __call__(self) -> "Door":
                return self

            async def __aenter__(self) -> object:
                return self.door

            async def __aexit__(self, *_: object) -> None:
                closed.append("netlink")

            def __enter__(self) -> object:
                return self.door

            def __exit__(self, *_: object) -> None:
                closed.append("tables")

        monkeypatch.setattr(context_module, "Netlink", Door(host.netlink))
        monkeypatch.setattr(context_module, "RtNetlink", Door(host.tables))

        async def look() -> None:
            async with context(tmp_path).kernel() as kernel:
                assert kernel.netlink is host.netlink
                assert kernel.tables is host.tables
                assert closed == []

        asyncio.run(look())
        assert closed == ["tables", "netlink"]

    def test_peers_are_asked_at_the_probe_port(self, tmp_path: Path) -> None:
        asking = context(tmp_path, "-probe-port=0")
        assert asyncio.run(asking.ask_peers([])) == {}


class TestVariables:
    def test_variables_of_the_unit_count_and_the_callers_override_them(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "flanneld"
        file.write_text("# x\nFLANNELD_A=\"one two\"\nFLANNELD_B=file\nPATH=/\nnonsense\n"
                        "FLANNELD_C='x'\nFLANNELD_D='\n")  # fmt: skip
        found = environment({"FLANNELD_B": "shell", "HOME": "/"}, (file, tmp_path / "absent"))
        assert found == {"FLANNELD_A": "one two", "FLANNELD_B": "shell", "FLANNELD_C": "x",
                         "FLANNELD_D": "'"}  # fmt: skip

    def test_a_file_that_cannot_be_read_is_a_mistake(self, tmp_path: Path) -> None:
        with pytest.raises(BadOption, match=f"cannot read {tmp_path}: Is a directory"):
            environment({}, (tmp_path,))


class TestQuestions:
    @pytest.mark.parametrize(
        ("typed", "answer"), [("y\n", 0), ("YES \n", 0), ("n\n", 1), ("\n", 1), ("", 1)]
    )
    def test_a_yes_is_a_yes_and_all_else_is_a_no(
        self, world: World, typed: str, answer: int
    ) -> None:
        world.terminal = typed
        done = world.run("release", "10.1.9.0/24")
        assert done.status == answer
        assert done.err.endswith("Release it? [y/N] ")

    @pytest.mark.parametrize("stdin", [io.StringIO(""), None], ids=["empty", "closed"])
    def test_without_an_answer_nothing_is_done(
        self, monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO | None
    ) -> None:
        monkeypatch.setattr("sys.stdin", stdin)
        asking = Context(options=None)  # type: ignore[arg-type] # none are read
        with pytest.raises(BadOption, match="use --yes"):
            asking.confirm("Really?")
        assert Context(None, yes=True).confirm("Really?")  # type: ignore[arg-type]


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "status", "text"),
        [
            (BadOption("cannot use -x: why"), 2, "flannel: cannot use -x: why\n"),
            (KernelError("look", 1), 1, "flannel: cannot look: Operation not permitted\n"),
            (KeyboardInterrupt(), 130, ""),
        ],
    )
    def test_each_kind_has_its_exit_status(
        self, error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def fail() -> int:
            raise error

        assert exit_status(fail()) == status
        assert capsys.readouterr().err == text

    def test_a_flanneld_of_another_version_is_named_and_not_taken_for_a_bug(
        self, world: World
    ) -> None:
        del world.daemon["conditions"]
        with pytest.raises(KeyError):
            world.run("status")
        world.daemon["version"] = "0.0.9\x1b"
        done = world.run("status")
        assert done.status == 1
        assert done.err == (
            "flannel: cannot understand flanneld, which is version 0.0.9\\x1b, and flannel "
            f"{__version__}; restart flanneld\n"
        )
        world.pages = {"/status": []}
        assert "version unknown" in world.run("check").err

    def test_a_reader_that_ends_early_causes_no_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As with ``flannel leases | head -1``."""
        reader, writer = os.pipe()
        with open(writer, "w") as stdout:  # noqa: PTH123 # a descriptor
            monkeypatch.setattr("sys.stdout", stdout)

            async def fail() -> int:
                raise BrokenPipeError

            assert exit_status(fail()) == 1
            os.close(reader)
            stdout.write("more\n")  # into /dev/null


def test_a_terminal_that_lacks_a_character_gets_an_escape(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", write_through=True) as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        Context(parse([], {})).show({}, "Köln")
        assert raw.getvalue() == b"K\\xf6ln\n"


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert table([("a", 1.5), ("long", None)], ("NAME", "MS")) == [
        "NAME    MS",
        "a     1.50",
        "long     -",
    ]
    assert table([], ("NAME", "MS")) == ["NAME  MS"]
    assert pairs([("a", "x"), ("long", "y"), ("none", None)]) == ["a     x", "long  y"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (5, "5 s"), (65, "1 min 5 s"), (3600, "1 h"), (86399, "23 h 59 min"),
     (90000, "1 d 1 h"), (-7200, "-2 h")],
)  # fmt: skip
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
