"""Repairs are logged once and counted; a program that keeps undoing them leads to pauses."""

import logging
from math import inf
from pathlib import Path

import pytest

from flannel.kernel import repairs as module
from flannel.kernel.entries import Entry, Fdb, Neighbour, key
from flannel.kernel.repairs import Repairs, suspects

ARP = Neighbour(b"\x0a\x05\x02\x00", 7, b"\x02\0\0\0\0\x02")
FDB = Fdb(b"\x02\0\0\0\0\x02", 7, b"\xc0\0\x02\x02")


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def repair(repairs: Repairs, what: str = "it was down") -> None:
    repairs.note(what)
    repairs.commit("flannel.1")


def test_one_line_names_all_changes_that_a_comparison_found(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    repairs = Repairs()
    repairs.note("it was down")
    repairs.note_entries([ARP, FDB, FDB._replace(mac=b"\x02\0\0\0\0\x03")])
    repairs.note_entries([])
    repairs.commit("flannel.1")
    line = "repaired flannel.1: it was down; 1 ARP entry, 2 FDB entries were changed or removed"
    assert [record.message for record in caplog.records] == [line]
    assert (repairs.total, repairs.last, repairs.last_at) == (4, line, clock.now)


def test_a_comparison_without_differences_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    repairs = Repairs()
    repairs.commit("flannel.1")
    repairs.note("it was gone")
    repairs.discard()  # as at the start, when it had not been made yet
    repairs.commit("flannel.1")
    assert (repairs.total, repairs.last_at, caplog.text) == (0, None, "")


def test_many_repairs_of_different_entries_lead_to_no_pause(clock: Clock) -> None:
    repairs = Repairs()
    for n in range(100):
        repair(repairs, f"thing {n}")
    assert repairs.pause == 0


def test_a_repair_now_and_then_leads_to_no_pause(clock: Clock) -> None:
    repairs = Repairs()
    for _ in range(100):
        repair(repairs)
        clock.now += 15
    assert repairs.pause == 0


def test_repairs_that_somebody_keeps_undoing_get_growing_pauses(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    repairs = Repairs()
    pauses = []
    for _ in range(12):
        repair(repairs)
        pauses.append(repairs.pause)
        clock.now += 1 + repairs.pause
    assert pauses == [0, 0, 0, 0, 0, 2, 4, 8, 16, 30, 30, 30]
    assert repairs.total == 12
    assert caplog.text.count("somebody keeps changing flannel.1") == 1
    assert caplog.text.count("repaired flannel.1: ") == 6
    repairs.commit("flannel.1")
    assert repairs.pause == 0
    assert caplog.text.count("nobody changes flannel.1 any more") == 1
    repair(repairs)
    assert repairs.pause == 0


def test_only_the_entry_that_somebody_keeps_changing_rests(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    repairs = Repairs()

    def compare(*entries: Entry) -> None:
        repairs.note_entries(entries)
        repairs.commit("flannel.1")

    for _ in range(6):
        compare(ARP)
        clock.now += 1
    assert f"somebody keeps changing flannel.1 ({ARP});" in caplog.text
    assert repairs.resting() == {key(ARP)}
    assert (repairs.pause, repairs.due) == (0, clock.now + 1)
    caplog.clear()
    compare(FDB)
    assert "repaired flannel.1: 1 FDB entry was changed or removed" in caplog.text
    compare()  # it rests, so that it was not restored does not count
    assert repairs.resting() == {key(ARP)}
    clock.now += 1
    assert repairs.resting() == set()
    caplog.clear()
    compare(ARP)
    assert (caplog.text, repairs.resting()) == ("", {key(ARP)})
    assert repairs.due == clock.now + 4
    clock.now += 4
    compare()
    assert (repairs.resting(), repairs.due) == (set(), inf)
    compare(ARP)
    assert repairs.resting() == set()


def test_a_comparison_that_began_during_the_pause_does_not_end_the_fight(clock: Clock) -> None:
    repairs = Repairs()
    for _ in range(6):
        repairs.note_entries([ARP])
        repairs.commit("flannel.1")
    began = clock.now
    clock.now += 3
    repairs.commit("flannel.1", began=began)
    assert repairs.due < clock.now
    repairs.commit("flannel.1")
    assert repairs.due == inf


def test_suspects_are_looked_up_among_the_processes(tmp_path: Path) -> None:
    names = {1: b"systemd", 40: b"systemd-network", 41: b"ip", 42: b"sleep", 43: b"\xff\xfe"}
    for number, name in names.items():
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "comm").write_bytes(name + b"\n")
    (tmp_path / "self").write_text("")
    assert suspects(41, tmp_path) == [
        "ip (process 41), which made the last change",
        "systemd-networkd (process 40)",
    ]
    assert suspects(43, tmp_path)[0] == "\ufffd\ufffd (process 43), which made the last change"
    assert suspects(4_000_000_000, tmp_path) == ["systemd-networkd (process 40)"]
