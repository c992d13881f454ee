"""The kernel's traffic counters of a link."""

from flannel.kernel.traffic import device_traffic


def test_the_counters_of_a_link_are_read_from_the_kernels_table() -> None:
    text = (
        "Inter-|   Receive                            |  Transmit\n"
        " face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop\n"
        " eth0: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n"
        "flannel.1:  10 11 12 13 14 15 16 17 20 21 22 23 24 25 26 27\n"
    )
    assert device_traffic("flannel.1", text) == {
        "rx_bytes": 10,
        "rx_packets": 11,
        "rx_errors": 12,
        "rx_drops": 13,
        "tx_bytes": 20,
        "tx_packets": 21,
        "tx_errors": 22,
        "tx_drops": 23,
    }
    assert device_traffic("flannel.2", text) == {}
