"""The systemd units in dist/: known keys and values only, and the promises of their comments."""

import re
import subprocess
from pathlib import Path

import pytest

DIST = Path(__file__).parents[2] / "dist"
EXISTING = "/bin/true"
LATE = "flannel-docker"


def with_existing_commands(unit: str) -> str:
    """The unit with commands that are on every machine: systemd looks for them."""
    return re.sub(r"(?m)^(ExecStart(?:Post)?=)\S+", rf"\g<1>{EXISTING}", unit)


@pytest.fixture
def flanneld(tmp_path: Path) -> Path:
    for unit in (*DIST.glob("*.service"), *DIST.glob("*.path")):
        (tmp_path / unit.name).write_text(with_existing_commands(unit.read_text()))
    return tmp_path / "flanneld.service"


def verify(path: Path) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_systemd_has_no_complaint_about_our_units(flanneld: Path) -> None:
    names = ["flannel-docker.path", "flannel-docker.service", "flanneld.service"]
    assert sorted(path.name for path in flanneld.parent.iterdir()) == names
    for name in names:
        assert verify(flanneld.with_name(name)) == (0, "")


def test_systemd_complains_of_a_key_that_it_does_not_know(flanneld: Path) -> None:
    """So its silence means something."""
    flanneld.write_text(flanneld.read_text().replace("RestartSec=", "RestartSecs="))
    assert "RestartSecs" in verify(flanneld)[1]


def test_systemd_has_no_complaint_about_docker_with_our_drop_in(
    tmp_path: Path, flanneld: Path
) -> None:
    docker = tmp_path / "docker.service"
    docker.write_text("[Unit]\nDescription=docker\n[Service]\nType=notify\nExecStart=/bin/false\n")
    drop_in = tmp_path / "docker.service.d" / "flannel.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(with_existing_commands((DIST / "docker.service.d/flannel.conf").read_text()))
    assert verify(docker) == (0, "")


def test_the_sandbox_is_as_tight_as_promised(flanneld: Path) -> None:
    """2.5 of 10, where a unit without any sandbox has 9.6."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=25", flanneld],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_docker_reads_the_file_that_flanneld_has_written() -> None:
    options, subnet = "/run/flannel/docker", "/run/flannel/subnet.env"
    flanneld, late = ((DIST / f"{name}.service").read_text() for name in ("flanneld", LATE))
    drop_in = (DIST / "docker.service.d/flannel.conf").read_text()
    makes = rf"(?m)^%s=.*/usr/bin/mk-docker-opts -i -d {options}\b"
    assert re.search(makes % "ExecStartPost", flanneld)
    assert re.search(makes % "ExecStart", late)
    assert f"\nEnvironmentFile=-{options}\n" in drop_in
    # ... and makes it anew: the lease may have changed since.
    assert re.search(makes % "ExecStartPre", drop_in)
    # Not before there is a subnet, and not later.
    assert f"\nConditionPathExists=|{options}\n" in drop_in
    assert "\nConditionPathExists=|!/etc/systemd/system/docker.service.wants/" in drop_in
    assert "\nWants=" not in drop_in  # docker wants what is enabled
    assert "\nWantedBy=multi-user.target docker.service\n" in flanneld
    assert f"'test ! -e {subnet} ||" in flanneld
    assert f"\nPathExists={subnet}\n" in (DIST / f"{LATE}.path").read_text()


@pytest.mark.parametrize(
    ("options", "daemon_json", "helps", "is_given"),
    [
        ("DOCKER_OPT_MTU=1", "{}", "--allow-direct-routing", True),
        ("DOCKER_OPT_MTU=1\nDOCKER_OPT_ROUTING=--x", "{}", "--bip", False),
        ("DOCKER_OPT_MTU=1", '{"allow-direct-routing": true}', "--allow-direct-routing", False),
        ("DOCKER_OPT_BIP=1", "{}", "--allow-direct-routing", False),
    ],
)
def test_docker_gets_the_flag_for_direct_routing_where_it_knows_it(
    tmp_path: Path, options: str, daemon_json: str, helps: str, is_given: bool
) -> None:
    drop_in = (DIST / "docker.service.d/flannel.conf").read_text()
    command = re.search(r"(?ms)^ExecStartPre=-/bin/sh -c '(.*?)'$", drop_in)
    assert command is not None
    file = tmp_path / "options"
    file.write_text(options + "\n")
    (tmp_path / "daemon.json").write_text(daemon_json)
    (tmp_path / "dockerd").write_text(f"#!/bin/sh\necho '      {helps}  text'\n")
    (tmp_path / "dockerd").chmod(0o755)
    script = command[1].replace("\\\n", "").replace("/run/flannel/docker", str(file))
    script = script.replace("/etc/docker/daemon.json", str(tmp_path / "daemon.json"))
    subprocess.run(
        ["sh", "-c", script], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=250
    )
    expected = "DOCKER_OPT_ROUTING=--allow-direct-routing\n" if is_given else ""
    assert file.read_text() == options.split("\n")[0] + "\n" + expected
    assert " $DOCKER_OPT_ROUTING $DOCKER_OPTS " in drop_in
