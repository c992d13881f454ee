"""daemon.json beside the flags that docker gets from flannel."""

import os
from pathlib import Path

import pytest

from flannel.handover import daemon_json

OPTIONS = 'DOCKER_OPT_BIP="--bip=10.1.5.1/24"\nDOCKER_OPT_MTU="--mtu=1450"\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(daemon_json, "DAEMON_JSON", tmp_path / "daemon.json")
    monkeypatch.setattr(daemon_json, "DOCKER_OPTIONS", tmp_path / "docker")
    (tmp_path / "docker").write_text(OPTIONS)
    return tmp_path / "daemon.json"


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ('{"mtu": 1400, "log-level": "warn"}', ["/docker has --mtu"]),
        ('{"mtu": 1400, "bip": ""}', ["/docker has --bip", "/docker has --mtu"]),
        ('{"bridge": "br0"}', ["has bridge, and {}/docker has --bip"]),
        ('{"ip-masq": false, "bridge": ""}', []),  # a flag that is not given here
        ('{"log-level": "warn"}', []),
        ("", []),
        ("{", ["(char 1)"]),
        ("[1]", ["daemon.json is not a JSON object"]),
        ("[" * 200_000, ["is nested too deeply"]),
    ],
)
def test_what_dockerd_refuses_is_named(file: Path, text: str, ends: list[str]) -> None:
    file.write_text(text)
    found = daemon_json.refusals()
    assert len(found) == len(ends)
    for each, end in zip(found, ends, strict=True):
        assert each.startswith(str(file))
        assert each.endswith(end.format(file.parent))


def test_without_our_flags_the_members_are_the_operator_s(file: Path) -> None:
    file.write_text('{"mtu": 1400, "bip": "10.1.5.1/24", "bridge": "br0"}')
    file.with_name("docker").unlink()
    assert daemon_json.refusals() == []


def test_no_file_is_no_refusal_and_other_things_do_not_stop_the_check(file: Path) -> None:
    assert daemon_json.refusals() == []
    file.write_bytes(b"\xff\xfe{}")
    assert daemon_json.refusals() == [f"{file} is not JSON: it is not UTF-8"]
    file.unlink()
    os.mkfifo(file)
    assert daemon_json.refusals() == []
    file.unlink()
    file.mkdir()
    with pytest.raises(daemon_json.DaemonJsonUnread, match=f"^cannot read {file}: Is a directory$"):
        daemon_json.refusals()
