"""Options of this host, as opposed to the network config of the whole cluster.

`FLAGS` is the only table: command line, FLANNELD_* variables and ``-help`` are made of it. A flag
overrides its variable, which overrides the default; an empty variable counts as unset. Names,
defaults and syntax are upstream's, so that units and scripts for upstream's daemon keep working.
"""

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, collapse_addresses
from pathlib import Path
from typing import Any

from flannel import __version__
from flannel.document import shown
from flannel.errors import BadOption
from flannel.options import values
from flannel.options.flags import Flag, boolean, split
from flannel.options.recipients import Target, recipients, unite
from flannel.printable import complain


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """How to reach etcd.

    :ivar endpoints: ``http://host:port`` or ``https://host:port``, all of one scheme.
    :ivar prefix: begins with a slash and does not end with one; empty for the root.
    :ivar keyfile: there if and only if ``certfile`` is.
    :ivar password: empty if and only if ``username`` is; never shown.
    """

    endpoints: tuple[str, ...]
    prefix: str
    keyfile: Path | None
    certfile: Path | None
    cafile: Path | None
    username: str
    password: str = field(repr=False)

    @property
    def access(self) -> dict[str, Any]:
        """The arguments of `flannel.stores.etcd_endpoints.Endpoints`."""
        names = ("endpoints", "certfile", "keyfile", "cafile", "username", "password")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that `parse` found, checked.

    :ivar ip_masq_except: none within another.
    :ivar guard_mark: one bit.
    :ivar v: log verbosity, 0 for the normal one.
    :ivar warnings: one line each, of flags without effect and the like, for the log.
    """

    etcd: EtcdOptions
    iface: tuple[str, ...]
    iface_regex: tuple[re.Pattern[str], ...]
    iface_can_reach: IPv4Address | None
    public_ip: IPv4Address | None
    subnet_file: Path
    subnet_lease_renew_margin: timedelta
    subnet_lease_ttl: timedelta
    lease_grace: timedelta
    adopt_after: timedelta
    lease_hook: Path | None
    hand_over: tuple[Target, ...]
    release_on_exit: bool
    state_dir: Path
    healthz_ip: IPv4Address | IPv6Address
    healthz_port: int
    log_format: str
    probe_port: int
    ip_masq: bool
    ip_masq_fully_random_disable: bool
    ip_masq_except: tuple[IPv4Network, ...]
    guard: bool
    guard_mark: int
    ip_blackhole_route: bool
    iptables_resync: timedelta
    iptables_forward_rules: bool
    v: int
    warnings: tuple[str, ...]


_NO_MODULES = "-v is the verbosity of the whole of flanneld"
_ONE_NETWORK = "this version serves one network, the one at -etcd-prefix"
_NO_REMOTE = "this version reads etcd itself and is neither client nor server of another flanneld"
_OLD = "of flannel 0.5 to 0.7"

# fmt: off
FLAGS = (
    Flag(name="etcd-endpoints", parse=values.etcd_endpoints, metavar="URL,...",
         default="http://127.0.0.1:4001,http://127.0.0.1:2379",
         help="members of the etcd cluster, all http or all https; without a port: 80 or 443"),
    Flag(name="etcd-prefix", parse=values.etcd_prefix, metavar="KEY",
         default="/coreos.com/network",
         help="key of the network in etcd: KEY/config is its config, leases are below KEY/subnets"),
    Flag(name="etcd-keyfile", parse=values.key_file, metavar="FILE",
         help="private key of -etcd-certfile, PEM"),
    Flag(name="etcd-certfile", parse=values.readable_file, metavar="FILE",
         help="client certificate to show to etcd, PEM"),
    Flag(name="etcd-cafile", parse=values.readable_file, metavar="FILE",
         help="CA that has signed the certificate of etcd, PEM; without: those of the system"),
    Flag(name="etcd-username", parse=values.username, metavar="NAME",
         help="user name to show to etcd"),
    Flag(name="etcd-password", parse=str, metavar="TEXT", secret=True,
         help="password to show to etcd; ps shows it to all users, so prefer the variable"),
    Flag(name="iface", parse=values.interface, metavar="NAME|ADDRESS", repeatable=True,
         help="interface towards the other hosts, or its address; of several, the first that "
         "exists; without: the interface of the default route"),
    Flag(name="iface-regex", parse=values.pattern, metavar="PATTERN", repeatable=True,
         help="the same by regular expression, tried on addresses, then on names; of several, the "
         "first that fits, if no -iface does"),
    Flag(name="iface-can-reach", parse=values.unicast_ipv4, metavar="ADDRESS",
         help="the same by the route to ADDRESS, if no -iface or -iface-regex fits"),
    Flag(name="public-ip", parse=values.unicast_ipv4, metavar="ADDRESS",
         help="address that peers send to; behind NAT it differs from that of the interface"),
    Flag(name="public-ipv6", parse=values.ipv6, metavar="ADDRESS",
         help="-public-ip for IPv6", no_effect="this version serves IPv4 only"),
    Flag(name="subnet-file", parse=values.file_name, metavar="FILE",
         default="/run/flannel/subnet.env", help="file to write the lease and the MTU to"),
    Flag(name="subnet-lease-renew-margin", parse=values.margin, metavar="MINUTES", default="60",
         help="renew the lease this long before it ends, 1 to 1439"),
    Flag(name="subnet-lease-ttl", parse=values.duration(60, 366 * 86400, 60), metavar="TIME",
         default="24h", help="how long the lease lasts without being renewed, in whole minutes"),
    Flag(name="lease-grace", parse=values.duration(0, 7 * 86400), metavar="TIME", default="5m",
         help="how long to keep the routes to hosts whose leases vanish without being removed, as "
         "when etcd was emptied or restored; at a start, of those that are gone together with the "
         "lease of this host"),
    Flag(name="adopt-after", parse=values.duration(0, 366 * 86400), metavar="TIME", default="1m",
         help="take over the lease of another host that has the address of this one and has not "
         "answered in etcd for so long, as when a machine was installed anew; 0 for never. It is "
         "never done with a -public-ip that is not an address of this host"),
    Flag(name="lease-hook", parse=values.program, metavar="FILE",
         help="program to run after the host had to take another subnet, with FLANNEL_OLD_SUBNET "
         "and what is in -subnet-file in its environment"),
    Flag(name="hand-over", parse=recipients, metavar="PROGRAM,...", repeatable=True,
         help="container programs whose network gets the lease and follows it: "
         "docker-network=NAME, podman=NAME, or cni=/PATH.conflist; docker0 is left alone then"),
    Flag(name="release-on-exit", parse=boolean, metavar="BOOL", default="false",
         help="release the lease at the end, for hosts that do not return"),
    Flag(name="state-dir", parse=values.file_name, metavar="DIRECTORY",
         default="/var/lib/flannel",
         help="directory for the identity of this host and the state for a start without etcd"),
    Flag(name="ip-masq", parse=boolean, metavar="BOOL", default="false",
         help="masquerade packets that leave the overlay, and those that enter it from elsewhere; "
         "docker then does not"),
    Flag(name="ip-masq-fully-random-disable", parse=boolean, metavar="BOOL", default="false",
         help="masquerade without random source ports"),
    Flag(name="ip-masq-except", parse=values.networks, metavar="NETWORK,...", repeatable=True,
         help="with -ip-masq: networks that see containers with their own addresses, having routes "
         "to them"),
    Flag(name="guard", parse=boolean, metavar="BOOL", default="true",
         help="drop forged packets to other hosts of the overlay, and VXLAN packets "
         "from addresses that hold no lease; false for hosts behind NAT, whose packets come from "
         "an address that they do not publish"),
    Flag(name="guard-mark", parse=values.mark_bit, metavar="BIT", default="0x10000000",
         help="the bit of the packet mark by which -guard distinguishes the tunnel's own packets "
         "from others on their way out; one that no other program of this host uses"),
    Flag(name="ip-blackhole-route", parse=boolean, metavar="BOOL", default="false",
         help="drop packets to the own subnet where no bridge has it, instead of sending them out "
         "by the default route"),
    Flag(name="iptables-resync", parse=values.integer(0, 2**31 - 1), metavar="SECONDS",
         default="5", help="how often to check the firewall's rules, nftables' as well, at most "
         "once a second"),
    Flag(name="iptables-forward-rules", parse=boolean, metavar="BOOL", default="true",
         help="accept forwarded packets of the overlay in the chain FORWARD of iptables"),
    Flag(name="healthz-ip", parse=values.listening_address, metavar="ADDRESS", default="127.0.0.1",
         help="address to serve /healthz, /readyz and /metrics at; 0.0.0.0, upstream's default, is "
         "all of this host's"),
    Flag(name="healthz-port", parse=values.integer(0, 65535), metavar="PORT", default="0",
         help="TCP port to serve them at, 0 for none"),
    Flag(name="probe-port", parse=values.integer(0, 65535), metavar="PORT", default="8286",
         help="UDP port of the overlay where flanneld answers `flannel check` of other hosts that "
         "it is alive; the same on all hosts, 0 for none"),
    Flag(name="log-format", parse=values.one_of("text", "json"), metavar="text|json",
         default="text", help="log lines for people, or one JSON object for each"),
    Flag(name="v", parse=values.integer(-(2**31), 2**31 - 1), metavar="LEVEL", default="0",
         help="log more: 1 for the steps of flanneld, 2 for those of its libraries as well"),
    Flag(name="vmodule", parse=str, metavar="NAME=LEVEL,...",
         help="-v by source file", no_effect=_NO_MODULES),
    Flag(name="log_backtrace_at", parse=str, metavar="FILE:LINE", default=":0",
         help="log a stack trace at that line", no_effect="this version logs no stack traces"),
    Flag(name="subnet-dir", parse=str, metavar="DIRECTORY", default="/run/flannel/networks",
         help=_OLD, refused=_ONE_NETWORK),
    Flag(name="networks", parse=str, metavar="NAME,...", help=_OLD, refused=_ONE_NETWORK),
    Flag(name="watch-networks", parse=boolean, metavar="BOOL", default="false",
         help=_OLD, refused=_ONE_NETWORK),
    Flag(name="listen", parse=str, metavar="ADDRESS", help=_OLD, refused=_NO_REMOTE),
    Flag(name="remote", parse=str, metavar="ADDRESS", help=_OLD, refused=_NO_REMOTE),
    Flag(name="remote-keyfile", parse=str, metavar="FILE", help=_OLD, refused=_NO_REMOTE),
    Flag(name="remote-certfile", parse=str, metavar="FILE", help=_OLD, refused=_NO_REMOTE),
    Flag(name="remote-cafile", parse=str, metavar="FILE", help=_OLD, refused=_NO_REMOTE),
    Flag(name="version", parse=boolean, metavar="BOOL", default="false", has_variable=False,
         help="print the version on stderr, then exit"),
)
# fmt: on
"""In the order of -help. A table, which the formatter would make four times as long."""

_BY_NAME = {flag.name: flag for flag in FLAGS}


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Read a command line (without the program's name) and the environment.

    Beyond them it looks only whether named TLS files can be read.

    :raises BadOption: one line that names the flag or variable.
    :raises SystemExit: with status 0, after ``-help`` or ``-version`` has been answered.
    """
    typed = split(argv, _BY_NAME)
    if "version" in typed and _BY_NAME["version"].value(typed["version"], "-version"):
        complain(__version__)  # not stdout: as upstream
        raise SystemExit(0)
    found, sources = _values(typed, environ)
    etcd = EtcdOptions(
        endpoints=found["etcd-endpoints"],
        prefix=found["etcd-prefix"],
        keyfile=found["etcd-keyfile"],
        certfile=found["etcd-certfile"],
        cafile=found["etcd-cafile"],
        username=found["etcd-username"],
        password=found["etcd-password"],
    )
    _check_pairs(etcd, sources)
    margin = _margin(found["subnet-lease-renew-margin"], found["subnet-lease-ttl"], sources)
    return Options(
        etcd=etcd,
        iface=found["iface"],
        iface_regex=found["iface-regex"],
        iface_can_reach=found["iface-can-reach"],
        public_ip=found["public-ip"],
        subnet_file=found["subnet-file"],
        subnet_lease_renew_margin=margin,
        subnet_lease_ttl=found["subnet-lease-ttl"],
        lease_grace=found["lease-grace"],
        adopt_after=found["adopt-after"],
        lease_hook=found["lease-hook"],
        hand_over=_hand_over(found["hand-over"], sources),
        release_on_exit=found["release-on-exit"],
        state_dir=found["state-dir"],
        healthz_ip=found["healthz-ip"],
        healthz_port=found["healthz-port"],
        log_format=found["log-format"],
        probe_port=found["probe-port"],
        ip_masq=found["ip-masq"],
        ip_masq_fully_random_disable=found["ip-masq-fully-random-disable"],
        ip_masq_except=tuple(collapse_addresses(sum(found["ip-masq-except"], ()))),
        guard=found["guard"],
        guard_mark=found["guard-mark"],
        ip_blackhole_route=found["ip-blackhole-route"],
        iptables_resync=timedelta(seconds=found["iptables-resync"]),
        iptables_forward_rules=found["iptables-forward-rules"],
        v=found["v"],
        warnings=(*_without_effect(sources, environ), *_etcd_warnings(etcd, sources)),
    )


