"""flannel check: whether the overlay is healthy, as seen from this host.

Each examination looks at one thing and returns findings; what it cannot see is a finding too. Here
are those of flanneld and of the store. `check_docker`, `check_firewall`, `check_host`,
`check_peers` and `check_ways` have the others; `facts` is what one finds out for the next.
"""

from ipaddress import IPv4Address

from flannel.cli.check_docker import examine_config
from flannel.cli.check_host import examine_host
from flannel.cli.check_peers import examine_peers
from flannel.cli.config import validate
from flannel.cli.context import Context, DaemonDown, DaemonUnseen, duration
from flannel.cli.facts import Facts
from flannel.cli.findings import KINDS, Finding
from flannel.conditions import Condition
from flannel.errors import BadNetworkConfig, KernelError, StoreError
from flannel.handover import subnet_env
from flannel.lease import Lease

_OVERDUE = -600
"""Seconds until the lease's renewal; when it is overdue by this, renewals fail."""
_CONDITIONS = {
    Condition.NFT: "firewall",
    Condition.IPTABLES: "firewall",
    Condition.SYSCTLS: "firewall",
    Condition.MASQUERADE: "firewall",
    Condition.GUARD: "unguarded",
    Condition.RESOURCES: "resources",
    Condition.STATE: "resources",
    Condition.HAND_OVER: "hand-over",
}
"""The findings for flanneld's conditions that no examination here would find."""


async def check(context: Context) -> int:
    """Print the findings; return exit status 1 if there is a fault."""
    findings = await examine(context)
    faults = [each for each in findings if KINDS[each.kind].severity == "fault"]
    lines = [str(each) for each in findings] or ["all is well"]
    document = {"healthy": not faults, "findings": [each.document() for each in findings]}
    context.show(document, *lines)
    return 1 if faults else 0


async def examine(context: Context) -> list[Finding]:
    """All findings; causes come before their effects."""
    facts = Facts(env=subnet_env.read(context.options.subnet_file), mark=context.options.guard_mark)
    findings = await _ask_daemon(context, facts)
    findings += await _ask_store(context, facts)
    findings += await examine_config()
    try:
        async with context.host() as host:
            async for each in examine_host(facts, host):
                findings.append(each)
            findings += [Finding("unseen", text) for text in host.unseen]
            async for each in examine_peers(context, facts, host):
                findings.append(each)
    except KernelError as why:
        findings.append(Finding("unseen", f"this host's network: {why}"))
    return findings


async def _ask_daemon(context: Context, facts: Facts) -> list[Finding]:
    try:
        facts.status = status = await context.ask_daemon("/status")
    except DaemonUnseen as why:
        return [Finding("daemon-unseen", str(why))]
    except DaemonDown as why:
        return [Finding("daemon-down", str(why))]
    findings = []
    if not status["ready"]:
        findings.append(Finding("not-ready", status["unready"]))
    for condition, kind in _CONDITIONS.items():
        if text := status["conditions"].get(condition.value):
            findings.append(Finding(kind, text))
    lease = status["lease"]
    if lease is not None and lease["renewal_in"] is not None and lease["renewal_in"] < _OVERDUE:
        late = duration(-lease["renewal_in"])
        findings.append(
            Finding("renewal-overdue", f"lease {lease['subnet']} should be renewed since {late}")
        )
    subnet = facts.subnet
    if lease is not None and (facts.env is None or facts.env.subnet.network != subnet):
        there = facts.env.subnet if facts.env is not None else "missing"
        what = f"{context.options.subnet_file} is {there}, and the lease is {subnet}"
        findings.append(Finding("subnet-env", what))
    return findings


async def _ask_store(context: Context, facts: Facts) -> list[Finding]:
    try:
        document = await context.config_document()
        facts.leases = (await context.store.snapshot()).leases
    except StoreError as why:
        return [Finding("etcd-down", str(why))]
    if document is None:
        return [Finding("no-config", f"there is none at {context.options.etcd.prefix}/config")]
    try:
        facts.config = validate(document.text)
    except BadNetworkConfig as why:
        return [Finding("bad-config", str(why))]
    findings = []
    if facts.status is None and facts.subnet not in {lease.subnet for lease in facts.leases}:
        findings.append(Finding("no-lease", f"etcd has none for {facts.subnet or 'this host'}"))
    by_address: dict[IPv4Address, list[Lease]] = {}
    for lease in facts.leases:
        if lease.has_no_host_yet:
            continue  # its host may hold another lease until it starts again
        if lease.ttl is None and not facts.config.fits(lease.subnet):
            continue  # a reservation of an earlier config stays; its host has taken another subnet
        by_address.setdefault(lease.attrs.public_ip, []).append(lease)
    for address, leases in by_address.items():
        if len(leases) > 1:
            subnets = ", ".join(str(lease.subnet) for lease in leases)
            findings.append(Finding("same-address", f"{address} is in the leases {subnets}"))
    return findings
