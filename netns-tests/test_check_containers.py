"""flannel check on faults that cut off containers only: hosts still reach each other."""

from typing import Any

from flannel_command import planted, wait_findings
from hosts import Host
from overlays import ALL, start
from world import World, ping

TUNNEL = {"vxlan": "flannel.1", "host-gw": "eth0", None: "flannel0"}

FAULTS = (
    ("ip rule add iif docker0 lookup 99; ip route add default via 192.0.2.1 table 99",
     "ip rule del iif docker0 lookup 99; ip route flush table 99",
     "container-route", "that come in by docker0 leave over eth0 via 192.0.2.1, not "),
    ("ip rule add from 10.1.0.0/16 iif {tunnel} prohibit",
     "ip rule del from 10.1.0.0/16 iif {tunnel} prohibit",
     "container-route", "that come in by {tunnel} are dropped: a route or policy rule prohibits"),
    ("sysctl -qw net.ipv4.conf.docker0.forwarding=0",
     "sysctl -qw net.ipv4.conf.docker0.forwarding=1",
     "link-forwarding", "net.ipv4.conf.docker0.forwarding is 0"),
    ("sysctl -qw net/ipv4/conf/{tunnel}/forwarding=0",
     "sysctl -qw net/ipv4/conf/{tunnel}/forwarding=1",
     "link-forwarding", "net.ipv4.conf.{dotless}.forwarding is 0"),
    ("iptables -t raw -A PREROUTING -i docker0 -d 10.1.0.0/16 -j DROP",
     "iptables -t raw -D PREROUTING -i docker0 -d 10.1.0.0/16 -j DROP",
     "forward-drop", "iptables raw PREROUTING: -A PREROUTING -d 10.1.0.0/16 -i docker0 -j DROP"),
    ("iptables-legacy -t mangle -A POSTROUTING -o docker0 -s 10.1.0.0/16 -j DROP",
     "iptables-legacy -t mangle -F POSTROUTING",
     "forward-drop", "iptables-legacy mangle POSTROUTING: -A POSTROUTING -s 10.1.0.0/16"),
)  # fmt: skip
"""A fault and its repair in the shell, and the name and a part of the text of what check finds."""

HARDENED = """
*mangle
:PREROUTING ACCEPT [0:0]
:rpfilter - [0:0]
-A PREROUTING -j rpfilter
-A rpfilter -m rpfilter --validmark -j RETURN
-A rpfilter -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p tcp ! --syn -m conntrack --ctstate NEW -j DROP
-A INPUT -p tcp --tcp-flags ALL NONE -j DROP
-A INPUT -m pkttype --pkt-type broadcast -j DROP
-A INPUT -p tcp --dport 22 -m recent --name ssh --update --seconds 60 --hitcount 4 -j DROP
-A INPUT -f -j DROP
-I FORWARD -p tcp ! --syn -m conntrack --ctstate NEW -j DROP
-I FORWARD -m limit --limit 9/min -j LOG
-I FORWARD -m conntrack --ctstate DNAT -j DROP
COMMIT
"""
TABLES = """
table inet strict {
    set lan { type ipv4_addr; flags interval; elements = { 10.1.0.0/16, 192.0.2.0/24 } }
    chain forward {
        type filter hook forward priority 10; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        tcp flags & (fin | syn | rst | ack) != syn drop
        ip saddr @lan ip daddr @lan jump known
    }
    chain known { limit rate 9/minute log; iifname "docker0" accept; oifname "docker0" accept; }
    chain input {
        type filter hook input priority 10; policy drop;
        ct state established,related accept
        iif lo accept
        meta l4proto icmp accept
        fib saddr . iif oif missing drop
        ip saddr @lan udp sport 1024-65535 accept
        ip saddr @lan tcp dport { 22, 2379 } accept
    }
}
"""
HEALTHY = (
    ("ip rule add from 192.0.2.11 lookup 99; ip route add default via 192.0.2.1 table 99",
     "ip rule del from 192.0.2.11 lookup 99; ip route flush table 99"),
    ("ip rule add fwmark 7 prohibit; ip rule add iif br-other blackhole",
     "ip rule del fwmark 7 prohibit; ip rule del iif br-other blackhole"),
    ("ip route add 10.0.0.0/8 via 192.0.2.1; ip route add 10.1.0.0/16 via 192.0.2.1 metric 999",
     "ip route del 10.0.0.0/8; ip route del 10.1.0.0/16 metric 999"),
    ("ip link add br-other type bridge; ip addr add 172.20.0.1/16 dev br-other;"
     "ip link set br-other up; sysctl -qw net/ipv4/conf/br-other/forwarding=0;"
     "iptables -I FORWARD -i br-other -j DROP",
     "iptables -D FORWARD -i br-other -j DROP; ip link del br-other"),
    ("sysctl -qw net.ipv4.conf.all.rp_filter=1", "sysctl -qw net.ipv4.conf.all.rp_filter=0"),
    (f"iptables-restore --noflush <<'END'{HARDENED}END\n",
     "for chain in INPUT; do iptables -F $chain; done; iptables -t mangle -F;"
     "iptables -D FORWARD 1; iptables -D FORWARD 1; iptables -D FORWARD 1"),
    (f"nft -f - <<'END'{TABLES}END\n", "nft delete table inet strict"),
)  # fmt: skip
"""What unusual hosts have, with which containers reach each other, and its removal."""


@ALL
def test_a_fault_that_cuts_off_containers_is_found_and_nothing_else_is(
    world: World, config: dict[str, Any]
) -> None:
    tunnel = TUNNEL[config.get("Backend", {}).get("Type")]
    names = {"tunnel": tunnel, "dotless": tunnel.replace(".", "/")}
    one, other = start(world, config, 2)
    near, far = one.add_container(1), other.add_container(1)
    assert ping(near, far.address, 30) is not None
    for fault in FAULTS:
        plant, undo, name, text = (each.format(**names) for each in fault)
        with planted(one, plant, undo):
            lost = near.try_run("ping", "-c1", "-W0.3", str(far.address))
            assert lost.returncode == 1, plant
            found = wait_findings(one, name)
            assert text in found[name], plant
        wait_findings(one)
    assert ping(near, far.address, 30) is not None
    for plant, undo in HEALTHY if tunnel == "eth0" else ():
        with planted(one, plant, undo):
            assert ping(near, far.address, 30) is not None, plant
            wait_findings(one)
    if tunnel == "flannel.1":
        _find_damage_while_flanneld_is_down(one, other)


def _find_damage_while_flanneld_is_down(one: Host, other: Host) -> None:
    """While it runs, it repairs these at once."""
    one.daemon.stop()
    wait_findings(one, "daemon-down")
    gateway = other.subnet[0]
    one.ip(f"neigh replace {gateway} lladdr 02:00:00:00:00:77 dev flannel.1 nud permanent")
    found = wait_findings(one, "daemon-down", "entry-changed")
    assert f"{gateway} on flannel.1 is at 02:00:00:00:00:77, not at " in found["entry-changed"]
    one.ip(f"route del {other.subnet}")
    found = wait_findings(one, "daemon-down", "route-missing")
    assert " go over eth0 via 192.0.2.1, not over flannel.1 via " in found["route-missing"]
