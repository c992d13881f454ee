"""The findings of ``flannel check``: why each matters, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

from flannel.printable import printable

_LONGEST = 800
"""The most characters of `Finding.what`, which the reason and the cure follow."""

Severity = Literal["fault", "warning"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table.

    :ivar why: why it matters.
    :ivar cure: what to do.
    """

    why: str
    cure: str
    severity: Severity = "fault"


# fmt: off
KINDS: dict[str, Kind] = {
    "daemon-down": Kind(
        "changes of other hosts are not followed, and the lease ends within a day",
        "systemctl status flanneld; journalctl -u flanneld"),
    "daemon-unseen": Kind(
        "only root may ask flanneld, so it is not known whether all is well",
        "run flannel as root"),
    "not-ready": Kind(
        "containers may not reach other hosts",
        "repair what it names; journalctl -u flanneld has more"),
    "etcd-down": Kind(
        "packets flow on, but new hosts are not seen, and leases end within a day",
        "see that etcd runs and that this host reaches it; compare -etcd-endpoints"),
    "no-config": Kind(
        "flanneld waits for it",
        "flannel config set '{\"Network\": \"10.1.0.0/16\", \"Backend\": {\"Type\": \"vxlan\"}}'"),
    "bad-config": Kind(
        "hosts that start now cannot use it",
        "flannel config check, then flannel config set"),
    "no-lease": Kind(
        "other hosts do not know the way to containers of this one",
        "see that flanneld runs and is ready: flannel status"),
    "renewal-overdue": Kind(
        "the lease ends soon, and another host may get the subnet",
        "see why flanneld cannot renew it: journalctl -u flanneld"),
    "same-address": Kind(
        "the hosts overwrite each other's packets",
        "give each host its own -public-ip; remove the other lease with flannel release"),
    "ip-forward": Kind(
        "the kernel does not pass packets between containers and other hosts",
        "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d/"),
    "link-forwarding": Kind(
        "the kernel does not pass on what comes in by that link",
        "sysctl -w that to 1, and find out which program set it to 0"),
    "forward-drop": Kind(
        "packets between containers and other hosts are dropped",
        "let flanneld add its rules (-iptables-forward-rules), or accept the network there"),
    "forward-unsure": Kind(
        "packets between containers and other hosts may be dropped by a rule that flannel cannot "
        "evaluate",
        "see whether they pass: ping from a container here to one there; compare the rule",
        "warning"),
    "direct-routing": Kind(
        "docker 28 and later drops what reaches containers past their bridge, as peers' packets do",
        "restart docker with --allow-direct-routing (28.2 and later; flannel's drop-in gives it), "
        "or before 28.2 with DOCKER_INSECURE_NO_IPTABLES_RAW=1 in its environment"),
    "input-drop": Kind(
        "packets of other hosts to containers here are dropped",
        "accept that UDP port on the external interface"),
    "input-unsure": Kind(
        "packets of other hosts may be dropped by a rule that flannel cannot evaluate",
        "see whether flannel peers reaches that host; compare the rule", "warning"),
    "output-drop": Kind(
        "packets to containers on other hosts do not leave this one",
        "accept that UDP port on the external interface"),
    "output-unsure": Kind(
        "packets to other hosts may be dropped by a rule that flannel cannot evaluate",
        "see whether flannel peers reaches that host; compare the rule", "warning"),
    "firewall": Kind(
        "masquerade, guard or forwarding may be missing or out of date",
        "see that nft and iptables run: nft list ruleset, iptables-save; flanneld tries again"),
    "resources": Kind(
        "packets flow on, but changes may not be followed, or a start without etcd not be possible",
        "give it what it lacks: LimitNOFILE=, TasksMax=, memory, a state directory to write to; "
        "flanneld tries again", "warning"),
    "unguarded": Kind(
        "forged packets may reach containers, here or on other hosts",
        "install nftables, or filter the backend's UDP port by other means", "warning"),
    "mark-conflict": Kind(
        "forged packets may pass the guard, or that rule may match packets of the tunnel",
        "give flanneld a bit that no other program uses: -guard-mark", "warning"),
    "device-missing": Kind(
        "packets to other hosts have no way out",
        "flanneld makes it again within seconds while it runs; otherwise see its log"),
    "device-down": Kind(
        "packets to other hosts have no way out",
        "find out which program took it down, such as a network manager; flanneld brings it up "
        "again"),
    "other-interface": Kind(
        "other hosts know this one by the address in use, and may not reach the other interface",
        "nothing while the overlay works; to move it, name the interface with -iface and restart "
        "flanneld", "warning"),
    "interface-mtu": Kind(
        "full-size packets of containers do not fit into the interface's",
        "restart flanneld and docker, so that both take the new MTU"),
    "path-mtu": Kind(
        "large packets vanish: connections open, then hang",
        "raise the MTU between the hosts, or set Backend.MTU in the network config to what fits"),
    "docker0": Kind(
        "containers here are not reached, or their large packets are lost",
        "restart docker with the options that mk-docker-opts writes; or have the containers in "
        "another network, whose bridge has the lease's first address, and the overlay's MTU"),
    "hand-over": Kind(
        "new containers of that program do not get addresses of the lease",
        "do what the reason says; flanneld tries again every three seconds"),
    "daemon-json": Kind(
        "docker refuses to start the next time",
        "remove that from daemon.json, or repair the file: docker gets bip, mtu and ip-masq from "
        "flannel"),
    "subnet-env": Kind(
        "docker starts with another subnet than this host has leased",
        "see why flanneld cannot write it: journalctl -u flanneld"),
    "overlap": Kind(
        "packets for containers, or for that network, go the wrong way",
        "remove it, or choose another Network with flannel config set"),
    "route-missing": Kind(
        "packets to containers there go another way, or nowhere",
        "flanneld restores it within seconds while it runs; otherwise see its log"),
    "entry-changed": Kind(
        "packets to containers there are lost, or reach another host",
        "flanneld restores it within seconds while it runs; otherwise see its log"),
    "container-route": Kind(
        "packets of containers take another way than those of this host, and do not arrive",
        "find the policy rule or route: ip rule; ip route get ADDRESS from CONTAINER iif BRIDGE"),
    "source-refused": Kind(
        "the kernel drops packets whose answers would leave by another link",
        "repair the route to that source, or sysctl -w net.ipv4.conf.LINK.rp_filter=2"),
    "left-out": Kind(
        "containers there cannot be reached: flanneld cannot use that lease",
        "repair what it names on that host, or in the network config; flannel release SUBNET if "
        "the lease is of no use"),
    "peer-down": Kind(
        "containers there cannot be reached",
        "see whether that host runs; if it is gone for good: flannel release SUBNET"),
    "not-started": Kind(
        "the subnet is kept for that host",
        "start flanneld there, or flannel release SUBNET if it will not come",
        severity="warning"),
    "peer-port": Kind(
        "containers there cannot be reached",
        "let that UDP port pass in both directions between the hosts, on both and on the way"),
    "peer-daemon-dead": Kind(
        "it does not follow changes, and its lease ends within a day",
        "there: systemctl status flanneld; journalctl -u flanneld"),
    "peer-not-ready": Kind(
        "containers there may not reach other hosts",
        "there: flannel status"),
    "peer-silent": Kind(
        "UDP may be lost where ICMP is not: by a firewall there, by a network card that computes "
        "wrong checksums; or the daemon there is another program, which does not answer",
        "there: flannel check; ethtool -K DEVICE tx-checksum-ip-generic off, to try", "warning"),
    "rp-filter": Kind(
        "the kernel drops packets that arrive by an interface different from that of the answers",
        "sysctl -w net.ipv4.conf.INTERFACE.rp_filter=2", "warning"),
    "unseen": Kind(
        "the checks that depend on it were not made",
        "repair what it names; run flannel as root", "warning"),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault or a warning.

    :ivar kind: a name from `KINDS`.
    :ivar what: what was found, in words.
    """

    kind: str
    what: str

    def document(self) -> dict[str, str]:
        """For JSON."""
        kind = KINDS[self.kind]
        return {
            "finding": self.kind,
            "severity": kind.severity,
            "what": self.what,
            "why": kind.why,
            "cure": kind.cure,
        }

    def __str__(self) -> str:
        kind = KINDS[self.kind]
        what = printable(self.what, _LONGEST)
        return f"{kind.severity.upper()} {self.kind}: {what}; {kind.why} -> {kind.cure}"
