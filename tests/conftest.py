"""What the tests share: a window on the C functions behind the packet loop."""

import ctypes
import importlib.util
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cffi import FFI
from hypothesis import settings

CSRC = Path(__file__).parent.parent / "csrc"

# How long one example takes says nothing on a machine that others use too.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


class Internals(NamedTuple):
    """What csrc/internals.cdef lists, compiled for the tests alone."""

    ffi: Any
    lib: Any


@pytest.fixture(scope="session")
def internals(tmp_path_factory: pytest.TempPathFactory) -> Internals:
    """The pure C files, built so that undefined behaviour ends the process."""
    target = tmp_path_factory.mktemp("internals")
    sanitizer = ["-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
    builder = FFI()
    builder.cdef((CSRC / "internals.cdef").read_text())
    builder.set_source(
        "_internals",
        '#include "checksum.h"\n#include "packet.h"',
        sources=[str(CSRC / "checksum.c"), str(CSRC / "packet.c")],
        include_dirs=[str(CSRC)],
        extra_compile_args=["-std=gnu11", "-O1", "-g", *sanitizer],
        extra_link_args=sanitizer,
    )
    spec = importlib.util.spec_from_file_location("_internals", builder.compile(str(target)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Internals(module.ffi, module.lib)


@pytest.fixture(scope="session")
def at_page_end() -> Callable[[bytes], memoryview]:
    """Bytes that nothing can be read behind: one byte too far ends the process.

    There is one such page; each call overwrites what the call before it has returned.
    """
    two_pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(two_pages))
    libc = ctypes.CDLL(None, use_errno=True)
    guard = ctypes.c_void_p(start + mmap.PAGESIZE)
    if libc.mprotect(guard, ctypes.c_size_t(mmap.PAGESIZE), 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot protect a page")

    def place(content: bytes) -> memoryview:
        view = memoryview(two_pages)[mmap.PAGESIZE - len(content) : mmap.PAGESIZE]
        view[:] = content
        return view

    return place
