r"""A host that boots: a real systemd as the first process, with what `make install` has installed.

    host = world.add_host("h1")
    booted = Booted(host, destdir)
    booted.write("/etc/default/flanneld", "FLANNELD_ETCD_ENDPOINTS=http://192.0.2.1:2379\n")
    booted.boot("flanneld.service", "docker.service")
    booted.run("systemctl", "is-active", "flanneld")

Its files are those of this machine below, the installation above, and what is written on top, in
memory that goes with it; of what the machine's own administrator has set up it sees nothing. With
``base`` they are those of another Debian, in that directory, all of it. It has
mount, PID, IPC, UTS and cgroup namespaces of its own beside the host's network namespace. Of
/proc/sys it can write what belongs to that network.
"""

import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

from hosts import Host
from namespaces import Completed, run, wait_for

_CGROUPS = Path("/sys/fs/cgroup")
_HIDDEN = "etc/default etc/docker etc/systemd/system var/lib"
"""Of the machine's own administrator."""

# In a cgroup of its own in each hierarchy, of which the cgroup namespace makes the root.
_OUTSIDE = """
name=$1; shift
for group in $GROUPS_; do
    mkdir "$group/$name"
    if [ -e "$group/$name/cpuset.cpus" ] && [ "$group" != /sys/fs/cgroup ]; then
        for file in cpuset.cpus cpuset.mems; do cat "$group/$file" >"$group/$name/$file"; done
    fi
    echo $$ >"$group/$name/cgroup.procs"
done
exec unshare --mount --pid --ipc --uts --cgroup --fork --kill-child sh -ec "$INSIDE" sh "$@"
"""
_INSIDE = """
here=$1 installed=$2; shift 2
mount -t tmpfs tmpfs "$here"
mkdir "$here/work" "$here/root"
cp -a "$installed" "$here/installed"
cp -a "$here.written" "$here/written"
mount -t overlay overlay "$here/root" \
    -o "lowerdir=$here/installed:$BASE,upperdir=$here/written,workdir=$here/work"
cd "$here/root"
for each in $HIDDEN; do
    mount -t tmpfs -o mode=755 tmpfs "$each"
    if [ -d "$here.written/$each" ]; then cp -a "$here.written/$each/." "$each"; fi
done
mkdir -p var/lib/docker var/lib/systemd
# Docker's own overlays cannot lie in an overlay.
mount -t tmpfs tmpfs var/lib/docker
if [ ! -d var/lib/etcd ]; then install -d -o etcd -g etcd var/lib/etcd; fi
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind /proc/sys/net proc/sys/net
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
if [ -d "$here.written/run" ]; then cp -a "$here.written/run/." run; fi
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for each in null zero full random urandom tty net/tun; do cp -a "/dev/$each" "dev/$each"; done
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    for each in $GROUPS_; do
        each=${each##*/}
        mkdir "sys/fs/cgroup/$each"
        case $each in
        systemd) mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd ;;
        unified) rmdir sys/fs/cgroup/unified ;;
        *) mount -t cgroup -o "$each" cgroup "sys/fs/cgroup/$each" ;;
        esac
    done
fi
# The kernel and its modules are the machine's.
ln -s /dev/null etc/systemd/system/systemd-modules-load.service
if [ $# -gt 0 ]; then systemctl --quiet --root="$PWD" enable "$@"; fi
# chroot would not do: runc puts a program for "docker exec" at the root of the mount namespace.
pivot_root . mnt
umount -l mnt
exec env -i container=flannel PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --log-target=console --unit=multi-user.target
"""


class Booted:
    """A host with a systemd; not booted yet."""

    def __init__(self, host: Host, installed: Path, base: Path = Path("/")) -> None:
        self.host = host
        self._base = base
        self._installed = installed
        self._root = host.directory / "boot"
        self._root.mkdir()
        self._process: subprocess.Popen[Any] | None = None
        self.write("/etc/fstab", "")
        self.write("/etc/hostname", f"{host.label}\n")
        self.write("/etc/machine-id", f"{uuid.uuid4().hex}\n")
        host.at_end.append(self.kill)

    def write(self, path: str, content: str | bytes) -> None:
        """Put a file there before the boot."""
        file = self._root.with_name("boot.written") / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def boot(self, *units: str) -> None:
        """Boot with these units enabled; returns at once."""
        v1 = [path for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists()]
        groups = [_CGROUPS] if (_CGROUPS / "cgroup.controllers").exists() else v1
        with (self.host.directory / "boot.log").open("ab") as log:
            self._process = self.host.popen(
                *("sh", "-ec", _OUTSIDE, "sh", self.host.name),
                *(str(self._root), str(self._installed), *units),
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "GROUPS_": " ".join(map(str, groups)),
                    "INSIDE": _INSIDE,
                    "BASE": str(self._base),
                    "HIDDEN": _HIDDEN if self._base == Path("/") else "",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def run(self, *command: str) -> str:
        """What a program of the host prints; it has to succeed."""
        return run(*self._enter(), *command)

    def try_run(self, *command: str) -> Completed:
        """A program of the host that may fail."""
        return subprocess.run([*self._enter(), *command], capture_output=True, text=True)

    def type_in(self, command: str, seconds: float = 60) -> str:
        """What a command prints that somebody types in at a terminal, who says yes to a question.

        It has to succeed, within these seconds.
        """
        keyboard, terminal = os.openpty()
        try:
            os.write(keyboard, b"y\n")
            done = subprocess.run(
                [*self._enter(), "timeout", str(seconds), "sh", "-c", command],
                stdin=terminal,
                capture_output=True,
                text=True,
            )
        finally:
            os.close(keyboard)
            os.close(terminal)
        assert done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.try_run(
            "systemctl", "show", "--value", f"--property={name}", unit
        ).stdout.strip()

    def wait_active(self, unit: str, seconds: float = 120) -> None:
        """Wait until a unit is active, which for those of Type=notify is ready."""
        wait_for(
            lambda: self.show(unit, "ActiveState") == "active",
            seconds,
            lambda: f"{unit}; the journal ends: {self.journal()[-1500:]}",
        )

    def journal(self, *arguments: str) -> str:
        """What the journal has, and before there is one, what systemd says."""
        done = self.try_run("journalctl", "--no-pager", "-o", "cat", *arguments)
        return done.stdout or (self.host.directory / "boot.log").read_text()

    def kill(self) -> None:
        """Turn it off at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _enter(self) -> list[str]:
        assert self._process is not None
        outside = self._process.pid
        children = Path(f"/proc/{outside}/task/{outside}/children").read_text().split()
        spaces = "--mount --pid --ipc --uts --net --cgroup --root --wd"
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "ETCDCTL_API=2")
        return ["nsenter", f"--target={(*children, '0')[0]}", *spaces.split(), *clean]
