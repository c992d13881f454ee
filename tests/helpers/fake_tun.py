"""/dev/net/tun without root: queues are socket pairs, devices are links of a FakeNetlink."""

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from fake_kernel import FakeNetlink

from flannel.backends.udp import tun
from flannel.kernel.links import Link

_IFREQ = struct.Struct("=16sH22x")
_MULTI_QUEUE, _VNET_HDR, _NO_PI, _TUN = 0x100, 0x4000, 0x1000, 0x1
ONE_QUEUE = _TUN | _NO_PI | _VNET_HDR
SEVERAL_QUEUES = ONE_QUEUE | _MULTI_QUEUE
_MOVED = f"{tun.NAME}@elsewhere"


class FakeTun:
    """The driver.

    :ivar queues: for each open descriptor its device's name, None before it is attached; a
        descriptor that is not there is no queue.
    :ivar kernel_ends: the kernel's end of each attached queue, by descriptor.
    :ivar flags: of each device, by name.
    :ivar offloads: the bits that the driver accepts.
    :ivar set_offloads: the bits that each queue has been set to.
    :ivar persistent: names of the devices that outlive their descriptors.
    :ivar refuses: an error number for each path or request that fails.
    """

    def __init__(self, netlink: FakeNetlink, monkeypatch: pytest.MonkeyPatch) -> None:
        self.netlink = netlink
        self.queues: dict[int, str | None] = {}
        self.kernel_ends: dict[int, socket.socket] = {}
        self.flags: dict[str, int] = {}
        self.offloads = 0xFF
        self.set_offloads: dict[int, int] = {}
        self.persistent: set[str] = set()
        self.refuses: dict[object, int] = {}
        self._requests: dict[int, Callable[[int, Any], Any]] = {
            tun.request("_IOW", 202): self._set_iff,
            tun.request("_IOW", 203): self._set_persist,
            tun.request("_IOW", 208): self._set_offload,
            tun.request("_IOW", 216): self._set_vnet_header_len,
            tun.request("_IOR", 210): self._get_iff,
            tun.request("_IO", 227): self._get_namespace,
        }
        monkeypatch.setattr(tun, "os", _Os(self))
        monkeypatch.setattr(tun, "ioctl", self.ioctl)

    def open(self) -> int:
        """A descriptor that is attached to no device yet."""
        self._may("/dev/net/tun")
        device, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kernel.settimeout(100)
        fd = device.detach()
        self.queues[fd] = None
        if fd in self.kernel_ends:  # of a queue that has been closed
            self.kernel_ends[fd].close()
        self.kernel_ends[fd] = kernel
        return fd

    def ends_of(self, name: str = tun.NAME) -> list[socket.socket]:
        """The kernel's ends of a device's queues."""
        return [self.kernel_ends[fd] for fd, each in self.queues.items() if each == name]

    def delete(self, name: str = tun.NAME) -> None:
        """Delete a device: its queues end."""
        for end in self.ends_of(name):
            end.close()
        self.queues = {fd: None if each == name else each for fd, each in self.queues.items()}
        del self.flags[name]
        self.netlink.links = {
            index: link for index, link in self.netlink.links.items() if link.name != name
        }

    def move_away(self, name: str = tun.NAME) -> None:
        """Move a device to another network namespace, where it is ``_MOVED`` for this class."""
        self.flags[_MOVED] = self.flags.pop(name)
        self.queues = {fd: _MOVED if each == name else each for fd, each in self.queues.items()}
        self.persistent = {_MOVED if each == name else each for each in self.persistent}
        self.netlink.links = {
            index: link for index, link in self.netlink.links.items() if link.name != name
        }

    def close(self) -> None:
        """Close the kernel's ends."""
        for end in self.kernel_ends.values():
            end.close()

    def ioctl(self, fd: int, request: int, argument: Any = 0) -> Any:
        """Serve a request on a descriptor of /dev/net/tun; any other gets ENOTTY."""
        self._may(request)
        if fd not in self.queues:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        return self._requests[request](fd, argument)

    def _may(self, what: object) -> None:
        if number := self.refuses.get(what):
            raise OSError(number, os.strerror(number))

    def _set_iff(self, fd: int, argument: bytes) -> None:
        raw, flags = _IFREQ.unpack(argument)
        name = raw.rstrip(b"\0").decode()
        if name not in self.flags:
            index = max(self.netlink.links, default=0) + 1
            self.netlink.add(Link(index, name, "tun", 1500, False, ""))
            self.flags[name] = flags
        elif self.flags[name] != flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        elif not flags & _MULTI_QUEUE and name in self.queues.values():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.queues[fd] = name

    def _set_persist(self, fd: int, argument: int) -> None:
        name = self._device(fd)
        (self.persistent.add if argument else self.persistent.discard)(name)

    def _set_offload(self, fd: int, argument: int) -> None:
        if argument & ~self.offloads:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.set_offloads[fd] = argument

    def _set_vnet_header_len(self, fd: int, argument: bytes) -> None:
        self._device(fd)
        assert struct.unpack("=i", argument) == (10,)

    def _get_iff(self, fd: int, _argument: bytes) -> bytes:
        name = self._device(fd)
        return _IFREQ.pack(name.removesuffix("@elsewhere").encode(), self.flags[name])

    def _get_namespace(self, fd: int, _argument: int) -> int:
        path = "/dev/null" if self._device(fd) == _MOVED else "/proc/self/ns/net"
        return os.open(path, os.O_RDONLY)

    def _device(self, fd: int) -> str:
        name = self.queues[fd]
        if name is None:
            raise OSError(errno.EBADFD, os.strerror(errno.EBADFD))
        return name


class _Os:
    """The module os for tun.py: one path and its descriptors are the driver's."""

    def __init__(self, driver: FakeTun) -> None:
        self._driver = driver

    def open(self, path: str, _flags: int) -> int:
        assert path == "/dev/net/tun"
        return self._driver.open()

    def close(self, fd: int) -> None:
        self._driver.queues.pop(fd, None)
        os.close(fd)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)
