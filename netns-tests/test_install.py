"""`make install`: what it puts where, on this machine with the result laid over it."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from textwrap import dedent

import pytest

CHECKOUT = Path(__file__).parent.parent
# The machine's own / below, what was installed above it: a copy, for no layer may lie in another.
# The mount namespace takes all of it away.
_OVERLAID = (
    'mount -t tmpfs tmpfs "$2"; cp -a "$1" "$2/top"; mkdir "$2/root";'
    'mount -t overlay -o "lowerdir=$2/top:/" overlay "$2/root"; cd "$2/root"; shift 2;'
    "mount --rbind /proc proc; mount --rbind /sys sys; mount --rbind /dev dev;"
    "mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp;"
    'exec chroot . "$@"'
)


def make(target: str, destdir: Path) -> "subprocess.CompletedProcess[str]":
    command = ["make", "-C", str(CHECKOUT), target, f"DESTDIR={destdir}"]
    return subprocess.run(command, capture_output=True, text=True)


class Machine:
    """This machine with an installation over it."""

    def __init__(self, destdir: Path, mountpoint: Path) -> None:
        self.destdir = destdir
        self._mountpoint = mountpoint

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a program of it, as one that nobody's environment has a part in."""
        return subprocess.run(
            ["unshare", "--mount", "--net", "sh", "-ec", _OVERLAID, "sh",
             str(self.destdir), str(self._mountpoint), *command],
            capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip

    def verify(self, *units: str) -> tuple[int, str]:
        """What systemd finds wrong with units."""
        done = self.run("systemd-analyze", "verify", *units)
        return done.returncode, done.stderr


def files(top: Path) -> list[str]:
    return sorted(str(each.relative_to(top)) for each in top.glob("**/*") if not each.is_dir())


@pytest.fixture
def machine(installed: Path, tmp_path: Path) -> Machine:
    (tmp_path / "mountpoint").mkdir()
    return Machine(installed, tmp_path / "mountpoint")


@pytest.mark.parametrize(
    "program", ["flanneld --version", "mk-docker-opts -h", "mk-docker-opts.sh -h"]
)
def test_the_installed_programs_run(machine: Machine, program: str) -> None:
    done = machine.run(*program.split())
    assert done.returncode == 0, done.stderr
    assert re.match(r"usage: mk-docker-opts|\d+\.\d+", done.stdout + done.stderr)


def test_the_documents_are_installed_and_link_to_each_other(machine: Machine) -> None:
    doc = machine.destdir / "usr/share/doc/flannel"
    for document in doc.rglob("*.md"):
        links = re.findall(r"\]\(([^)#\s]+)", document.read_text())
        paths = [document.parent / each for each in links if "://" not in each]
        missing = {path.name for path in paths if not path.exists()}
        # These are for people who work on a checkout; the last is beside the documents here.
        assert missing <= {"CONTRIBUTING.md", "udp_tunnel.svg", "cloud-config.yaml"}


def test_the_packet_loop_was_built_and_can_be_loaded(machine: Machine) -> None:
    load = "from flannel.backends.udp import dataplane; print(dataplane.__file__)"
    done = machine.run("/usr/lib/flannel/bin/python", "-Ic", load)
    assert done.stdout.startswith("/usr/lib/flannel/lib/python3"), done.stderr


def test_systemd_has_no_complaint_about_flanneld_and_docker(machine: Machine) -> None:
    assert machine.verify("flanneld.service", "docker.service") == (0, "")


def test_systemd_complains_of_a_missing_program(machine: Machine, tmp_path: Path) -> None:
    """So its silence means that flanneld is where its unit says."""
    copy = tmp_path / "copy"
    shutil.copytree(machine.destdir, copy, symlinks=True)
    (copy / "usr/bin/flanneld").unlink()
    (tmp_path / "root").mkdir()
    status, complaint = Machine(copy, tmp_path / "root").verify("flanneld.service")
    assert status != 0
    assert "/usr/bin/flanneld is not executable" in complaint


def test_the_sysctl_file_turns_forwarding_on(machine: Machine) -> None:
    script = (
        "echo 0 >/proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ip_forward;"
        "sysctl -qp /usr/lib/sysctl.d/50-flannel.conf;"
        "cat /proc/sys/net/ipv4/ip_forward"
    )
    assert machine.run("sh", "-ec", script).stdout == "0\n1\n"


def test_nothing_of_the_tree_names_the_place_where_it_was_made(machine: Machine) -> None:
    name = str(machine.destdir)
    found = subprocess.run(["grep", "-rl", name, machine.destdir], capture_output=True, text=True)
    assert found.stdout == ""


def test_the_cloud_config_brings_units_that_systemd_takes(machine: Machine, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(machine.destdir, copy, symlinks=True)
    text = (machine.destdir / "usr/share/doc/flannel/cloud-config.yaml").read_text()
    written = re.findall(r"(?m)^  - path: (\S+)\n    content: \|\n((?:      .*\n|\n)+)", text)
    assert len(written) == text.count("path:") == 4
    for path, content in written:
        file = copy / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(content))
    (tmp_path / "root").mkdir()
    found = Machine(copy, tmp_path / "root")
    assert found.verify("redis.service", "flanneld.service", "flannel-network-config.service") == (
        0,
        "",
    )
    variables = (copy / "etc/default/flanneld").read_text()
    variables += (copy / "run/flannel/options.env").read_text()
    show = "import os; from flannel.options.table import parse; print(*parse([], os.environ).iface)"
    done = found.run("env", *variables.split(), "/usr/lib/flannel/bin/python", "-Ic", show)
    assert done.stdout == "192.0.2.11\n"


def test_foreign_files_are_left_and_named(tmp_path: Path) -> None:
    theirs = tmp_path / "usr/lib/systemd/system/flanneld.service"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("[Service]\n")
    done = make("install", tmp_path)
    assert f"cannot install: {theirs} is there, and not made by make install" in done.stderr
    assert done.returncode != 0
    assert files(tmp_path) == ["usr/lib/systemd/system/flanneld.service"]
    done = make("uninstall", tmp_path)
    assert f"cannot remove: there is no {tmp_path}/usr/lib/flannel/installed" in done.stderr
    assert theirs.exists()


def test_units_name_the_programs_where_another_prefix_has_them(tmp_path: Path) -> None:
    """Seen in the midst of an installation by the Python that it is given; one that fails."""
    destdir, seen = tmp_path / "destdir", tmp_path / "seen"
    python = tmp_path / "python"
    stage = f"{destdir}/opt/flannel/lib/flannel.new.*/new"
    python.write_text(f"#!/bin/sh\ncp -r {stage} {seen}; exit 1\n")
    python.chmod(0o755)
    done = subprocess.run(
        [CHECKOUT / "dist/install.sh", "install", python],
        env={**os.environ, "DESTDIR": str(destdir), "PREFIX": "/opt/flannel"},
    )
    assert done.returncode != 0
    assert list(destdir.iterdir()) == []  # half an installation is none
    unit = (seen / "opt/flannel/lib/systemd/system/flanneld.service").read_text()
    programs = re.findall(r"(?m)^Exec\w+=(?:.* )?(/\S+/(?:flanneld|mk-docker-opts))\b", unit)
    assert programs == ["/opt/flannel/bin/flanneld", "/opt/flannel/bin/mk-docker-opts"]
    for each in programs:
        link = seen / each.lstrip("/")
        assert str(link.readlink()) == f"/opt/flannel/lib/flannel/bin/{link.name}"


def test_uninstall_takes_all_of_it_and_nothing_else(machine: Machine, tmp_path: Path) -> None:
    copy, theirs = tmp_path / "copy", tmp_path / "copy/usr/lib/systemd/network/99-mine.network"
    shutil.copytree(machine.destdir, copy, symlinks=True)
    theirs.write_text("[Match]\nName=eth0\n")
    assert make("uninstall", copy).returncode == 0
    assert files(copy) == ["usr/lib/systemd/network/99-mine.network"]
    shutil.rmtree(copy)
    shutil.copytree(machine.destdir, copy, symlinks=True)
    assert make("uninstall", copy).returncode == 0
    assert list(copy.iterdir()) == []
