"""Whether a flanneld runs on this host, for commands that delete what it would restore."""

from flannel.cli.context import Context, DaemonDown
from flannel.errors import BadOption
from flannel.kernel.claims import find_claims
from flannel.run_lock import FILE_NAME, find_holder


async def refuse_while_running(context: Context, doing: str) -> None:
    """Return if no flanneld uses the files, or a device or network of this host.

    :param doing: the work that is refused otherwise, for the message.
    :raises BadOption: a flanneld does, or that cannot be found out.
    """
    holder = await _find_daemon(context, doing)
    if holder:
        raise BadOption(
            f"cannot {doing}: {holder} runs, and would put everything back; stop it first"
        )


async def _find_daemon(context: Context, doing: str) -> str:
    """That flanneld, for messages; "" for none."""
    for directory in (context.options.subnet_file.parent, context.options.state_dir):
        try:
            holder = find_holder(directory)
        except OSError as why:
            path = directory / FILE_NAME
            raise BadOption(f"cannot {doing}: {path}: {why.strerror}") from None
        if holder:
            return holder
    for name, holder in find_claims().items():
        return f"flanneld, {holder}, with {name},"
    try:
        await context.ask_daemon("/status")
    except DaemonDown:
        return ""
    return "flanneld"  # one without locks: an earlier version, or files that cannot be locked
