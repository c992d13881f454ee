"""flannel config get, check, set: the network config of the whole cluster."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flannel import backends
from flannel.cli.context import Context
from flannel.cli.followers import Change, Followers, wait_for_hosts
from flannel.cli.range_report import range_lines, range_report
from flannel.cli.unknown_members import Unknown, find_unknown
from flannel.document import BadDocument, parse_object, shown
from flannel.errors import BadNetworkConfig, BadOption, StoreError
from flannel.lease import Lease
from flannel.network_config import NetworkConfig
from flannel.printable import complain, printable, printable_json, say, say_whole
from flannel.stores import ConfigDocument


async def get(context: Context) -> int:
    """Print the document that is in the store."""
    document = await context.config_document()
    if document is None:
        key = f"{context.options.etcd.prefix}/config"
        complain(f"there is no network config at {key}")
        return 1
    if context.as_json:
        context.show({"config": document.text, "version": document.version})
    else:
        say_whole(printable_json(document.text))
    return 0


async def check(context: Context, source: str | None) -> int:
    """Check whether a document, or the one in the store, is valid, and what it would change."""
    current = await context.config_document() if source is None else None
    if source is None and current is None:
        raise BadOption("cannot check the network config: there is none in the store")
    text = current.text if current is not None else _read(source or "")
    try:
        validate(text)
    except BadNetworkConfig as why:
        context.show({"valid": False, "why": str(why)}, f"wrong: {why}")
        return 1
    try:
        report = await _report(context, text)
    except StoreError as why:
        context.show({"valid": True, "note": str(why)}, f"right; {why}")
        return 0
    is_fit = is_for_all(report)
    head = "right" if is_fit else "right, but not for all hosts"
    context.show({"valid": True, "fit": is_fit, **report}, head, *_lines(report))
    return 0 if is_fit else 1


async def set_config(context: Context, source: str, *, wait: bool = True) -> int:
    """Write a document after checking it and showing its consequences.

    :param wait: see which hosts follow, for some seconds; exit status 1 if one has not.
    :raises BadOption: a host would refuse the document.
    :raises ConfigConflict: the document in the store has changed meanwhile; nothing is written.
    """
    text = _read(source).strip()
    try:
        validate(text)
    except BadNetworkConfig as why:
        raise BadOption(str(why)) from None
    before = await context.config_document()
    if before is not None and before.text == text:
        context.show({"written": False}, "the store holds that document already")
        return 0
    report = await _report(context, text)
    if not context.as_json:
        say(*_lines(report))
    if not context.confirm("Write it?"):
        return 1
    holders = (await context.store.snapshot()).leases if wait else ()
    await context.store.write_config(text, before)
    if not context.as_json:
        say("written")
    followers = await _followers(context, text, before, holders) if wait else None
    document = {"written": True, "hosts": followers.document() if followers else None, **report}
    context.show(document, *(followers.lines() if followers else ()))
    return 0 if is_for_all(report) and (followers is None or followers.have_all) else 1


async def _followers(
    context: Context, text: str, before: ConfigDocument | None, holders: tuple[Lease, ...]
) -> Followers:
    written = await context.config_document()
    if written is None or written.text != text:
        return Followers()  # the document was overwritten meanwhile, so no host follows it
    former = before.text if before is not None else ""
    change = Change(former, NetworkConfig.from_json(text), written.version)
    return await wait_for_hosts(context.store, holders, change)


def validate(text: str) -> NetworkConfig:
    """Check a document the way a host does.

    :raises BadNetworkConfig: naming the key, its value and the rule.
    """
    config = NetworkConfig.from_json(text)
    backends.check_config(config)
    return config


def _read(source: str) -> str:
    """The document itself, or that of a named file, or of standard input for ``-``.

    :raises BadOption: it cannot be read.
    """
    if source.lstrip().startswith("{"):
        return source
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else str(why)
        raise BadOption(f"cannot read {source}: {reason}") from None


async def _report(context: Context, text: str) -> dict[str, Any]:
    """The difference from the document in the store, and the hosts that it would affect."""
    before = await context.config_document()
    leases = (await context.store.snapshot()).leases
    found = report(before.text if before is not None else "{}", text, leases)
    return {**found, **await range_report(context, NetworkConfig.from_json(text), leases)}


def is_for_all(report: dict[str, Any]) -> bool:
    """Whether this host and those that hold leases can be served. Pure."""
    return not report["overlap"] and not report["refused"] and report["subnets"] >= report["leases"]


def report(before: str, after: str, leases: Iterable[Lease]) -> dict[str, Any]:
    """The difference of two documents. Pure.

    :param after: a valid one.
    """
    config = NetworkConfig.from_json(after)
    leases = tuple(leases)
    misfits = [lease for lease in leases if not config.fits(lease.subnet)]
    others = [lease for lease in leases if lease.attrs.backend != config.backend_type]
    return {
        "changes": _changes(before, after),
        "unknown": [each._asdict() for each in find_unknown(after)],
        "subnets": config.n_subnets,
        "leases": len(leases),
        "losing": [str(lease) for lease in misfits],
        "other_backend": [str(lease) for lease in others],
    }


def _changes(before: str, after: str) -> list[dict[str, Any]]:
    try:
        old = _flat(parse_object(before))
    except BadDocument:
        old = {}
    new = _flat(parse_object(after))
    names = {each.lower(): each for each in [*old, *new]}
    old, new = ({name.lower(): value for name, value in each.items()} for each in (old, new))
    return [
        {"member": names[key], "before": old.get(key), "after": new.get(key)}
        for key in sorted(names)
        if old.get(key) != new.get(key)
    ]


def _flat(document: dict[str, Any], where: str = "") -> dict[str, Any]:
    """The members of all objects by their paths, such as ``Backend.Type``."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{where}{name}.")
        else:
            found[where + name] = value
    return found


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"  {printable(each['member'], 60)}: {shown(each['before'])} -> {shown(each['after'])}"
        for each in report["changes"]
    ] or ["  no change"]
    lines += [f"  WARNING: {Unknown(**each)}" for each in report["unknown"]]
    lines.append(f"  room for {report['subnets']} hosts; {report['leases']} have a lease")
    if report["subnets"] < report["leases"]:
        lines.append("  NOT ENOUGH: some hosts would be left without a subnet")
    lines += range_lines(report)
    lines += [f"  no longer fits, gets another subnet: lease {each}" for each in report["losing"]]
    if report["other_backend"]:
        n = len(report["other_backend"])
        lines.append(
            f"  {n} of the leases are of another backend: those hosts change over, and are not "
            "reached by the others until both sides have"
        )
    return lines
