"""The overlay carries IPv4; no other protocol gets in or out."""

import socket

import pytest
from attacks import AS_ROOT, AS_USER, PORT, Sending, frame, mac_of, send, vxlan
from firewalls import CONFIG
from flannel_command import status_of
from namespaces import wait_for
from overlays import ALL, start_pair
from pings import ping
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from world import Host, World


def dropped(host: Host) -> dict[str, int]:
    found = status_of(host)["firewall"]["dropped"]
    return {name: n for name, n in found.items() if n}


@ALL
def test_the_overlays_device_has_no_ipv6(world: World, config: dict[str, object]) -> None:
    """Neither from the start nor after somebody has enabled it."""
    pair = start_pair(world, config, "-iptables-resync=1")
    device = status_of(pair.one)["device"]
    if not device:
        return
    path = f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6"
    assert pair.one.run("ip", "-6", "addr", "show", "dev", device) == ""
    pair.one.run("sh", "-c", f"echo 0 > {path}")
    wait_for(lambda: pair.one.run("cat", path) == "1\n", 30, "no IPv6 again")
    assert pair.one.run("ip", "-6", "addr", "show", "dev", device) == ""


class TestVxlan:
    """A host whose root sends what he likes: his own flanneld does not guard."""

    @pytest.fixture
    def hosts(self, world: World) -> tuple[Host, Host]:
        world.configure(CONFIG)
        bad, good = world.add_host("h1"), world.add_host("h2")
        bad.start_flanneld("-iface=eth0", "-guard=false")
        good.start_flanneld("-iface=eth0", "-iptables-resync=1")
        for host in (bad, good):
            host.daemon.wait_ready()
        assert ping(bad.add_container(1), good.add_container(1).address, 30) is not None
        good.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        return bad, good

    @pytest.mark.parametrize("what", ["ipv6", "arp", "vlan", "vlan 0", "rubbish"])
    def test_other_protocols_are_not_decapsulated(
        self, hosts: tuple[Host, Host], what: str
    ) -> None:
        bad, good = hosts
        mac = mac_of(good, "flannel.1")
        ipv6 = IPv6(src="fe80::1", dst="ff02::1") / UDP(dport=PORT) / b"forged"
        inner = {
            "ipv6": (0x86DD, bytes(ipv6)),
            "arp": (0x0806, bytes(ARP(pdst=str(good.subnet[0])))),
            "vlan": (0x8100, bytes(Dot1Q(vlan=7, type=0x86DD) / ipv6)),
            "vlan 0": (0x8100, bytes(Dot1Q(vlan=0, type=0x86DD) / ipv6)),
            "rubbish": (0x1234, bytes(60)),
        }
        ethertype, data = inner[what]
        with good.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as seen:
            seen.bind(("flannel.1", 3))
            seen.setblocking(False)
            payload = vxlan(data, mac, ethertype=ethertype)
            with bad.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(3):
                    sender.sendto(payload, (str(good.address), 8472))
            wait_for(lambda: dropped(good) == {"not_ipv4": 3}, 30, lambda: str(dropped(good)))
            with pytest.raises(BlockingIOError):
                seen.recv(2000)

    def test_other_protocols_are_not_sent(self, hosts: tuple[Host, Host]) -> None:
        bad, good = hosts
        link = Ether(dst=mac_of(bad, "flannel.1"))
        packet = bytes(link / IPv6(src="fe80::1", dst="ff02::1") / UDP(dport=PORT))
        send(good, AS_ROOT, frame("flannel.1", packet))
        wait_for(lambda: dropped(good) == {"tx_injected": 1}, 30, lambda: str(dropped(good)))

    def test_forwarded_ipv6_does_not_leave_even_where_ipv6_is_enabled(
        self, hosts: tuple[Host, Host]
    ) -> None:
        bad, good = hosts
        container = good.containers[0]
        good.ip("addr add fd00:5::1/64 dev docker0 nodad")
        container.ip("addr add fd00:5::2/64 dev eth0 nodad",
                     "route add default via fd00:5::1")  # fmt: skip
        enable = "echo 0 > /proc/sys/net/ipv6/conf/flannel.1/disable_ipv6"
        via = f"ip -6 neigh replace fe80::7 dev flannel.1 lladdr {mac_of(bad, 'flannel.1')}"
        route = "ip -6 route replace fd00:6::/64 via fe80::7 dev flannel.1 onlink"

        packet = Sending("AF_INET6", "SOCK_DGRAM", 0, b"x", ("fd00:6::2", PORT, 0, 0))

        def counts() -> bool:
            good.run("sh", "-c", f"{enable}; {via}; {route}")  # flanneld takes that back
            send(container, AS_USER, packet)
            return dropped(good).get("tx_not_ipv4", 0) > 0

        wait_for(counts, 30, lambda: str(dropped(good)))
