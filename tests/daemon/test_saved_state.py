"""Saved state: what was written is read back; anything else is one warning."""

import contextlib
import json
import os
import stat
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flannel.daemon import saved_state
from flannel.daemon.saved_state import SavedState
from flannel.document import BadDocument
from flannel.lease import Lease, LeaseAttrs

PREFIX = "/coreos.com/network"
OWN = Lease(IPv4Network("10.5.1.0/24"), LeaseAttrs(IPv4Address("192.0.2.1"), node_id="n1"), 500, 17)
PEER = Lease(
    IPv4Network("10.5.2.0/24"),
    LeaseAttrs(IPv4Address("192.0.2.2"), "vxlan", {"VtepMAC": "02:00:00:00:00:01"}),
)
STATE = SavedState(PREFIX, '{"Network":"10.5.0.0/16"}', OWN, (PEER,))


@pytest.mark.parametrize(
    "state",
    [
        STATE,
        SavedState(PREFIX, "x", None, ()),
        SavedState(PREFIX, "x", Lease(OWN.subnet, OWN.attrs, None, 3), (PEER,)),
    ],
    ids=["all", "nothing", "a reservation"],
)
def test_what_is_written_is_read_back(tmp_path: Path, state: SavedState) -> None:
    path = tmp_path / "state" / saved_state.FILE_NAME
    saved_state.write(path, state)
    found = saved_state.read(path, PREFIX)
    assert found == state
    if found is not None and found.lease is not None and state.lease is not None:
        assert (found.lease.ttl, found.lease.index) == (state.lease.ttl, state.lease.index)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_state_of_another_network_is_not_ours(tmp_path: Path) -> None:
    saved_state.write(tmp_path / "state.json", STATE)
    assert saved_state.read(tmp_path / "state.json", "/other") is None


def test_without_a_file_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert saved_state.read(tmp_path / "state.json", PREFIX) is None
    assert not caplog.records


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    document = json.loads(STATE.to_json())
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[" * 100_000,
        STATE.to_json()[:-20],
        "\udcff",
        changed(lambda d: d.update(Version=2)),
        changed(lambda d: d.pop("Version")),
        changed(lambda d: d.pop("Config")),
        changed(lambda d: d.pop("Peers")),
        changed(lambda d: d.update(Peers=[1])),
        changed(lambda d: d.update(Peers={"10.5.2.0-24": None})),
        changed(lambda d: d.update(Peers={"foo": PEER.attrs.to_json()})),
        changed(lambda d: d.update(Peers={"10.5.2.0-24": '{"PublicIP":"fe80::1"}'})),
        changed(lambda d: d.update(Lease=7)),
        changed(lambda d: d["Lease"].update(Key="10.5.1.7-24")),
        changed(lambda d: d["Lease"].update(TTL="long")),
        changed(lambda d: d["Lease"].update(Index=-1)),
    ],
)
def test_a_bad_file_is_one_warning_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert saved_state.read(path, PREFIX) is None
    (record,) = caplog.records
    assert record.getMessage().startswith(f"ignoring {path}, ")
    assert record.getMessage().isprintable()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_no_file_is_one_warning_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "state.json")
    assert saved_state.read(tmp_path / "state.json", PREFIX) is None
    assert len(caplog.records) == 1


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(
    st.sampled_from(["Version", "Prefix", "Config", "Lease", "Peers", "Key", "Value", "TTL"]),
    inner), max_leaves=12))  # fmt: skip
def test_no_document_raises_anything_else(document: object) -> None:
    with contextlib.suppress(BadDocument):
        SavedState.from_json(json.dumps(document))
