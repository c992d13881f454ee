"""flanneld: options, logging, signals, exit status.

Exit status: 0 after SIGTERM or SIGINT, 2 for an operator's mistake or another flanneld that runs
with the same files or device, 1 for a bug (traceback).
"""

import asyncio
import gc
import logging
import os
import signal
import sys

from flannel import __version__, logs, privileges, programs
from flannel.errors import AlreadyRunning, BadOption, KernelError
from flannel.options.table import Options, parse
from flannel.printable import complain
from flannel.run_lock import RunLock

log = logging.getLogger("flannel")

_IGNORED = (
    *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR),
)
"""Signals that flanneld ignores, as each would end it; SIGHUP usually asks for a reload."""
_START = 10.0
"""Seconds after which a start is normally over."""
_GARBAGE_AT_START = 100_000
"""New objects after which the garbage collector runs. Entries for 10,000 peers are 100,000 objects
without a cycle; with Python's default, 700, the collector would walk through them again and again
while they are made."""
_GARBAGE = (2_000, 1, 1)
"""The same after the start. Each dump of the kernel's links and each run of nft makes cycles, many
of which live for a second and so become old garbage. The objects of the start are frozen by then,
so a collection of all others costs little. With Python's own 10 and 10, old garbage would wait for
200,000 objects."""


def main() -> int:
    """Run flanneld with the command line and environment of this process."""
    gc.set_threshold(_GARBAGE_AT_START)
    _open_standard_descriptors()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    programs.wait_without_threads()
    try:
        options = parse(sys.argv[1:], os.environ)
        logs.set_up(options.v, options.log_format, os.environ)
        logs.catch_mistakes(log)
        for warning in options.warnings:
            log.warning("%s", warning)
        _drop_privileges(options)
        lock = RunLock(options.subnet_file.parent, options.state_dir)
        lock.take()
        asyncio.run(_run(options, lock))
    except (BadOption, AlreadyRunning) as why:
        complain(f"flanneld: {why}")
        return 2
    return 0


def _open_standard_descriptors() -> None:
    """Open each of stdin, stdout and stderr that was closed when this program started.

    Otherwise a log line would go to the first file or socket that gets the number of stderr.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115 # for as long as this process runs


def _drop_privileges(options: Options) -> None:
    etcd = options.etcd
    secrets = [path for path in (etcd.keyfile, etcd.certfile, etcd.cafile) if path is not None]
    try:
        privileges.drop(secrets)
    except KernelError as why:
        log.warning("%s; running with more privileges than needed", why)


async def _run(options: Options, lock: RunLock) -> None:
    # Imported here: --help, --version and a mistyped flag answer without them, at once.
    from flannel.daemon import daemon
    from flannel.health import pages as health
    from flannel.health.status import Status
    from flannel.stores import open_store

    log.info("flanneld %s, etcd at %s", __version__, ", ".join(options.etcd.endpoints))
    store = open_store(options.etcd)
    status = Status(options, store.health)
    serving = asyncio.create_task(daemon.run(options, store, status))
    locking = asyncio.create_task(lock.keep())
    loop = asyncio.get_running_loop()
    loop.call_later(_START, _start_is_over)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    for number in _IGNORED:
        loop.add_signal_handler(number, _ignore, number)
    try:
        async with health.served(options, status):
            await serving
    except asyncio.CancelledError:
        log.info("stopped; device and routes stay")
    finally:
        locking.cancel()
        store.close()


def _ignore(number: signal.Signals) -> None:
    log.info(
        "ignoring %s: there is nothing to reload; flags are read at the start, the network config "
        "is followed",
        number.name,
    )


def _start_is_over() -> None:
    gc.collect()
    gc.freeze()  # what serves us now will for long: it need not be walked through each time
    # A whole collection comes when a quarter of what the last one left is new. That was all that
    # is frozen now: several MB of cycles would gather first. This one leaves next to nothing.
    gc.collect()
    gc.set_threshold(*_GARBAGE)


if __name__ == "__main__":
    sys.exit(main())
