import struct
from typing import Any

import pytest
from internals import Internals
from reference_verdict import Host, Net, judge
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.packet import Raw
from verdicts import Verdicts, compare

NETWORK, OWN, PEERS = Net(0x0A010000, 16), Net(0x0A010F00, 24), Net(0x0A011000, 24)
PEER, OTHER, STRANGER = 0xC0A80002, 0xC0A80003, 0xC0A80004
HOST = Host(NETWORK, OWN, 1472, True, {PEERS: PEER, Net(0x0A011100, 24): OTHER})
FROM, TO = "10.1.16.2", "10.1.15.2"


def packet(source: str = FROM, destination: str = TO, size: int = 100, **fields: Any) -> bytes:
    """`size` bytes, unless options make it longer."""
    header = IP(src=source, dst=destination, **fields) / UDP(sport=7, dport=9)
    return bytes(header / Raw(bytes(max(size - 28, 0))))


def verdict(
    internals: Internals, data: bytes, sender: int = PEER, tos: int = 0, host: Host = HOST
) -> str:
    """What both say."""
    name, carried, _ = Verdicts(internals, host).judge(sender, tos, data)
    assert (name, carried) == judge(host, sender, tos, data)
    return name


def changed(at: int, value: bytes) -> bytes:
    data = packet()
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize("sender", [STRANGER, 0, 2**32 - 1, 0x7F000001, 0xC0A80001])
def test_a_sender_without_a_lease_is_dropped(internals: Internals, sender: int) -> None:
    assert verdict(internals, packet(), sender) == "UNKNOWN_PEER"


@pytest.mark.parametrize("check_source", [True, False])
@pytest.mark.parametrize("sender", [0x0A011002, 0x0A011101, 0x0A010F01, 0x0A010F00])
def test_the_tunnels_own_packets_are_not_sent_through_it(
    internals: Internals, sender: int, check_source: bool
) -> None:
    """Even if a lease says that the host is there."""
    host = HOST._replace(routes=HOST.routes | {PEERS: sender}, check_source=check_source)
    assert verdict(internals, packet(), sender, host=host) == "UNKNOWN_PEER"


@pytest.mark.parametrize("check_source", [True, False])
@pytest.mark.parametrize("sender", [0x0A010000, 0x0A010005, 0x0A01FFFF])
def test_a_host_inside_the_network_outside_all_leases_is_accepted(
    internals: Internals, sender: int, check_source: bool
) -> None:
    host = HOST._replace(routes=HOST.routes | {PEERS: sender}, check_source=check_source)
    assert verdict(internals, packet(), sender, host=host) == "CARRIED"


