"""The podman of a host: a real one with everything of its own, and containers in it.

    podman = Podman(host, "netavark")        # or "cni"
    container = podman.run("web", "ov")      # in the network of that name
    container.run("ping", "-c1", "10.1.2.2")

Its containers run in a mount and a PID namespace of their own: when the host goes, so do they.
"""

import json
import subprocess
from ipaddress import IPv4Address

from docker_host import IMAGE, image
from hosts import Host
from namespaces import Completed, WorldError, run

# What podman writes outside the directories that it is given, but for /etc.
_HIDE = (
    "mount -t tmpfs tmpfs /run && mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni && "
    "echo ready && exec sleep 100000"
)


def older_backend() -> str:
    """CNI, or netavark where the podman of this machine has nothing else, as from 5 on."""
    return "cni" if " 4." in run("podman", "--version") else "netavark"


class Podman:
    """Root's podman on one host."""

    def __init__(self, host: Host, backend: str) -> None:
        self.host = host
        self._files = host.directory / f"podman-{backend}"
        self._files.mkdir()
        self._configuration = self._files / "containers.conf"
        self._configuration.write_text(
            f'[network]\nnetwork_backend = "{backend}"\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._process = host.popen(*unshare, "sh", "-ec", _HIDE, stdout=subprocess.PIPE)
        host.at_end.append(self.kill)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise WorldError("there is no namespace for podman")
        self._process.stdout.close()
        self._child = self._child_of(self._process.pid)
        done = self.try_ctl("import", "-", IMAGE, stdin=image(host.label))
        if done.returncode != 0:
            raise WorldError(f"podman import: {done.stderr}")

    def _child_of(self, pid: int) -> str:
        done = self.host.run("cat", f"/proc/{pid}/task/{pid}/children").split()
        return done[0]

    def run(self, name: str, network: str) -> "PodmanContainer":
        """Start a container that waits."""
        # podman's own limits are higher than those that the tests may have; podman 5 lets no ping.
        options = ("--detach", "--ulimit=host", "--cap-add=NET_RAW")
        names = ("--name", name, "--network", network)
        self.ctl("run", *options, *names, IMAGE, "sleep", "3600")
        return PodmanContainer(self, name)

    def ctl(self, *arguments: str) -> str:
        """Run ``podman``; it has to succeed."""
        done = self.try_ctl(*arguments)
        if done.returncode != 0:
            raise WorldError(
                f"podman {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}"
            )
        return done.stdout

    def try_ctl(self, *arguments: str, stdin: bytes = b"") -> Completed:
        """Run ``podman``, which may fail."""
        command = (
            *("nsenter", "--net", "--mount", "--pid", f"--target={self._child}"),
            *("env", f"CONTAINERS_CONF={self._configuration}", "podman"),
            f"--root={self._files / 'root'}",
            f"--runroot={self._files / 'run'}",
            f"--tmpdir={self._files / 'tmp'}",
            "--storage-driver=vfs",
        )
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True)
        texts = (each.decode(errors="replace") for each in (done.stdout, done.stderr))
        return Completed(done.args, done.returncode, *texts)

    def kill(self) -> None:
        """End all containers at once."""
        self._process.kill()
        self._process.wait()


class PodmanContainer:
    """A running container, and its address."""

    def __init__(self, podman: Podman, name: str) -> None:
        self.name = f"{podman.host.label}-{name}"
        self._podman = podman
        self._name = name
        (found,) = json.loads(podman.ctl("inspect", name))
        (network,) = found["NetworkSettings"]["Networks"].values()
        self.address = IPv4Address(network["IPAddress"])

    def run(self, *command: str) -> str:
        """What a program of the container prints; it has to succeed."""
        return self._podman.ctl("exec", self._name, *command)

    def try_run(self, *command: str) -> Completed:
        """A program of the container that may fail."""
        return self._podman.try_ctl("exec", self._name, *command)
