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
