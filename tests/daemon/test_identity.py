"""The node identity: made once, stored, and optional."""

import os
import stat
from pathlib import Path

import pytest

from flannel.daemon import identity


def test_the_identity_is_made_once_and_stored_privately(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    made = identity.load(directory)
    assert len(made) == 32
    assert identity.load(directory) == made
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / identity.FILE_NAME).stat().st_mode) == 0o600


def test_two_hosts_have_two_identities(tmp_path: Path) -> None:
    assert identity.load(tmp_path / "a") != identity.load(tmp_path / "b")


def test_a_copied_disk_in_another_machine_has_another_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "machine-id"
    monkeypatch.setattr(identity, "_MACHINE", (machine, tmp_path / "missing"))
    machine.write_text("one\n")
    made = identity.load(tmp_path)
    machine.write_text("two\n")
    assert identity.load(tmp_path) != made


@pytest.mark.parametrize("content", [b"", b"x" * 32 + b"\n", b"\xff\n", b"a" * 5000])
def test_a_file_that_is_not_an_identity_is_named_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / identity.FILE_NAME).write_bytes(content)
    assert len(made := identity.load(tmp_path)) == 32
    assert len(caplog.records) == 1
    assert identity.load(tmp_path) == made


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("0" * 32 + "\n")
    (tmp_path / identity.FILE_NAME).symlink_to(target)
    identity.load(tmp_path)
    assert not (tmp_path / identity.FILE_NAME).is_symlink()
    assert target.read_text() == "0" * 32 + "\n"


def test_without_a_place_to_store_it_there_is_no_identity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert identity.load(tmp_path / "file" / "state") == ""
    assert "no identity but its address" in caplog.text


def test_a_fifo_in_place_of_the_file_does_not_block_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / identity.FILE_NAME)
    assert len(identity.load(tmp_path)) == 32
