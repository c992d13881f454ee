"""A window on the C functions behind the packet loop, built for the tests alone."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cffi import FFI

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"

PageEnd = Callable[[bytes], memoryview]
"""What the fixture `at_page_end` is."""


class Internals:
    """What csrc/internals.cdef lists, built so that undefined behaviour ends the process.

    `directory` is where it is built; nothing is left elsewhere.
    """

    def __init__(self, directory: Path) -> None:
        sanitizer = ["-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
        builder = FFI()
        for name in ("dataplane.cdef", "internals.cdef"):
            builder.cdef((CSRC / name).read_text())
        headers = ("checksum", "packet", "gso", "gro", "icmp", "routes", "udp", "verdict")
        wrapped = (
            "sendmmsg",
            "poll",
            "ioctl",
            "clock_gettime",
            "socket",
            "getsockopt",
            "setsockopt",
        )
        builder.set_source(
            "_internals",
            "".join(f'#include "{name}.h"\n' for name in (*headers, "fake_syscalls")),
            sources=[str(path) for path in (*sorted(CSRC.glob("*.c")), HERE / "fake_syscalls.c")],
            include_dirs=[str(CSRC), str(HERE)],
            extra_compile_args=["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", *sanitizer],
            extra_link_args=[*sanitizer, *(f"-Wl,--wrap={call}" for call in wrapped)],
        )
        spec = importlib.util.spec_from_file_location("_internals", builder.compile(str(directory)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.ffi: Any = module.ffi
        self.lib: Any = module.lib

    def view(self, data: bytes | bytearray | memoryview) -> Any:
        """A struct packet on `data`, which is a whole packet and must outlive the view."""
        view = self.ffi.new("struct packet *")
        result = self.lib.packet_parse(view, self.ffi.from_buffer(data), len(data))
        assert result == 0, f"packet_parse: {result}"
        return view
