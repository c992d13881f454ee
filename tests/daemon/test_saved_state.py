"""SavedState: a written state is read back; a bad file is one warning."""

import contextlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flannel.daemon import saved_state
from flannel.daemon.saved_state import SavedState
from flannel.document import BadDocument
from flannel.lease import UNKNOWN_TTL, Lease, LeaseAttrs

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
        replace(STATE, ends=1_700_000_000),
        SavedState(PREFIX, "x", None, ()),
        SavedState(PREFIX, "x", Lease(OWN.subnet, OWN.attrs, None, 3), (PEER,)),
    ],
    ids=["all", "nothing", "a reservation"],
)
def test_a_written_state_is_read_back(tmp_path: Path, state: SavedState) -> None:
    path = tmp_path / "state" / saved_state.FILE_NAME
    saved_state.write(path, state)
    found = saved_state.read(path, PREFIX)
    assert found == state
    if found is not None and found.lease is not None and state.lease is not None:
        assert (found.lease.ttl, found.lease.index) == (state.lease.ttl, state.lease.index)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


class TestWhatIsLeftOfTheLease:
    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("time.time", lambda: 1_700_000_000.5)

    @pytest.mark.parametrize(
        ("ttl", "ends", "left"),
        [
            (86400, 1_700_000_100, 99),
            (86400, 1_699_999_000, 0),
            (3600, 1_800_000_000, 3600),  # the clock was set back
            (86400, 0, UNKNOWN_TTL),
            (UNKNOWN_TTL, 0, UNKNOWN_TTL),
            (None, 0, None),
        ],
    )
    def test_the_clock_decides_and_it_is_never_more_than_etcd_gave(
        self, tmp_path: Path, ttl: int | None, ends: int, left: int | None
    ) -> None:
        state = SavedState(PREFIX, "x", replace(OWN, ttl=ttl), (), ends)
        saved_state.write(tmp_path / "state.json", state)
        for each in (state, saved_state.read(tmp_path / "state.json", PREFIX)):
            assert each is not None
            lease = each.lease_now()
            assert lease is not None
            assert lease.ttl == left

    def test_the_lifetime_of_saved_peers_is_unknown(self) -> None:
        (peer,) = SavedState.from_json(STATE.to_json()).peers
        assert peer.ttl == UNKNOWN_TTL


def test_the_state_of_another_network_is_not_ours(tmp_path: Path) -> None:
    saved_state.write(tmp_path / "state.json", STATE)
    assert saved_state.read(tmp_path / "state.json", "/other") is None


def test_without_a_file_nothing_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


ODD = {
    "10.5.3.0-24": None,
    "foo": PEER.attrs.to_json(),
    "10.5.4.0-24": '{"PublicIP":"fe80::1"}',
    "10.5.5.0-24": '{"PublicIP":"192.0.2.77","BackendData":{"x":1e999}}',
    "10.5.6.0-24": "[" * 5_000,
    "10.5.7.0-24": '{"PublicIP":"192.0.2.78","BackendType":"' + "B" * 500_000 + '"}',
    "\x1b[2J\n": "{}",
}


@pytest.mark.parametrize("odd", ODD, ids=lambda key: key[:12].encode("unicode_escape").decode())
def test_a_peer_that_cannot_be_parsed_is_left_out_and_the_others_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    path = tmp_path / "state.json"
    path.write_text(changed(lambda d: d["Peers"].update({odd: ODD[odd]})))
    assert saved_state.read(path, PREFIX) == STATE
    (record,) = caplog.records
    assert record.getMessage().startswith("ignoring 1 saved leases, the first is ")
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 300


@pytest.mark.parametrize(
    "attrs",
    [
        LeaseAttrs(PEER.attrs.public_ip, "B" * 60_000),
        LeaseAttrs(PEER.attrs.public_ip, "é" * 30_000),
        LeaseAttrs(PEER.attrs.public_ip, "\ud800\x1b", {"\x00": ['"' * 30_000]}),
        LeaseAttrs(PEER.attrs.public_ip, "vxlan", {"x": 1e308}),
    ],
    ids=["long", "longer in ASCII", "no characters", "a large number"],
)
def test_every_lease_that_can_be_read_from_the_store_can_be_saved(
    tmp_path: Path, attrs: LeaseAttrs
) -> None:
    """As text it had up to 65,536 characters there."""
    text = json.dumps(json.loads(attrs.to_json()), ensure_ascii=False)
    lease = Lease(IPv4Network("10.5.9.0/24"), LeaseAttrs.from_json(text), 2**31 - 1, 2**64 - 1)
    state = SavedState(
        PREFIX, "x", lease, (PEER, replace(lease, subnet=IPv4Network("10.5.8.0/24")))
    )
    saved_state.write(tmp_path / "state.json", state)
    assert saved_state.read(tmp_path / "state.json", PREFIX) == state


def test_the_shortest_of_too_many_long_leases_are_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_state, "_MAX_VALUES", 100_000)
    long = tuple(
        Lease(IPv4Network(f"10.5.{n}.0/24"), LeaseAttrs(PEER.attrs.public_ip, '"' * 30_000))
        for n in range(100, 110)
    )
    saved_state.write(tmp_path / "state.json", SavedState(PREFIX, "x", OWN, (*long, PEER)))
    found = saved_state.read(tmp_path / "state.json", PREFIX)
    assert found is not None
    assert (found.lease, found.peers[0]) == (OWN, PEER)
    assert len(found.peers) == 2
    assert "leases too long to be saved: 9" in caplog.text


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_a_fifo_directory_or_link_is_one_warning_and_ignored(
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
