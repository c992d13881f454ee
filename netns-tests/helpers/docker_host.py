"""The docker of a host: a real dockerd with everything of its own, and containers in it.

    host = world.add_host("h1")
    host.start_flanneld("-iface=eth0").wait_ready()
    docker = Docker(host).start()            # bip, ip-masq and mtu as mk-docker-opts says
    container = docker.run("web", "httpd", "-f", "-p", "80", "-h", "/www")
    container.run("ping", "-c1", "10.1.2.2")

A dockerd runs in mount and PID namespaces of its own: when the host goes, so do its containerd,
its containers and all their mounts, also when nobody has stopped it. Its image is Debian's static
busybox; nothing is pulled.
"""

import io
import re
import shlex
import signal
import subprocess
import tarfile
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self

from hosts import FLANNELD, Host
from namespaces import Completed, WorldError, run, wait_for

MK_DOCKER_OPTS = FLANNELD.parent / "mk-docker-opts"
BUSYBOX = Path("/usr/bin/busybox")
APPLETS = ("cat", "httpd", "ip", "ping", "sh", "sleep", "timeout", "wget")
IMAGE = "busybox"
# In dockerd's mount namespace: what it writes outside the directories that it is given.
_HIDE = 'mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /etc/docker && exec dockerd "$@"'


class DockerContainer:
    """A running container, and its address on docker's bridge."""

    def __init__(self, docker: "Docker", name: str) -> None:
        self.name = f"{docker.host.label}-{name}"
        self._docker = docker
        self._name = name
        where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        self.address = IPv4Address(docker.ctl("inspect", "-f", where, name).strip())

    def run(self, *command: str) -> str:
        """What a program of the container prints; it has to succeed."""
        return self._docker.ctl("exec", self._name, *command)

    def try_run(self, *command: str) -> Completed:
        """A program of the container that may fail."""
        return self._docker.try_ctl("exec", self._name, *command)

    @property
    def log(self) -> str:
        """What the container's own program has printed."""
        return self._docker.ctl("logs", self._name)

    def wait_log(self, pattern: str) -> None:
        """Wait until what its own program has printed matches ``pattern``."""
        wait_for(lambda: re.search(pattern, self.log), 30, pattern)

    @property
    def mtu(self) -> int:
        """The MTU of its eth0, in bytes."""
        # Not from /sys: that of a container may be of another network namespace.
        shown = self.run("ip", "link", "show", "eth0")
        return int(shown.partition(" mtu ")[2].split()[0])


class Docker:
    """The docker of one host; not started yet."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.containers: list[DockerContainer] = []
        self._files = host.directory / "docker"
        self._files.mkdir()
        (self._files / "daemon.json").write_text("{}")  # not the machine's own
        self._process: subprocess.Popen[Any] | None = None
        self._has_image = False
        host.at_end.append(self.kill)

    def start(self, *options: str) -> Self:
        """Start dockerd with the lease's options, or with ``options`` instead."""
        command = (
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-ec", _HIDE, "dockerd"),
            f"--config-file={self._files / 'daemon.json'}",
            f"--data-root={self._files / 'data'}",
            f"--exec-root={self._files / 'exec'}",
            f"--pidfile={self._files / 'pid'}",
            f"--host=unix://{self._files / 'socket'}",
            *("--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{self.host.name}"),
            *(options or self.lease_options()),
        )
        with (self._files / "log").open("ab") as log:
            self._process = self.host.popen(*command, stdout=log, stderr=log)
        process = self._process
        wait_for(
            lambda: self.try_ctl("version").returncode == 0 or process.poll() is not None,
            60,
            lambda: f"dockerd; it says: {self.last_words()}",
        )
        if process.poll() is not None:
            raise WorldError(f"dockerd ended with {process.returncode}: {self.last_words()}")
        if not self._has_image:
            self._import_image()
        return self

    def lease_options(self) -> list[str]:
        """What the drop-in in dist/ gives docker: written by mk-docker-opts, read by systemd."""
        file = self.host.directory / "docker_opts.env"
        run(str(MK_DOCKER_OPTS), "-f", str(self.host.subnet_file), "-d", str(file), "-i")
        return [word.partition("=")[2] for word in shlex.split(file.read_text())]

    @property
    def url(self) -> str:
        """Its socket, as DOCKER_HOST has it."""
        return f"unix://{self._files / 'socket'}"

    def run(self, name: str, *command: str, network: str = "bridge") -> DockerContainer:
        """Start a container; by default one that only waits."""
        # As the first process of a container, busybox hears no SIGTERM.
        options = ("--detach", "--name", name, "--stop-signal", "KILL", "--network", network)
        self.ctl("run", *options, IMAGE, *(command or ("sleep", "3600")))
        container = DockerContainer(self, name)
        self.containers.append(container)
        return container

    def ctl(self, *arguments: str) -> str:
        """Run ``docker``; it has to succeed."""
        done = self.try_ctl(*arguments)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise WorldError(f"docker {' '.join(arguments)}: {said}")
        return done.stdout + done.stderr

    def try_ctl(self, *arguments: str) -> Completed:
        """Run ``docker``, which may fail."""
        command = ("docker", f"--host=unix://{self._files / 'socket'}", *arguments)
        return subprocess.run(command, capture_output=True, text=True)

    def stop(self) -> None:
        """End dockerd as systemd does; its containers end with it, and can be started again."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in children.read_text().split():
            run("kill", f"-{signal.SIGTERM}", pid)
        self._process.wait(200)
        self.containers.clear()

    def kill(self) -> None:
        """End it and all its containers at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """The end of dockerd's log, on one line."""
        return " | ".join((self._files / "log").read_text().strip().splitlines()[-3:])

    def _import_image(self) -> None:
        command = ("docker", f"--host=unix://{self._files / 'socket'}", "import", "-", IMAGE)
        subprocess.run(command, input=image(self.host.label), capture_output=True, check=True)
        self._has_image = True


def image(label: str) -> bytes:
    """For ``docker import``: busybox, and a web page that says where it is from."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        page = f"this is {label}\n".encode()
        file = tarfile.TarInfo("www/index.html")
        file.size, file.mode = len(page), 0o644
        tar.addfile(file, io.BytesIO(page))
    return buffer.getvalue()
