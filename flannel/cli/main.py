"""The command line of `flannel`.

Exit status: 0 for success, 1 if a check failed or something could not be done, 2 for a wrong
command line or option.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, NoReturn

from flannel import __version__
from flannel.document import shown
from flannel.errors import BadOption, FlannelError
from flannel.handover import docker_opts
from flannel.logs import LineFormatter, catch_mistakes
from flannel.options.flags import Flag
from flannel.options.table import FLAGS, Options, parse
from flannel.printable import CannotPrint, as_json, complain, say_whole

if TYPE_CHECKING:
    from flannel.cli.context import Context

SHARED = (
    "etcd-endpoints",
    "etcd-prefix",
    "etcd-keyfile",
    "etcd-certfile",
    "etcd-cafile",
    "etcd-username",
    "etcd-password",
    "subnet-file",
    "state-dir",
    "probe-port",
    "guard-mark",
)
"""flanneld's flags that `flannel` takes as well, after the command's name."""


class _Parser(argparse.ArgumentParser):
    """Raises `BadOption` with one line for a mistake, instead of printing a usage text."""

    def error(self, message: str) -> NoReturn:
        raise BadOption(f"cannot use this command line: {message}; see {self.prog} --help")


def main() -> int:
    """Run `flannel` with the command line and environment of this process."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("flannel: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    catch_mistakes(logging.getLogger("flannel"))
    for name in ("asyncio", "etcd", "pyroute2", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Debian's su keeps the caller's $PATH, which lacks these: nft would not be found, and cleanup
    # would leave its table behind.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    argv = sys.argv[1:]
    if argv[:1] == ["docker-opts"]:  # mk-docker-opts has upstream's command line
        return docker_opts.main(argv[1:], "flannel docker-opts")
    return exit_status(_run(argv, os.environ))


def exit_status(command: Coroutine[Any, Any, int]) -> int:
    """Run a command; print the error that ends it as one line."""
    try:
        return asyncio.run(command)
    except BadOption as why:
        complain(f"flannel: {why}")
        return 2
    except FlannelError as why:
        complain(f"flannel: {why}")
        return 1
    except KeyboardInterrupt:
        return 130
    except (BrokenPipeError, CannotPrint) as why:
        if isinstance(why, CannotPrint):  # not of | head
            complain(f"flannel: cannot print: {why.strerror}")
        # The interpreter flushes stdout once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


async def _run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.command == "version":
        as_document = as_json({"version": __version__}, indent=2)
        say_whole(as_document if arguments.json else __version__)
        return 0
    # Imported here: --help and --version answer without them, at once.
    from flannel.cli.context import Context, environment

    context = Context(
        _options(arguments, environment(environ)),
        as_json=arguments.json,
        yes=getattr(arguments, "yes", False),
    )
    return await run(context, arguments)


async def run(context: "Context", arguments: argparse.Namespace) -> int:
    """Run the command that ``arguments`` name; return its exit status.

    :raises FlannelError: for example, flanneld has a version with different documents.
    """
    try:
        return await _dispatch(context, arguments)
    except (KeyError, TypeError):
        version = await context.daemon_version()
        if version in ("", __version__):
            raise  # a bug
        raise FlannelError(
            f"cannot understand flanneld, which is version {version}, and flannel {__version__}; "
            "restart flanneld"
        ) from None


async def _dispatch(context: "Context", arguments: argparse.Namespace) -> int:
    # Each command imports its own: most of a start of `flannel` is imports.
    match arguments.command:
        case "status":
            from flannel.cli import status

            return await status.status(context, watch=arguments.watch)
        case "leases" | "reserve" | "release" as command:
            from flannel.cli import leases

            if command == "reserve":
                subnet = arguments.to or arguments.subnet
                return await leases.reserve(context, arguments.host, subnet)
            if command == "release":
                return await leases.release(context, arguments.subnet)
            return await leases.leases(context)
        case "peers":
            from flannel.cli import peers

            return await peers.peers(context)
        case "check":
            from flannel.cli import check

            return await check.check(context)
        case "explain":
            from flannel.cli import explain

            return await explain.explain(context, arguments.address, arguments.source)
        case "cleanup":
            from flannel.cli import cleanup

            return await cleanup.cleanup(context, arguments.keep_lease)
        case "hand-back":
            from flannel.cli import hand_back

            return await hand_back.hand_back(context)
    from flannel.cli import config

    match arguments.action:
        case "get":
            return await config.get(context)
        case "check":
            return await config.check(context, arguments.document)
        case _:
            return await config.set_config(context, arguments.document, wait=arguments.wait)


def _options(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Options:
    """flanneld's options; the shared ones can be typed here as well."""
    given = [
        f"-{name}={text}"
        for name in SHARED
        if (text := getattr(arguments, name.replace("-", "_"), None)) is not None
    ]
    return parse(given, environ)


def parser() -> argparse.ArgumentParser:
    """The whole command line; `dist/generate.py` makes man page and completion from it."""
    common = _common()
    top = _Parser(
        prog="flannel",
        description="Inspect and repair the overlay network of this host.",
        epilog="Exit status: 0 if all is well, 1 if not, 2 for a mistake on the command line.",
        allow_abbrev=False,
    )
    top.add_argument("-version", "--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(
        name: str, text: str, within: "argparse._SubParsersAction[_Parser]" = commands
    ) -> _Parser:
        return within.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common],
            allow_abbrev=False,
        )  # fmt: skip

    status = add("status", "show the state of the overlay on this host")
    status.add_argument(
        "--watch",
        action="store_true",
        help="repeat every two seconds; with --json, a document is a line",
    )
    add("leases", "list all leases: which host holds which subnet")
    add("peers", "probe the other hosts: which answer, how quickly, and packets up to which size")
    add("check", "find out what is wrong, why it matters, and what to do")
    explain = add("explain", "show what happens to a packet, hop by hop")
    explain.add_argument("address", metavar="ADDRESS", type=_address, help="the destination")
    explain.add_argument(
        "--source", metavar="ADDRESS", type=_address,
        help="the source, here or on a peer; default: the first container of this host",
    )  # fmt: skip
    reserve = add("reserve", "reserve a subnet for a host; a reservation never expires")
    reserve.add_argument("host", metavar="HOST", type=_address, help="its public address")
    which = reserve.add_mutually_exclusive_group()
    default = "default: the one that the host holds, or else any that is free"
    which.add_argument("subnet", metavar="SUBNET", type=_network, nargs="?", help=default)
    which.add_argument("--subnet", dest="to", metavar="SUBNET", type=_network, help="the same")
    release = add("release", "give up the lease or reservation of a subnet")
    release.add_argument("subnet", metavar="SUBNET", type=_network, help="such as 10.1.5.0/24")
    config = commands.add_parser(
        "config", help="the network config of the cluster", allow_abbrev=False
    )
    actions = config.add_subparsers(dest="action", metavar="ACTION", required=True)
    set_config = _add_actions(lambda name, text: add(name, text, actions))
    cleanup = add("cleanup", "remove everything of flannel's from this host, after asking")
    cleanup.add_argument("--keep-lease", action="store_true", help="keep lease and identity")
    add("hand-back", "leave this host to CoreOS's flanneld, while packets flow on")
    for each in (reserve, release, set_config, cleanup):
        each.add_argument("--yes", action="store_true", help="do not ask")
    add("docker-opts", "make options for docker from subnet.env; it has its own flags, see -h")
    add("version", "print the version")
    return top


