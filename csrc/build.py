"""Tells setuptools, through cffi, how to build `flannel.backends.udp._dataplane` from csrc/."""

from pathlib import Path

from cffi import FFI

# setuptools wants paths relative to setup.py, which is where it runs us.
CSRC = Path("csrc")

ffi = FFI()
ffi.cdef((CSRC / "dataplane.cdef").read_text())
ffi.set_source(
    "flannel.backends.udp._dataplane",
    '#include "dataplane.h"',
    sources=[str(path) for path in sorted(CSRC.glob("*.c"))],
    include_dirs=[str(CSRC)],
    depends=[str(path) for path in sorted([*CSRC.glob("*.h"), *CSRC.glob("*.cdef")])],
    extra_compile_args=[
        "-std=gnu11",
        # recvmmsg() and sendmmsg().
        "-D_GNU_SOURCE",
        # Debian's Python builds with -O2, where gcc 12 does not vectorise checksum_add().
        "-O3",
        # Python needs the module's init function and nothing else.
        "-fvisibility=hidden",
    ],
    # One build for every Python from 3.11 on; setup.py says the same of the wheel.
    py_limited_api=True,
)