@pytest.mark.parametrize(
    "source",
    [
        *["10.1.17.2", "10.1.17.0", "10.1.15.2", "10.1.15.0", "10.1.15.255", "10.1.18.2"],
        *["192.0.2.1", "192.168.0.2", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"],
    ],
)
def test_a_peer_cannot_use_another_peers_addresses(internals: Internals, source: str) -> None:
    assert verdict(internals, packet(source)) == "SPOOFED"


@pytest.mark.parametrize(
    "destination",
    [
        *["10.1.17.2", "10.1.16.2", "10.1.16.0", "10.1.14.255", "192.168.0.1", "8.8.8.8"],
        *["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"],
    ],
)
def test_no_packet_for_another_subnet_is_relayed(internals: Internals, destination: str) -> None:
    assert verdict(internals, packet(destination=destination)) == "NOT_MINE"


@pytest.mark.parametrize("destination", ["10.1.15.0", "10.1.15.1", "10.1.15.255"])
def test_the_whole_lease_is_reached_with_the_tunnels_own_address(
    internals: Internals, destination: str
) -> None:
    assert verdict(internals, packet(destination=destination)) == "CARRIED"


@pytest.mark.parametrize("length", [0, 1, 4, 19])
def test_less_than_a_header_is_short(internals: Internals, length: int) -> None:
    assert verdict(internals, packet()[:length]) == "SHORT"


@pytest.mark.parametrize(
    "data",
    [
        changed(0, b"\x05"),
        changed(0, b"\x65"),
        changed(0, b"\x44"),
        changed(0, b"\x40"),
        b"\x4f" + packet(size=28)[1:],
        changed(2, b"\0\0"),
        changed(2, b"\0\x13"),
        changed(2, b"\0\x65"),
        changed(2, b"\xff\xff"),
    ],
    ids=[
        "version 0", "version 6", "header of 16", "header of 0", "header longer than the packet",
        "total of 0", "total less than the header", "total of one too many", "total of 65535",
    ],
)  # fmt: skip
def test_lengths_that_contradict_each_other_are_malformed(
    internals: Internals, data: bytes
) -> None:
    assert verdict(internals, data) == "MALFORMED"


def test_the_tunnels_mtu_is_the_limit(internals: Internals) -> None:
    assert verdict(internals, packet(size=1472, flags="DF")) == "CARRIED"
    assert verdict(internals, packet(size=1473, flags="DF")) == "TOO_BIG"
    assert verdict(internals, packet(size=1472, flags="DF") + bytes(500)) == "CARRIED"


@pytest.mark.parametrize("fields", [{}, {"flags": "MF"}, {"flags": "evil"}, {"frag": 185}])
def test_a_packet_that_may_be_fragmented_is_not_too_big(
    internals: Internals, fields: dict[str, Any]
) -> None:
    """As a fragment of a peer with a larger MTU is: nobody would learn that it was dropped."""
    assert verdict(internals, packet(size=1473, **fields)) == "CARRIED"
    assert verdict(internals, packet(size=65507, **fields)) == "CARRIED"


@pytest.mark.parametrize(
    ("ttl", "name"), [(0, "TTL"), (1, "TTL"), (2, "CARRIED"), (255, "CARRIED")]
)
def test_a_packet_has_a_last_hop(internals: Internals, ttl: int, name: str) -> None:
    assert verdict(internals, packet(ttl=ttl)) == name


@pytest.mark.parametrize(
    "data",
    [
        packet(options=[IPOption_NOP()] * 40),
        packet(options=[IPOption_RR(routers=["0.0.0.0"] * 9)]),
        packet(flags="MF"),
        packet(frag=100),
        packet(chksum=0x1234),
        bytes(IP(src=FROM, dst=TO, proto=6) / Raw(bytes(TCP())[:2])),
        bytes(IP(src=FROM, dst=TO, proto=6)),
    ],
    ids=[
        "options", "record route", "first fragment", "later fragment", "bad checksum",
        "TCP cut at 2 bytes", "no TCP at all",
    ],
)  # fmt: skip
def test_packets_are_not_checked_beyond_their_addresses(internals: Internals, data: bytes) -> None:
    """The kernel behind it judges that; verdict_of() does not look past the addresses."""
    assert verdict(internals, data) == "CARRIED"


def test_bytes_after_the_packet_are_trimmed(internals: Internals) -> None:
    verdicts = Verdicts(internals, HOST)
    name, carried, _ = verdicts.judge(PEER, 0, packet() + b"trailing")
    assert (name, carried) == ("CARRIED", packet(ttl=63))


NOT_ECT, ECT_1, ECT_0, CE = range(4)


@pytest.mark.parametrize(
    ("inner", "outer", "after"),
    [
        *[(NOT_ECT, outer, NOT_ECT) for outer in (NOT_ECT, ECT_1, ECT_0)],
        *[(inner, NOT_ECT, inner) for inner in (ECT_0, ECT_1, CE)],
        *[(inner, ECT_0, inner) for inner in (ECT_0, ECT_1, CE)],
        *[(ECT_0, ECT_1, ECT_1), (ECT_1, ECT_1, ECT_1), (CE, ECT_1, CE)],
        *[(inner, CE, CE) for inner in (ECT_0, ECT_1, CE)],
    ],
)
def test_a_mark_of_the_underlay_reaches_whom_it_concerns(
    internals: Internals, inner: int, outer: int, after: int
) -> None:
    """RFC 6040, figure 4."""
    verdicts = Verdicts(internals, HOST)
    name, carried, _ = verdicts.judge(PEER, 0x28 | outer, packet(tos=0xB8 | inner))
    assert (name, carried) == ("CARRIED", packet(tos=0xB8 | after, ttl=63))


def test_a_congestion_mark_for_a_transport_without_ecn_is_a_drop(internals: Internals) -> None:
    assert verdict(internals, packet(tos=0xB8 | NOT_ECT), tos=CE) == "ECN"


def test_a_lease_for_all_addresses_does_not_own_the_sources_of_other_leases(
    internals: Internals,
) -> None:
    host = HOST._replace(routes=HOST.routes | {Net(0, 0): STRANGER, NETWORK: STRANGER})
    assert verdict(internals, packet(), STRANGER, host=host) == "SPOOFED"
    assert verdict(internals, packet(), PEER, host=host) == "CARRIED"
    assert verdict(internals, packet("10.1.99.2"), STRANGER, host=host) == "CARRIED"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (packet(), "CARRIED"),
        (packet("10.1.17.2"), "CARRIED"),
        (packet("192.0.2.1"), "CARRIED"),
        (packet("10.1.15.9"), "SPOOFED"),
        (packet(destination="10.1.16.9"), "NOT_MINE"),
        (packet(destination="192.168.0.1"), "NOT_MINE"),
    ],
)
def test_some_rules_remain_without_the_check_of_sources(
    internals: Internals, data: bytes, name: str
) -> None:
    host = HOST._replace(check_source=False)
    assert verdict(internals, data, STRANGER, host=host) == name


def test_the_first_rule_that_applies_decides(internals: Internals) -> None:
    """The packet breaks all rules; it is corrected field by field, in the order of the enum."""
    data = bytearray(packet("10.1.17.2", "10.1.17.2", size=1500, ttl=1, version=6, flags="DF"))
    sender, tos, names = STRANGER, 3, []
    names.append(verdict(internals, bytes(data[:19]), sender, tos))
    sender = PEER
    names.append(verdict(internals, bytes(data[:19]), sender, tos))
    corrections = [
        (0, b"\x45"),
        (12, IP(src=FROM).src),
        (16, TO),
        (2, struct.pack("!H", 100)),
        (8, b"\2"),
    ]
    for at, value in corrections:
        names.append(verdict(internals, bytes(data), sender, tos))
        new = value if isinstance(value, bytes) else bytes(map(int, value.split(".")))
        data[at : at + len(new)] = new
    names += [verdict(internals, bytes(data), sender, tos) for tos in (3, 0)]
    order = internals.ffi.typeof("enum verdict").elements
    expected = [order[i].removeprefix("VERDICT_") for i in range(1, len(order) - 1)] + ["CARRIED"]
    assert names == expected


def test_c_gives_the_verdicts_of_the_specification(internals: Internals) -> None:
    """`make verdicts` asks them about many more."""
    counts = compare(internals, seed=8285, n=30_000)
    everything = internals.ffi.typeof("enum verdict").elements.values()
    names = {name.removeprefix("VERDICT_") for name in everything} - {"N_VERDICTS"}
    assert set(counts) == names
    assert min(counts.values()) > 300, counts
