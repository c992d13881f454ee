"""flanneld: options, logging, signals, exit status.

Exit status: 0 after SIGTERM or SIGINT, 2 for an operator's mistake, 1 for a bug (traceback).
"""

import asyncio
import gc
import logging
import os
import signal
import sys

from flannel import __version__
from flannel.errors import BadOption
from flannel.options import Options, parse

log = logging.getLogger("flannel")


def main() -> int:
    """Run flanneld with the command line and environment of this process."""
    # Entries for 10,000 peers are some 100,000 small objects without a cycle among them; at the
    # default the collector walks through them again and again while they are made.
    gc.set_threshold(100_000)
    try:
        options = parse(sys.argv[1:], os.environ)
        _log_to_stderr(options.v)
        for warning in options.warnings:
            log.warning("%s", warning)
        asyncio.run(_run(options))
    except BadOption as why:
        print(f"flanneld: {why}", file=sys.stderr)
        return 2
    return 0


async def _run(options: Options) -> None:
    # Imported here: --help, --version and a mistyped flag answer without them, at once.
    from flannel import daemon
    from flannel.stores.etcd_members import Members
    from flannel.stores.etcd_v2 import EtcdV2Store

    etcd = options.etcd
    log.info("flanneld %s, etcd at %s", __version__, ", ".join(etcd.endpoints))
    members = Members(
        etcd.endpoints,
        certfile=etcd.certfile,
        keyfile=etcd.keyfile,
        cafile=etcd.cafile,
        username=etcd.username,
        password=etcd.password,
    )
    store = EtcdV2Store(members, etcd.prefix)
    serving = asyncio.create_task(daemon.run(options, store))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        log.info("stopped; device, routes and lease stay, so that packets flow on")
    finally:
        store.close()


def _log_to_stderr(verbosity: int) -> None:
    # journald and docker logs stamp each line themselves; a person at a terminal gets the time.
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s.%(msecs)03d "
    logging.basicConfig(
        level=logging.DEBUG if verbosity > 0 else logging.INFO,
        format=stamp + "%(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    # Libraries report through exceptions, which we classify; what else they say is for -v=2.
    for name in ("asyncio", "etcd", "pyroute2", "urllib3"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbosity > 1 else logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
