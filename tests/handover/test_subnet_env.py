"""subnet.env and the atomic write beneath it: exact bytes are written, bad files are refused."""

import logging
import os
import resource
import stat
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flannel.errors import CannotWrite
from flannel.handover import subnet_env
from flannel.handover.subnet_env import SubnetEnv

ENV = SubnetEnv(IPv4Network("10.5.0.0/16"), IPv4Interface("10.5.1.1/24"), 1450, ip_masq=False)
TEXT = """\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.1.1/24
FLANNEL_MTU=1450
FLANNEL_IPMASQ=false
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "subnet.env"


@pytest.fixture(params=[0o000, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_bytes_are_upstreams(path: Path) -> None:
    subnet_env.write(path, ENV)
    assert path.read_bytes() == TEXT.encode()
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_readable_by_all_and_writable_by_one_with_any_umask(
    path: Path, umask: int
) -> None:
    subnet_env.write(path, ENV)
    assert mode(path) == 0o644


def test_missing_directories_get_their_mode_with_any_umask(tmp_path: Path, umask: int) -> None:
    subnet_env.write(tmp_path / "run" / "flannel" / "subnet.env", ENV)
    assert mode(tmp_path / "run") == mode(tmp_path / "run" / "flannel") == 0o755


def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    subnet_env.write(tmp_path / "subnet.env", ENV)
    assert mode(tmp_path) == 0o700


def test_a_file_with_the_same_content_is_not_written(path: Path) -> None:
    assert subnet_env.write(path, ENV)
    before = path.stat().st_ino
    assert not subnet_env.write(path, ENV)
    assert path.stat().st_ino == before


def test_a_file_with_other_content_is_replaced_and_its_readers_keep_the_old_one(
    path: Path,
) -> None:
    path.write_text("FLANNEL_MTU=1\n")
    with path.open() as reader:
        subnet_env.write(path, ENV)
        assert reader.read() == "FLANNEL_MTU=1\n"
    assert path.read_text() == TEXT


def test_a_world_writable_file_with_the_same_content_is_replaced(
    path: Path,
) -> None:
    path.write_text(TEXT)
    path.chmod(0o666)
    subnet_env.write(path, ENV)
    assert mode(path) == 0o644


@pytest.mark.parametrize("content", ["precious", TEXT])
def test_a_link_planted_at_the_file_is_replaced_and_its_target_untouched(
    path: Path, content: str
) -> None:
    target = path.with_name("target")
    target.write_text(content)
    target.chmod(0o644)
    path.symlink_to(target)
    subnet_env.write(path, ENV)
    assert not path.is_symlink()
    assert path.read_text() == TEXT
    assert target.read_text() == content


def test_a_link_planted_at_the_temporary_file_is_not_followed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the name were guessed."""
    monkeypatch.setattr("flannel.atomic_file.secrets.token_hex", lambda n: "guessed")
    target = path.with_name("target")
    target.write_text("precious")
    path.with_name(".subnet.env.guessed").symlink_to(target)
    with pytest.raises(CannotWrite, match="File exists"):
        subnet_env.write(path, ENV)
    assert target.read_text() == "precious"


def test_a_fifo_in_the_way_is_replaced(path: Path) -> None:
    os.mkfifo(path)
    subnet_env.write(path, ENV)
    assert path.read_text() == TEXT


