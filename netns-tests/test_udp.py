"""The udp backend's packets, between containers of two hosts with the installed daemon."""

import errno
import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from overlays import UDP as CONFIG
from overlays import Pair, start_pair
from packets import Sniffer, checksums_are_right, send_raw, transfer
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw
from world import World, wait_for

from flannel.options.table import parse

PORT, MTU = 8285, 1472
NO_LEASE = "10.1.250.7"
ERROR_SOURCE = "10.1.0.0"
"""What a host's ICMP errors to its own senders come from: nobody's address in the network."""

_IP_RECVERR = 11  # linux/in.h: errors of ICMP that are not fatal reach the socket too
_MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Shared by the whole file: nobody here does anything that lasts."""
    with World() as world:
        world.start_etcd()
        yield start_pair(world, CONFIG)


class TestSizes:
    def test_a_bare_ip_header_arrives(self, pair: Pair) -> None:
        bare = bytes(IP(src=str(pair.near.address), dst=str(pair.far.address), proto=253))
        assert len(bare) == 20
        with Sniffer(pair.far, "eth0") as sniffer:
            send_raw(pair.near, bare)
            arrived = sniffer.wait_for(lambda packet: packet.proto == 253)
        assert (arrived.len, arrived.src) == (20, str(pair.near.address))

    def test_datagrams_of_all_sizes_arrive_whole(self, pair: Pair) -> None:
        # 1444 fills a packet of the tunnel, 65507 is the most that UDP can carry, in 46 fragments.
        sizes = (0, 1, 7, 8, 1443, 1444, 1445, 1472, 2888, 4000, 20_000, 65_507)
        address = str(pair.far.address)
        with (
            pair.near.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
            pair.far.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        ):
            receiver.settimeout(120)
            receiver.bind((address, 0))
            for size in sizes:
                data = bytes(each * size & 0xFF for each in range(size))
                sender.sendto(data, receiver.getsockname())
                received, source = receiver.recvfrom(70_000)
                assert received == data
                assert source[0] == str(pair.near.address)

    @pytest.mark.parametrize("size", [0, 1444, 1445, 4000, 65_507])
    def test_pings_of_all_sizes_are_answered(self, pair: Pair, size: int) -> None:
        pair.near.run(*f"ping -n -c1 -W30 -s{size} {pair.far.address}".split())

    def test_a_packet_of_the_mtu_passes_with_df_and_the_sender_of_a_larger_one_learns_the_mtu(
        self, pair: Pair
    ) -> None:
        # A container whose MTU is larger than the tunnel's, as with a docker set up by hand.
        pair.one.ip("link set docker0 mtu 1500", "link set veth1 mtu 1500")
        pair.near.ip("link set eth0 mtu 1500")
        try:
            fits = pair.near.try_run(*f"ping -n -c1 -W30 -Mdo -s1444 {pair.far.address}".split())
            larger = pair.near.try_run(*f"ping -n -c1 -W30 -Mdo -s1445 {pair.far.address}".split())
        finally:
            pair.near.ip("link set eth0 mtu 1472", "route flush cache")
            pair.one.ip("link set veth1 mtu 1472", "link set docker0 mtu 1472")
        assert fits.returncode == 0
        assert larger.returncode != 0
        assert "Frag needed and DF set (mtu = 1472)" in larger.stdout


class TestHops:
    def test_each_end_of_the_tunnel_is_a_hop(self, pair: Pair) -> None:
        """64 leaves a host, 62 comes out at the other; containers are one hop more on each side."""
        tunnel = pair.other.subnet.network_address
        with Sniffer(pair.other, "eth0") as sniffer:
            shown = pair.one.run("ping", "-n", "-c1", "-W30", str(tunnel))
            carried = echoes(sniffer)
        assert "ttl=62" in shown
        assert [inner.ttl for _, inner in carried] == [63, 63]
        assert "ttl=60" in pair.near.run("ping", "-n", "-c1", "-W30", str(pair.far.address))

    def test_every_hop_sends_time_exceeded(self, pair: Pair) -> None:
        path = []
        for ttl in range(1, 5):
            shown = pair.near.try_run(*f"ping -n -c1 -W30 -t{ttl} {pair.far.address}".split())
            found = re.search(r"From (\S+) .*Time to live exceeded", shown.stdout)
            assert found is not None, shown.stdout
            path.append(found[1])
        gateways = [str(host.subnet.network_address + 1) for host in (pair.one, pair.other)]
        tunnel = str(pair.other.subnet.network_address)
        assert path == [gateways[0], ERROR_SOURCE, tunnel, path[3]]
        assert path[3] in (tunnel, gateways[1])
        pair.near.run(*f"ping -n -c1 -W30 -t5 {pair.far.address}".split())

    def test_time_exceeded_reaches_a_host_that_sends_with_ttl_1(self, pair: Pair) -> None:
        shown = pair.one.try_run(*f"ping -n -c1 -W30 -t1 {pair.far.address}".split())
        assert f"From {ERROR_SOURCE} icmp_seq=1 Time to live exceeded" in shown.stdout


class TestNoLease:
    @pytest.mark.parametrize("who", ["container", "host"])
    def test_net_unreachable_reaches_the_sender(self, pair: Pair, who: str) -> None:
        namespace = pair.near if who == "container" else pair.one
        with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            sender.settimeout(120)
            sender.connect((NO_LEASE, 9))
            sender.send(b"is there anybody?")
            with pytest.raises(OSError) as told:  # noqa: PT011 # its number is looked at
                sender.recv(100)
            assert told.value.errno == errno.ENETUNREACH
        shown = namespace.try_run("ping", "-n", "-c1", "-W30", NO_LEASE)
        assert f"From {ERROR_SOURCE} icmp_seq=1 Destination Net Unreachable" in shown.stdout

    def test_a_connection_to_an_address_without_a_lease_fails_at_once(self, pair: Pair) -> None:
        with pair.near.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)  # as Go's and others' do not
            client.settimeout(120)
            with pytest.raises(OSError) as told:  # noqa: PT011 # its number is looked at
                client.connect((NO_LEASE, 9))
            assert told.value.errno == errno.ENETUNREACH


class TestOnTheWire:
    def test_every_packet_is_as_upstreams_and_every_checksum_is_right(self, pair: Pair) -> None:
        offload(pair, "tx off tso off gso off")
        try:
            with Sniffer(pair.other, "eth0") as sniffer:
                with transfer(pair.near, pair.far, pair.far.address, _MEBIBYTE):
                    send_datagrams(pair)
                seen = sniffer.datagrams(PORT)
        finally:
            offload(pair, "tx on tso on gso on")
        assert len(seen) > _MEBIBYTE // MTU
        protocols = set()
        for outer, payload in seen:
            inner = IP(payload)
            assert (outer.sport, outer.dport) == (PORT, PORT)
            assert (outer.ttl, outer.tos, outer.flags.MF) == (64, 0, False)
            assert checksums_are_right(bytes(outer))
            assert inner.len == len(payload) <= MTU  # one packet, nothing around it
            assert inner.ttl == 62
            assert checksums_are_right(payload)
            protocols.add(inner.proto)
        assert protocols >= {socket.IPPROTO_ICMP, socket.IPPROTO_TCP, socket.IPPROTO_UDP}

    def test_a_datagram_alone_has_df_as_the_kernel_sets_it(self, pair: Pair) -> None:
        """Of those that it cuts itself (UDP_SEGMENT) the kernel lets routers make fragments."""
        with Sniffer(pair.other, "eth0") as sniffer:
            pair.near.run(*f"ping -n -c1 -W30 {pair.far.address}".split())
            seen = echoes(sniffer)
        assert [str(outer.flags) for outer, _ in seen] == ["DF", "DF"]

    def test_inner_checksums_are_right_also_where_the_card_cuts_and_sums(self, pair: Pair) -> None:
        with Sniffer(pair.other, "eth0") as sniffer:
            with transfer(pair.near, pair.far, pair.far.address, _MEBIBYTE):
                send_datagrams(pair)
            seen = sniffer.datagrams(PORT)
        assert len(seen) > _MEBIBYTE // MTU
        for _, payload in seen:
            assert checksums_are_right(payload)

    @pytest.mark.parametrize("tos", [0x01, 0x02, 0x03, 0xB8, 0xFF])
    def test_the_tos_of_a_packet_is_carried_and_not_shown(self, pair: Pair, tos: int) -> None:
        """As upstream does; RFC 6040, 4.3: ends that may not pass a mark on say Not-ECT outside."""
        packet = IP(src=str(pair.near.address), dst=str(pair.far.address), proto=253, tos=tos)
        with Sniffer(pair.far, "eth0") as inside, Sniffer(pair.other, "eth0") as outside:
            send_raw(pair.near, bytes(packet))
            assert inside.wait_for(lambda packet: packet.proto == 253).tos == tos
            shown = [outer.tos for outer, payload in outside.datagrams(PORT) if payload[9] == 253]
        assert shown == [0]

    @pytest.mark.parametrize(
        ("outer", "inner", "arrives"),
        [
            *((3, 0, None), (3, 1, 3), (3, 2, 3), (3, 3, 3), (3, 0xB8, None), (3, 0xB9, 0xBB)),
            *((1, 0, 0), (1, 1, 1), (1, 2, 1), (1, 3, 3), (1, 0xBA, 0xB9)),
            *((2, 0, 0), (2, 1, 1), (2, 2, 2), (2, 3, 3), (0xFC, 2, 2)),
        ],
    )
    def test_congestion_marks_of_the_underlay_are_copied_to_the_packet(
        self, pair: Pair, outer: int, inner: int, arrives: int | None
    ) -> None:
        """RFC 6040, figure 4."""
        marked = IP(src=str(pair.near.address), dst=str(pair.far.address), proto=253, tos=inner)
        behind = IP(src=str(pair.near.address), dst=str(pair.far.address), proto=254)
        seen: list[IP] = []
        with Sniffer(pair.far, "eth0") as sniffer:
            for tos, packet in ((outer, marked), (0, behind)):
                around = IP(src=str(pair.one.address), dst=str(pair.other.address), tos=tos)
                datagram = around / UDP(sport=PORT, dport=PORT) / Raw(bytes(packet))
                # As flanneld's own socket marks them: the guard drops what others send there.
                send_raw(pair.one, bytes(datagram), mark=parse([], {}).guard_mark)

            def both_are_through() -> bool:
                seen.extend(IP(each) for each in sniffer.packets())
                protocols = {each.proto for each in seen}
                return protocols >= ({254} if arrives is None else {253, 254})

            wait_for(both_are_through, 30, "the packet behind")
        tos_seen = [each.tos for each in seen if each.proto == 253]
        assert tos_seen == ([] if arrives is None else [arrives])


OFFLOADS = {
    "all": "tx on tso on gso on gro on",
    "card": "tx on tso on gso on gro on tx-udp-segmentation off",
    "no-gro": "gro off rx-udp-gro-forwarding off",
    "no-gso": "tx on tso off gso off",
    "no-checksums": "tx off",
}


class TestTransfers:
    @pytest.mark.parametrize("features", OFFLOADS.values(), ids=OFFLOADS.keys())
    def test_tcp_arrives_whole_with_any_offloads_of_the_underlay(
        self, pair: Pair, features: str
    ) -> None:
        offload(pair, features)
        try:
            with transfer(pair.near, pair.far, pair.far.address, 8 * _MEBIBYTE):
                pass
        finally:
            offload(pair, "tx on tso on gso on gro off tx-udp-segmentation on")

    def test_four_streams_and_one_back_arrive_whole(self, pair: Pair) -> None:
        with (
            transfer(pair.near, pair.far, pair.far.address, 8 * _MEBIBYTE, 4),
            transfer(pair.far, pair.near, pair.near.address, 8 * _MEBIBYTE),
        ):
            pass

    @pytest.mark.parametrize(
        ("falls", "rises"),
        [
            ("link set eth0 mtu 1400", "link set eth0 mtu 1500"),
            ("route add 192.0.2.12/32 dev eth0 mtu 1300", "route del 192.0.2.12/32"),
        ],
        ids=["link", "path"],
    )
    def test_a_transfer_survives_changes_of_the_underlays_mtu(
        self, pair: Pair, falls: str, rises: str
    ) -> None:
        def is_fragment(packet: IP) -> bool:
            return bool(packet.flags.MF) and packet.src == str(pair.one.address)

        with (
            Sniffer(pair.other, "eth0") as sniffer,
            transfer(pair.near, pair.far, pair.far.address, None),
        ):
            sniffer.wait_for(lambda packet: UDP in packet and packet.dport == PORT)
            pair.one.ip(falls)
            # What does not fit any more is sent alone, in fragments, until the daemon has followed
            # the link.
            device = ("ip", "link", "show", "flannel0")
            wait_for(
                lambda: sniffer.find(is_fragment) or " mtu 1372 " in pair.one.run(*device),
                30,
                "fragments",
            )
            pair.one.ip(rises)
        largest = f"ping -n -c1 -W1 -Mdo -s1444 {pair.far.address}".split()
        # It may have to come back first.
        wait_for(lambda: pair.near.try_run(*largest).returncode == 0, 30, "the MTU to be back")


def echoes(sniffer: Sniffer) -> list[tuple[IP, IP]]:
    """Pings that the tunnel has carried, and answers: the datagram, and the packet in it."""
    carried = [(outer, IP(payload)) for outer, payload in sniffer.datagrams(PORT)]
    return [(outer, inner) for outer, inner in carried if ICMP in inner and inner.type in (8, 0)]


def offload(pair: Pair, features: str) -> None:
    """Set features of the underlay's links, at both ends of each veth."""
    for number, host in enumerate((pair.one, pair.other), 11):
        host.run("ethtool", "-K", "eth0", *features.split())
        pair.world.net.run("ethtool", "-K", f"p{number}", *features.split())


def send_datagrams(pair: Pair) -> None:
    """Send 20 datagrams of one size in one go, as with UDP_SEGMENT, and a ping behind them.

    When the ping is answered, they are through.
    """
    address = (str(IPv4Address(pair.far.address)), 9)
    with pair.near.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        segment = [(socket.IPPROTO_UDP, 103, (500).to_bytes(2, "little"))]
        sender.sendmsg([bytes(range(250)) * 40 + b"odd"], segment, 0, address)
        for size in (0, 1, 2, 999, 1444):
            sender.sendto(bytes(size), address)
    pair.near.run(*f"ping -n -c1 -W30 -s4000 {pair.far.address}".split())