def _values(
    typed: Mapping[str, list[str]], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The value of each flag, and the flag or variable that it is from if not from the default."""
    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for flag in FLAGS:
        texts = [flag.default]
        if flag.name in typed:
            sources[flag.name], texts = f"-{flag.name}", typed[flag.name]
        elif environ.get(flag.variable):
            sources[flag.name], texts = flag.variable, [environ[flag.variable]]
        found[flag.name] = flag.value(texts, sources.get(flag.name, ""))
        if flag.refused and found[flag.name] != flag.value([flag.default]):
            raise BadOption(f"cannot use {sources[flag.name]}: {flag.refused}")
    return found, sources


def _check_pairs(etcd: EtcdOptions, sources: Mapping[str, str]) -> None:
    if etcd.certfile and not etcd.keyfile:
        raise BadOption(f"cannot use {sources['etcd-certfile']}: it needs -etcd-keyfile as well")
    if etcd.keyfile and not etcd.certfile:
        raise BadOption(f"cannot use {sources['etcd-keyfile']}: it needs -etcd-certfile as well")
    if etcd.username and not etcd.password:
        needed = _BY_NAME["etcd-password"].variable
        raise BadOption(f"cannot use {sources['etcd-username']}: it needs {needed} as well")
    if etcd.password and not etcd.username:
        raise BadOption(f"cannot use {sources['etcd-password']}: it needs -etcd-username as well")


def _hand_over(
    given: Sequence[tuple[Target, ...]], sources: Mapping[str, str]
) -> tuple[Target, ...]:
    try:
        return unite(given)
    except ValueError as why:
        raise BadOption(f"cannot use {sources['hand-over']}: {why}") from None


def _margin(margin: timedelta, ttl: timedelta, sources: Mapping[str, str]) -> timedelta:
    """What must be left of a lease of ``ttl`` at its renewal; the default gives way to it."""
    if margin < ttl:
        return margin
    if source := sources.get("subnet-lease-renew-margin"):
        raise BadOption(f"cannot use {source}: it must be less than -subnet-lease-ttl, {ttl}")
    return ttl / 4


def _without_effect(sources: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    warnings = [
        f"{sources[flag.name]} has no effect: {flag.no_effect}"
        for flag in FLAGS
        if flag.no_effect and flag.name in sources
    ]
    unknown = {name for name in environ if name.startswith("FLANNELD_")}
    unknown -= {flag.variable for flag in FLAGS}
    warnings += [f"{shown(name)} has no effect: there is no such flag" for name in sorted(unknown)]
    return warnings


def _etcd_warnings(etcd: EtcdOptions, sources: Mapping[str, str]) -> list[str]:
    warnings = []
    if sources.get("etcd-password") == "-etcd-password":
        variable = _BY_NAME["etcd-password"].variable
        warnings.append(f"ps shows the value of -etcd-password to everybody; use {variable}")
    files = [path for path in (etcd.cafile, etcd.certfile, etcd.keyfile) if path]
    if files and etcd.endpoints[0].startswith("http:"):
        names = ", ".join(repr(str(path)) for path in files)
        warnings.append(f"TLS is not used, for the endpoints of etcd are all http, despite {names}")
    if etcd.keyfile and etcd.keyfile.stat().st_mode & stat.S_IROTH:
        name = repr(str(etcd.keyfile))
        warnings.append(f"every user of this host can read the private key {name}")
    return warnings