def _add_actions(add: Callable[[str, str], _Parser]) -> _Parser:
    """Those of ``flannel config``; return ``set``."""
    add("get", "print the network config")
    document = "JSON, the name of a file, or - for standard input"
    check = add("check", "check whether a network config is valid, and what it would change")
    check.add_argument(
        "document", metavar="DOCUMENT", nargs="?", help=f"{document}; default: what is in etcd"
    )
    set_config = add("set", "write the network config, after a check")
    set_config.add_argument("document", metavar="DOCUMENT", help=document)
    set_config.add_argument(
        "--no-wait", dest="wait", action="store_false",
        help="do not wait, for at most 10 s, until all hosts have followed",
    )  # fmt: skip
    return set_config


def _common() -> _Parser:
    """The flags of every command."""
    common = _Parser(add_help=False, allow_abbrev=False)
    common.add_argument("--json", action="store_true", help="print a JSON document")
    shared = common.add_argument_group("the same as flanneld's; FLANNELD_* variables count as well")
    for flag in shared_flags():
        shared.add_argument(
            f"-{flag.name}",
            f"--{flag.name}",
            metavar=flag.metavar,
            help=flag.help.replace("%", "%%"),
        )
    return common


def shared_flags() -> list[Flag]:
    """The rows of flanneld's table that `flannel` takes as well."""
    return [flag for flag in FLAGS if flag.name in SHARED]


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not an IPv4 address") from None


def _network(text: str) -> IPv4Network:
    try:
        if "/" not in text:
            raise ValueError
        return IPv4Network(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no subnet like 10.1.5.0/24") from None


if __name__ == "__main__":
    sys.exit(main())