def test_content_and_name_outlast_a_loss_of_power(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is on the disk before the name is, and the name before it is relied on."""
    synced = []

    def fsync(fd: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    subnet_env.write(path, ENV)
    assert synced == [(False, False), (True, True)]


def test_a_file_that_cannot_be_filled_leaves_the_old_one_and_no_other(path: Path) -> None:
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(CannotWrite) as caught:
            subnet_env.write(path, ENV)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == f"cannot write {path}: File too large"
    assert [each.read_text() for each in path.parent.iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["file/subnet.env", "directory", "x" * 300, "a\0b"])
def test_a_place_where_no_file_can_be_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with pytest.raises(CannotWrite, match=r"^cannot write /.*: ."):
        subnet_env.write(tmp_path / name, ENV)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["directory", "file"]


def test_a_written_file_is_read_back(path: Path) -> None:
    for env in (ENV, SubnetEnv(ENV.network, ENV.subnet, 8951, ip_masq=True)):
        subnet_env.write(path, env)
        assert subnet_env.read(path) == env


def test_a_file_of_upstreams_dual_stack_daemon_is_read(path: Path) -> None:
    path.write_text(
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_IPV6_NETWORK=fc00::/48\n"
        "FLANNEL_IPV6_SUBNET=fc00:0:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    )
    assert subnet_env.read(path) == ENV


@pytest.mark.parametrize(
    "text",
    [
        TEXT.removesuffix("\n"),
        "\n# by hand\n" + TEXT,
        TEXT + "SOMETHING_ELSE=with blanks; and more\n",
        "FLANNEL_MTU=9000\n" + TEXT,
        TEXT.replace("10.5.0.0/16", "10.5.3.4/16"),
    ],
)
def test_unknown_names_comments_and_repetitions_are_fine(path: Path, text: str) -> None:
    path.write_text(text)
    assert subnet_env.read(path) == ENV


def test_a_missing_file_is_not_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert subnet_env.read(path) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TEXT.replace("10.5.1.1/24", "fc00::1/64"), "not an IPv4 address"),
        (TEXT.replace("10.5.1.1/24", "10.5.1.1"), "not an IPv4 address with a prefix length"),
        (TEXT.replace("10.5.1.1/24", "10.5.1.1/33"), "not an IPv4 address"),
        (TEXT.replace("10.5.1.1/24", "10.5.1.1/255.255.255.0"), "not an IPv4 address"),
        (TEXT.replace("10.5.1.1/24", "10.5.1.300/24"), "not an IPv4 address"),
        (TEXT.replace("10.5.1.1/24", '"10.5.1.1/24"'), "not an IPv4 address"),
        (TEXT.replace("10.5.1.1/24", "$(reboot)"), "not an IPv4 address"),
        (TEXT.replace("10.5.1.1/24", "10.6.1.1/24"), "is not in FLANNEL_NETWORK"),
        (TEXT.replace("10.5.1.1/24", ""), "FLANNEL_SUBNET is"),
        (TEXT.replace("FLANNEL_SUBNET=10.5.1.1/24\n", ""), "FLANNEL_SUBNET is missing"),
        (TEXT.replace("FLANNEL_NETWORK", "FLANNEL_NOTWORK"), "FLANNEL_NETWORK is missing"),
        (TEXT.replace("1450", "67"), "68 to 65535"),
        (TEXT.replace("1450", "-1450"), "68 to 65535"),
        (TEXT.replace("1450", "99999"), "68 to 65535"),
        (TEXT.replace("1450", "١٤٥٠"), "68 to 65535"),
        (TEXT.replace("1450", "1450; rm -r /"), "68 to 65535"),
        (TEXT.replace("false", "False"), "neither true nor false"),
        (TEXT.replace("\n", "\r\n"), "not"),
        (TEXT + "export X=1\n", "is not NAME=value"),
        (TEXT + "curl example.com | sh\n", "is not NAME=value"),
        (TEXT + "\x1b[2J\n", r"is not NAME=value"),
        ("", "is missing"),
        (b"\x7fELF\x02\x01\x01\xff", "utf-8"),
        (bytes(100), "is not NAME=value"),
        (b"A=" + bytes(1_000_000), "more than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_one_warning_that_names_it(
    path: Path, caplog: pytest.LogCaptureFixture, content: str | bytes, reason: str
) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert subnet_env.read(path) is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.message
    assert reason in record.message
    assert record.message.isprintable()
    assert len(record.message) < 400


def test_a_fifo_or_directory_is_refused_at_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(path)
    assert subnet_env.read(path) is None
    assert subnet_env.read(path.parent) is None
    assert len(caplog.records) == 2


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_content_of_the_file_makes_reading_raise(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.env"
    path.write_bytes(content)
    assert subnet_env.read(path) is None


@given(st.integers(0, 2**32 - 1), st.integers(8, 28), st.integers(68, 65535), st.booleans())
def test_every_lease_survives_the_way_through_the_file(
    tmp_path_factory: pytest.TempPathFactory, address: int, length: int, mtu: int, masq: bool
) -> None:
    network = IPv4Network((address, length), strict=False)
    subnet = IPv4Interface((IPv4Address(int(network.network_address) + 1), length + 2))
    env = SubnetEnv(network, subnet, mtu, masq)
    path = tmp_path_factory.getbasetemp() / "lease.env"
    subnet_env.write(path, env)
    assert subnet_env.read(path) == env
