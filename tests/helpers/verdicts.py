"""Compares the verdicts of verdict.c with those of reference_verdict.py: `make verdicts`.

`verdicts.py NUMBER [SEED]` makes that many packets, valid ones with one thing changed as a rule, so
that each verdict occurs, and prints how often each did. The first difference ends it.
"""

import multiprocessing
import random
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from internals import Internals
from reference_verdict import Host, Net, judge

PACKETS_PER_HOST = 1000
_HEADER = "!BBHHHBBHII"  # RFC 791

# What is changed of a packet that could be carried.
CHANGES = [
    *["nothing"] * 6,
    *["stranger", "tunnel in tunnel", "short", "version", "header length", "total length"],
    *["source", "another's source", "own source", "destination", "near destination"],
    *["size", "size", "ttl", "congestion", "congestion", "a bit", "a bit"],
    *["trailing bytes", "noise"],
]


def random_host(rng: random.Random) -> Host:
    """A host, and peers whose leases may lie within each other."""
    network = random_net(rng, Net(0, 0), rng.randint(8, 20))
    subnet = random_net(rng, network, rng.randint(network.length + 1, 30))
    senders = [rng.getrandbits(32) for _ in range(rng.randint(1, 6))]
    routes = {
        random_net(rng, network, rng.randint(network.length + 1, 30)): rng.choice(senders)
        for _ in range(rng.randint(1, 8))
    }
    return Host(network, subnet, rng.choice([576, 1400, 1472]), rng.random() < 0.8, routes)


def random_net(rng: random.Random, within: Net, length: int) -> Net:
    return Net(random_address(rng, within) >> (32 - length) << (32 - length), length)


def random_address(rng: random.Random, net: Net) -> int:
    return net.address | rng.getrandbits(32) >> net.length


def datagrams(rng: random.Random, host: Host, n: int) -> Iterator[tuple[int, int, bytes]]:
    """Who sends it, with which TOS, and what."""
    leases = list(host.routes.items())
    for _ in range(n):
        change = rng.choice(CHANGES)
        bits = rng.getrandbits(64)
        lease, sender = leases[bits % len(leases)]
        source, destination = random_address(rng, lease), random_address(rng, host.subnet)
        tos, ttl, payload_len, header_len = bits & 0xFF, 2 + (bits >> 8) % 254, bits >> 16 & 63, 20
        inner_tos = bits >> 24 & 0xFF
        if bits >> 32 & 7 == 0:
            header_len += 4 * (bits >> 35) % 44
        match change:
            case "stranger":
                sender = bits >> 32
            case "tunnel in tunnel":
                sender = random_address(rng, host.network)
            case "source":
                source = bits >> 32
            case "another's source":
                source = random_address(rng, leases[(bits >> 40) % len(leases)][0])
            case "own source":
                source = random_address(rng, host.subnet)
            case "destination":
                destination = bits >> 32
            case "near destination":
                destination ^= 1 << (bits >> 40) % 32
            case "size":
                payload_len = host.mtu - header_len + (bits >> 40) % 4 - 1
            case "ttl":
                ttl = (bits >> 40) % 3
            case "congestion":
                tos |= 3
                inner_tos &= 0xFC | bits >> 32
        total_len = header_len + payload_len
        first, data_len = 0x40 | header_len // 4, total_len
        match change:
            case "version":
                first ^= 16 << (bits >> 40) % 4
            case "header length":
                first = 0x40 | bits >> 40 & 15
            case "total length":
                total_len = (bits >> 40) % (total_len + 4)
            case "trailing bytes":
                data_len += 1 + (bits >> 40) % 30
            case "short":
                data_len = (bits >> 40) % 20
        fields = (first, inner_tos, total_len, bits >> 48, bits >> 40 & 0xFFFF)
        header = struct.pack(
            _HEADER, *fields, ttl, bits >> 32 & 0xFF, bits >> 20 & 0xFFFF, source, destination
        )
        data = header + rng.randbytes(data_len - 20) if data_len > 20 else header[:data_len]
        if change == "a bit":
            data = damaged(data, (bits >> 40) % 20, (bits >> 56) % 8)
        elif change == "noise":
            data = rng.randbytes(payload_len)
        yield sender, tos, data


def damaged(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


class Verdicts:
    """verdict.c."""

    def __init__(self, internals: Internals, host: Host) -> None:
        self.ffi, self.lib = internals.ffi, internals.lib
        names = self.ffi.typeof("enum verdict").elements
        self.names = {number: name.removeprefix("VERDICT_") for number, name in names.items()}
        flags = self.lib.FLANNEL_CHECK_SOURCE if host.check_source else 0
        settings = (*host.network, *host.subnet, 0, host.mtu, 8285, flags)
        self.settings = self.ffi.new("struct flannel_settings *", settings)
        handle = self.ffi.new("struct routes **")
        routes = [(*net, sender) for net, sender in host.routes.items()]
        assert self.lib.routes_new(handle, routes, len(routes)) == 0
        self.routes = self.ffi.gc(handle[0], self.lib.routes_free)
        self.packet = self.ffi.new("struct packet *")

    def judge(self, sender: int, tos: int, datagram: bytes) -> tuple[str, bytes, bytes]:
        """The verdict, the packet if it is carried, and the datagram as it is afterwards."""
        data = bytearray(datagram)
        verdict = self.lib.verdict_of(
            self.settings,
            self.routes,
            sender,
            tos,
            self.packet,
            self.ffi.from_buffer(data),
            len(data),
        )
        name = self.names[verdict]
        packet = bytes(data[: self.packet.len]) if name == "CARRIED" else b""
        return name, packet, bytes(data)


def compare(internals: Internals, seed: int, n: int) -> Counter[str]:
    """How often each verdict was given to `n` packets; AssertionError at the first difference."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for done in range(0, n, PACKETS_PER_HOST):
        host = random_host(rng)
        verdicts = Verdicts(internals, host)
        for sender, tos, datagram in datagrams(rng, host, min(PACKETS_PER_HOST, n - done)):
            name, packet, after = verdicts.judge(sender, tos, datagram)
            counts[name] += 1
            expected = judge(host, sender, tos, datagram)
            assert (name, packet) == expected, (host, sender, tos, datagram, name, packet, expected)
            # ICMP errors quote what could not be carried.
            assert name in ("CARRIED", "ECN") or after == datagram, (host, sender, tos, datagram)
    return counts


def main(n: int, seed: int, n_processes: int = 2) -> None:
    with tempfile.TemporaryDirectory() as directory:
        internals = Internals(Path(directory))

        def work(share: int, queue: SimpleQueue[Counter[str]]) -> None:
            queue.put(compare(internals, seed + share, n // n_processes))

        # The compiled module is inherited.
        context = multiprocessing.get_context("fork")
        queue: SimpleQueue[Counter[str]] = context.SimpleQueue()
        workers = [context.Process(target=work, args=(i, queue)) for i in range(n_processes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            sys.exit("the two give different verdicts")
        counts: Counter[str] = sum((queue.get() for _ in workers), Counter())
    for name, count in counts.most_common():
        print(f"{name.lower():14}{count:>12,}")
    print(f"{counts.total():,} packets, seed {seed}: no difference")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.getrandbits(32))
