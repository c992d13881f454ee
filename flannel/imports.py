"""Imports: load the part of a library that is used, without the rest of it.

A start of flanneld or `flannel` is mostly imports, and two libraries import far more than their
user needs: pyroute2's ``__init__`` runs 160 modules, of which links, addresses and routes need 90;
python-etcd runs dnspython's 60 for finding etcd by SRV records, which only an argument of its own
turns on.

    with bare_package("pyroute2"):
        from pyroute2.iproute.linux import AsyncIPRoute

    with deferred("dns.resolver"):
        import etcd
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType


@contextmanager
def bare_package(name: str) -> Iterator[None]:
    """In the body, submodules of a package are imported without running its ``__init__``.

    Afterwards the package itself counts as not imported: its next import runs all of it. A package
    that has been imported before is left as it is.

    :raises ModuleNotFoundError: there is no such package.
    """
    if name in sys.modules:
        yield
        return
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.modules[name] = module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """In the body, an import of a submodule binds a stand-in, which imports it when it is used.

    Afterwards the submodule counts as not imported. One that has been imported before is left as it
    is.
    """
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    stand_in.__getattr__ = lambda attribute: getattr(import_module(name), attribute)  # type: ignore[method-assign] # PEP 562
    package, _, last = name.rpartition(".")
    setattr(import_module(package), last, stand_in)  # as an import does, and the real one will
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
