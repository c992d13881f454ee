"""daemon.json beside the flags that docker gets from flannel."""

import asyncio
import os
from pathlib import Path

import pytest
from fake_programs import FakePrograms

from flannel.handover import daemon_json

SHOW_UNIT = "systemctl show --property=EnvironmentFiles,ExecStart docker.service"
OPTIONS = 'DOCKER_OPT_BIP="--bip=10.1.5.1/24"\nDOCKER_OPT_MTU="--mtu=1450"\n'


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """A host where systemd does not answer."""
    return FakePrograms(tmp_path / "bin", monkeypatch)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: FakePrograms) -> Path:
    monkeypatch.setattr(daemon_json, "DAEMON_JSON", tmp_path / "daemon.json")
    monkeypatch.setattr(daemon_json, "DOCKER_OPTIONS", tmp_path / "docker")
    (tmp_path / "docker").write_text(OPTIONS)
    return tmp_path / "daemon.json"


def refusals() -> list[str]:
    return asyncio.run(daemon_json.refusals())


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
        ("é", ["daemon.json is not JSON: Expecting value: line 1 column 1 (char 0)"]),
        ("[1]", ["daemon.json is not a JSON object"]),
        ("[" * 200_000, ["daemon.json is nested too deeply"]),
    ],
)
def test_what_dockerd_refuses_is_named(file: Path, text: str, ends: list[str]) -> None:
    file.write_text(text)
    found = refusals()
    assert len(found) == len(ends)
    for each, end in zip(found, ends, strict=True):
        assert each.startswith(str(file))
        assert each.endswith(end.format(file.parent))


def test_without_our_flags_the_members_are_the_operator_s(file: Path) -> None:
    file.write_text('{"mtu": 1400, "bip": "10.1.5.1/24", "bridge": "br0"}')
    file.with_name("docker").unlink()
    assert refusals() == []


@pytest.mark.parametrize(
    ("files", "command", "flags"),
    [
        ("{}/docker", "dockerd $DOCKER_OPTS $DOCKER_OPT_BIP $DOCKER_OPT_MTU", ["bip", "mtu"]),
        ("{}/docker", "dockerd ${{DOCKER_OPT_MTU}}", ["mtu"]),
        ("{}/docker", "dockerd -H fd:// $DOCKER_OPTS", []),
        ("/etc/default/docker", "dockerd $DOCKER_OPT_BIP $DOCKER_OPT_MTU", []),
        ("", "dockerd -H fd://", []),
    ],
)
def test_members_are_refused_only_beside_flags_that_docker_s_unit_passes_on(
    file: Path, programs: FakePrograms, files: str, command: str, flags: list[str]
) -> None:
    file.write_text('{"mtu": 1450, "bip": "10.1.5.1/24"}')
    unit = f"ExecStart={{{{ path=dockerd ; argv[]={command} ; ignore_errors=no }}}}\n"
    if files:
        unit += f"EnvironmentFiles=/no/file (ignore_errors=no)\nEnvironmentFiles={files} (x)\n"
    programs.prints[SHOW_UNIT] = unit.format(file.parent)
    assert [each.rpartition("--")[2] for each in refusals()] == flags


def test_systemd_is_not_asked_about_other_members(file: Path, programs: FakePrograms) -> None:
    file.write_text('{"log-level": "warn"}')
    assert (refusals(), programs.ran) == ([], [])
    programs.hangs.add(SHOW_UNIT)
    file.write_text('{"mtu": 1450}')
    assert (len(refusals()), programs.ran) == (1, [SHOW_UNIT])


def test_no_file_is_no_refusal_and_other_things_do_not_stop_the_check(file: Path) -> None:
    assert refusals() == []
    file.write_bytes(b"\xff\xfe{}")
    assert refusals() == [f"{file} is not JSON: it is not UTF-8"]
    file.unlink()
    os.mkfifo(file)
    assert refusals() == []
    file.unlink()
    file.mkdir()
    with pytest.raises(daemon_json.DaemonJsonUnread, match=f"^cannot read {file}: Is a directory$"):
        refusals()
