"""Files of CNI and podman: ours are kept, those of others are left alone."""

import asyncio
import json
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from flannel.errors import CannotHandOver, CannotWrite, FlannelError
from flannel.handover import network_files, podman
from flannel.handover.cni import CniFile
from flannel.handover.podman import PodmanNetwork
from flannel.handover.recipients import MARK, offers

OWNER = "/run/flannel/subnet.env"
(OFFER,) = offers(IPv4Interface("10.5.1.1/24"), 1450, 1)
(NEXT,) = offers(IPv4Interface("10.5.2.1/24"), 1400, 1)
HALVES = offers(IPv4Interface("10.5.1.1/24"), 1450, 2)


@pytest.fixture
def file(tmp_path: Path) -> CniFile:
    return CniFile(tmp_path / "net.d" / "10-fl.conflist", "fl", OWNER)


def test_a_cni_file_has_the_lease_and_follows_it(file: CniFile) -> None:
    assert asyncio.run(file.give(OFFER))
    assert not asyncio.run(file.give(OFFER))
    document = json.loads(file.path.read_text())
    assert (document["name"], document[MARK]) == ("fl", OWNER)
    bridge, portmap = document["plugins"]
    assert portmap["type"] == "portmap"
    assert (bridge["mtu"], bridge["ipMasq"], bridge["isGateway"]) == (1450, False, True)
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.5.1.0/24", "gateway": "10.5.1.1"}]]
    assert asyncio.run(file.give(NEXT))
    (bridge, _) = json.loads(file.path.read_text())["plugins"]
    assert (bridge["mtu"], bridge["ipam"]["ranges"][0][0]["subnet"]) == (1400, "10.5.2.0/24")


def test_a_share_of_the_lease_is_a_range_of_addresses(file: CniFile) -> None:
    asyncio.run(file.give(HALVES[1]))
    (bridge, _) = json.loads(file.path.read_text())["plugins"]
    (addresses,) = bridge["ipam"]["ranges"][0]
    assert addresses == {
        "subnet": "10.5.1.0/24",
        "gateway": "10.5.1.1",
        "rangeStart": "10.5.1.128",
        "rangeEnd": "10.5.1.254",
    }


def test_a_file_of_ours_that_was_edited_is_written_again(file: CniFile) -> None:
    asyncio.run(file.give(OFFER))
    wanted = file.path.read_text()
    file.path.write_text(wanted.replace("1450", "1500"))
    assert asyncio.run(file.give(OFFER))
    assert file.path.read_text() == wanted
    file.path.chmod(0o666)
    assert asyncio.run(file.give(OFFER))
    assert file.path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"name": "fl"}', f"flanneld has not made it, as it has no {MARK}"),
        (f'{{"{MARK}": "/run/other/subnet.env"}}', "the flanneld of /run/other/subnet.env made it"),
        (f'{{"{MARK}": {{"a": "\\u001b[2J"}}}}', "the flanneld of"),
        ("", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ("\xff", "it is not JSON"),
    ],
)
def test_a_file_of_somebody_else_is_left_alone(file: CniFile, content: str, why: str) -> None:
    file.path.parent.mkdir()
    file.path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CannotHandOver) as raised:
        asyncio.run(file.give(OFFER))
    assert str(raised.value).startswith(f"cannot take {file.path} for the lease: {why}")
    assert str(raised.value).isprintable()
    assert file.path.read_bytes() == content.encode("latin-1")
    assert not network_files.is_ours(file.path, OWNER)


def test_a_link_or_a_directory_in_the_files_place_is_left_alone(file: CniFile) -> None:
    file.path.parent.mkdir()
    target = file.path.parent / "target"
    target.write_text(f'{{"{MARK}": "{OWNER}"}}')
    file.path.symlink_to(target)
    with pytest.raises(CannotHandOver, match="it is a symbolic link"):
        asyncio.run(file.give(OFFER))
    assert file.path.is_symlink()
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(CannotHandOver, match="Is a directory"):
        asyncio.run(file.give(OFFER))
    assert file.path.is_dir()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.d").touch()
    with pytest.raises(
        CannotWrite, match=r"cannot write .*10-fl\.conflist: (Not a dir|File exists)"
    ):
        asyncio.run(CniFile(tmp_path / "net.d" / "10-fl.conflist", "fl", OWNER).give(OFFER))


def test_another_file_with_the_same_network_is_named(file: CniFile) -> None:
    file.path.parent.mkdir()
    other = file.path.parent / "20-other.conflist"
    other.write_text('{"name": "fl"}')
    (file.path.parent / "README").write_text('{"name": "fl"}')
    with pytest.raises(CannotHandOver, match=f"{other} has a network fl already"):
        asyncio.run(file.give(OFFER))
    assert not file.path.exists()
    other.write_text('{"name": "other"}')
    assert asyncio.run(file.give(OFFER))


def test_only_what_is_ours_is_removed(file: CniFile) -> None:
    asyncio.run(file.give(OFFER))
    network_files.remove(file.path, "/run/other/subnet.env")
    assert file.path.exists()
    network_files.remove(file.path, OWNER)
    network_files.remove(file.path, OWNER)
    assert not file.path.exists()


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """podman's directories, not made yet."""
    monkeypatch.setattr(podman, "NETAVARK_DIRECTORY", tmp_path / "networks")
    monkeypatch.setattr(podman, "CNI_DIRECTORY", tmp_path / "net.d")
    return tmp_path


def test_podman_gets_the_file_of_each_network_backend_that_is_there(etc: Path) -> None:
    network = PodmanNetwork("fl", OWNER)
    assert asyncio.run(network.give(OFFER))
    document = json.loads((etc / "networks" / "fl.json").read_text())
    assert document["subnets"] == [{"subnet": "10.5.1.0/24", "gateway": "10.5.1.1"}]
    assert document["options"] == {"mtu": "1450"}
    assert len(document["id"]) == 64
    assert not (etc / "net.d").exists()
    (etc / "net.d").mkdir()
    assert asyncio.run(network.give(OFFER))
    assert json.loads((etc / "net.d" / "fl.conflist").read_text())["name"] == "fl"
    assert not asyncio.run(network.give(OFFER))
    for path in podman.paths("fl"):
        assert network_files.is_ours(path, OWNER)


def test_a_podman_network_of_somebody_else_is_left_alone(etc: Path) -> None:
    (etc / "networks").mkdir()
    (etc / "networks" / "fl.json").write_text('{"name": "fl", "labels": {}}')
    with pytest.raises(FlannelError, match=f"it has no {MARK}"):
        asyncio.run(PodmanNetwork("fl", OWNER).give(OFFER))


def test_a_share_of_the_lease_is_a_range_for_podman_too(etc: Path) -> None:
    asyncio.run(PodmanNetwork("fl", OWNER).give(HALVES[0]))
    document = json.loads((etc / "networks" / "fl.json").read_text())
    (subnet,) = document["subnets"]
    assert subnet["lease_range"] == {"start_ip": "10.5.1.2", "end_ip": "10.5.1.127"}
