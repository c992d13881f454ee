"""The guard in iptables, for hosts without nft. Pure: rules in, chains out.

    mangle  POSTROUTING -> FLANNEL-MARK    marks packets that leave by the tunnel's link
    raw     OUTPUT      -> FLANNEL-OUT     drops this host's unmarked datagrams to the tunnel's port
    mangle  FORWARD     -> FLANNEL-GUARD   drops containers' datagrams to that port
    raw     PREROUTING  -> FLANNEL-IN      drops forged sources, to peers and out of the tunnel
    mangle  INPUT       -> FLANNEL-TUNNEL  drops VXLAN packets that no flannel sends

`nft_table` explains the mark. This guard checks less than the one of nftables. iptables has no set
of peers, so it cannot check the addresses of VXLAN senders. It cannot see the source after
masquerade either, so it drops all VXLAN that is forwarded from other links to the external
interface, even that of a peer for which this host is a router. It drops packets that may be several
datagrams in one (see `nft_table`) for any destination, unless they are answers; also those that
another VXLAN link with the same port sends for a process of this host.
"""

from dataclasses import dataclass

from flannel.firewall.nft_table import TWO_SEGMENTS
from flannel.firewall.rules import Guard, Rules


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of our chains is jumped to.

    :ivar v05_chain: the name that flannel v0.5 gave to this chain; "" if it had none.
    :ivar first: the jump is the first rule of the built-in chain, not the last.
    """

    table: str
    builtin: str
    chain: str
    comment: str
    v05_chain: str = ""
    first: bool = False

    @property
    def jump(self) -> str:
        """The rule of the built-in chain, as ``iptables-save`` prints it."""
        return f'-m comment --comment "{self.comment}" -j {self.chain}'


_COMMENT = "flanneld guard"
# Last: rules that set the whole mark, for tc, would clear the bit.
_MARK = Place("mangle", "POSTROUTING", "FLANNEL-MARK", _COMMENT)
_FORWARD = Place("mangle", "FORWARD", "FLANNEL-GUARD", _COMMENT, first=True)
_TUNNEL = Place("mangle", "INPUT", "FLANNEL-TUNNEL", _COMMENT, first=True)
_IN = Place("raw", "PREROUTING", "FLANNEL-IN", _COMMENT, first=True)
_OUT = Place("raw", "OUTPUT", "FLANNEL-OUT", _COMMENT, first=True)

PLACES = _MARK, _FORWARD, _TUNNEL, _IN, _OUT

_INJECTED = "tx_injected"

_HEADER = "0x0>>0x16&0x3c"
"""u32's offset of the end of an IPv4 header: four times the lower half of its first byte."""


def guard_rules(rules: Rules) -> dict[Place, list[str]]:
    """The chains of the guard, as ``iptables-save`` prints them; {} if ``rules`` have no guard."""
    guard = rules.guard
    if guard is None:
        return {}
    chains: dict[Place, list[str]] = {_IN: _in(rules, guard)}
    if guard.vni is not None:
        chains[_MARK] = [f"-o {guard.device} -j MARK --set-xmark {rules.mark:#x}/{rules.mark:#x}"]
        chains[_TUNNEL] = _tunnel(guard)
    if guard.port:
        chains[_FORWARD] = _forward(rules, guard)
        segments = _drop(f"{_segments(guard)} -m owner --socket-exists", _INJECTED)
        clear = f"! -o {guard.device} -p udp -m udp --dport {guard.port} "
        clear += f"-j MARK --set-xmark 0x0/{rules.mark:#x}"
        chains.setdefault(_MARK, []).extend((segments, clear))
        chains[_OUT] = _out(rules, guard)
    return chains


def _drop(match: str, counter: str) -> str:
    return f'{match} -m comment --comment "flanneld drop {counter}" -j DROP'


def _leave(match: str) -> str:
    return f'{match} -m comment --comment "{_COMMENT}" -j RETURN'


def _in(rules: Rules, guard: Guard) -> list[str]:
    network, subnet = rules.network, rules.subnet
    tunnel = []
    if guard.vni is not None:
        tunnel = [
            _drop(f"! -s {network} -i {guard.device}", "spoofed"),
            _drop(f"-s {subnet} -i {guard.device}", "spoofed"),
            _drop(f"! -d {subnet} -i {guard.device}", "not_mine"),
        ]
    if guard.port and not guard.siblings:
        # A container that forges a peer's address. On two links to one network this is not known.
        ours, *_ = _to_port(guard)
        forged = f"! -i {guard.interface} {ours} -m addrtype --dst-type LOCAL -m rpfilter --invert"
        tunnel.append(_drop(forged, "wrong_interface"))
    return [
        *tunnel,
        # To peers:
        _leave(f"-d {subnet}"),
        _leave(f"! -d {network}"),
        _drop("-m rpfilter --invert", "tx_spoofed"),
        _leave(f"-s {subnet}"),
        _drop(f"-s {network}", "tx_spoofed"),
    ]


def _out(rules: Rules, guard: Guard) -> list[str]:
    # VXLAN packets of the kernel's link have no socket, unless a process here sent the inner one.
    unmarked = f"-m mark --mark 0x0/{rules.mark:#x} -m owner --socket-exists"
    return [
        *(_drop(f"{match} {unmarked}", _INJECTED) for match in _to_port(guard)),
        _drop(
            f"! -s {rules.subnet} -o {guard.device} -m addrtype ! --src-type LOCAL", "tx_spoofed"
        ),
    ]


def _forward(rules: Rules, guard: Guard) -> list[str]:
    lines = [_leave(f"-o {guard.device}"), _leave(f"-d {rules.network}")]
    for match in (*_to_port(guard), _segments(guard)):
        lines.append(_drop(f"-s {rules.network} {match}", _INJECTED))
        link = guard.interface
        lines.append(_drop(f"! -i {link} -o {link} {match}", _INJECTED))
    return lines


def _tunnel(guard: Guard) -> list[str]:
    ours, *_ = _to_port(guard)
    ipv4 = f'-m u32 ! --u32 "{_HEADER}@0x1c>>0x10=0x800"'
    known = [_leave(f"-d {address}/32 {ours}") for address in guard.addresses]
    return [
        _drop(f"{ours} {ipv4}", "not_ipv4"),
        *known,
        *([_drop(ours, "other_address")] if known else []),
    ]


def _segments(guard: Guard) -> str:
    """A match for what may be several datagrams, of which the first is not as `_to_port` wants."""
    ours, shortest = f'"{_HEADER}@0xc>>0x8={guard.vni or 0:#x}"', TWO_SEGMENTS
    if guard.vni is None:
        ours, shortest = f'"{_HEADER}@0x8>>0x1c=0x4"', 28 + 2 * 20
    return (
        f"-p udp -m udp --dport {guard.port} -m length --length {shortest}:65535 "
        f"-m u32 ! --u32 {ours} -m conntrack --ctdir ORIGINAL"
    )


def _to_port(guard: Guard) -> list[str]:
    """Matches for datagrams to the tunnel's port; see `nft_table`."""
    port = f"-p udp -m udp --dport {guard.port}"
    if guard.vni is None:
        # Only with an inner IPv4 header: others go to a client that happens to have that port.
        return [f'{port} -m u32 --u32 "{_HEADER}@0x8>>0x1c=0x4"']
    return [
        f'{port} -m u32 --u32 "{_HEADER}@0xc>>0x8={guard.vni:#x}"',
        f'{port} -m length --length 0:75 -m u32 --u32 "0x4&0x2000=0x2000"',
    ]
