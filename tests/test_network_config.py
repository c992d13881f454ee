"""The network config: defaults and limits of upstream, every violation named."""

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flannel.backends import check_config
from flannel.errors import BadNetworkConfig
from flannel.network_config import NetworkConfig


def parse(**members: Any) -> NetworkConfig:
    return NetworkConfig.from_json(json.dumps(members))


def test_the_defaults_are_upstreams() -> None:
    config = NetworkConfig.from_json('{ "Network": "10.1.0.0/16" }')
    assert config == NetworkConfig(
        network=IPv4Network("10.1.0.0/16"),
        subnet_len=24,
        subnet_min=IPv4Address("10.1.1.0"),
        subnet_max=IPv4Address("10.1.255.0"),
        backend_type="udp",
        backend={},
    )
    assert config.n_subnets == 255


@pytest.mark.parametrize(
    ("network", "subnet_len"),
    [("10.0.0.0/8", 24), ("10.1.0.0/22", 24), ("10.1.0.0/23", 25), ("10.1.0.0/28", 30)],
)
def test_the_default_subnet_length_follows_the_network(network: str, subnet_len: int) -> None:
    assert parse(Network=network).subnet_len == subnet_len


def test_host_bits_of_the_network_are_masked() -> None:
    assert parse(Network="10.5.3.4/16").network == IPv4Network("10.5.0.0/16")


def test_everything_may_be_given() -> None:
    config = parse(
        Network="10.0.0.0/8",
        SubnetLen=20,
        SubnetMin="10.10.0.0",
        SubnetMax="10.99.0.0",
        Backend={"Type": "VXLAN", "VNI": 7},
        EnableIPv4=True,
        EnableIPv6=False,
        EnableNFTables=True,
        SomethingElse=[1],
    )
    assert (config.subnet_len, config.subnet_size) == (20, 4096)
    assert (str(config.subnet_min), str(config.subnet_max)) == ("10.10.0.0", "10.99.0.0")
    assert config.n_subnets == 89 * 16 + 1
    assert config.backend_type == "vxlan"
    assert config.backend == {"Type": "VXLAN", "VNI": 7}


def test_keys_are_read_in_any_case() -> None:
    text = '{"network":"10.1.0.0/16","SUBNETLEN":25,"backend":{"type":"host-gw"}}'
    config = NetworkConfig.from_json(text)
    assert (config.subnet_len, config.backend_type) == (25, "host-gw")


@pytest.mark.parametrize(
    ("subnet", "fits"),
    [
        ("10.1.1.0/24", True),
        ("10.1.255.0/24", True),
        ("10.1.0.0/24", False),
        ("10.2.1.0/24", False),
        ("10.1.1.0/25", False),
        ("10.1.0.0/16", False),
    ],
)
def test_a_subnet_may_be_leased_if_it_has_the_length_and_is_in_the_range(
    subnet: str, fits: bool
) -> None:
    assert parse(Network="10.1.0.0/16").fits(IPv4Network(subnet)) is fits


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("10.1.0.255", False),
        ("10.1.1.0", True),
        ("10.1.9.0", True),
        ("10.1.9.255", True),
        ("10.1.10.0", False),
        ("192.0.2.1", False),
    ],
)
def test_addresses_of_subnets_that_may_be_leased(address: str, may: bool) -> None:
    config = parse(Network="10.1.0.0/16", SubnetMax="10.1.9.0")
    assert config.may_lease(IPv4Address(address)) is may


GOOD = "10.1.0.0/16"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it is not JSON"),
        ("null", "it is null, not an object"),
        ('"10.1.0.0/16"', "not an object"),
        ("{" * 100_000, "more than 65536"),
        ("[" * 60_000, "nested too deeply"),
        ("{}", "Network is missing: it must be an IPv4 network"),
        ("\0", "it is not JSON"),
        ("7", "it is 7, not an object"),
        ("[]", "it is [], not an object"),
        ("\ufeff{}", "it is not JSON"),
        ('{"Network":"10.1.0.0/16"', "it is not JSON"),
        ('{"Network":"10.1.0.0/16"}}', "it is not JSON"),
        ('{"Network":"10.1.0.0/16","Network":"x"}', 'Network is "x"'),
        ('{"Network":"10.1.0.0/16","SubnetLen":NaN}', "it is not JSON"),
        ('{"Network":"10.1.0.0/16","SubnetLen":1e400}', "1e400 in it is too large a number"),
        ('{"Network":"10.1.0.0/16","SubnetLen":' + "9" * 5000 + "}", "it is not JSON"),
        ({"Network": ""}, 'Network is ""'),
        ({"Network": " 10.1.0.0/16"}, "must be an IPv4 network"),
        ({"Network": "10.1/16"}, "must be an IPv4 network"),
        ({"Network": "010.1.0.0/16"}, "must be an IPv4 network"),
        ({"Network": ["10.1.0.0/16"]}, "must be an IPv4 network"),
        ({"Network": "$(reboot)/16"}, "must be an IPv4 network"),
        ({"Network": "10.1.0.0/32"}, "must be /28 or larger"),
        ({"IPv6Network": "fc00::/48"}, "Network is missing"),
        ({"Network": None}, "Network is null"),
        ({"Network": 10}, "Network is 10"),
        ({"Network": "10.1.0.0"}, 'Network is "10.1.0.0"'),
        ({"Network": "10.1.0.0/255.255.0.0"}, "must be an IPv4 network"),
        ({"Network": "10.1.0.0/33"}, "must be an IPv4 network"),
        ({"Network": "10.1.0.0/-1"}, "must be an IPv4 network"),
        ({"Network": "10.1.0.0/٢٤"}, "must be an IPv4 network"),
        ({"Network": "fc00::/48"}, "must be an IPv4 network"),
        ({"Network": "10.1.0.0/29"}, "must be /28 or larger"),
        ({"Network": "0.0.0.0/0"}, "must not overlap 0.0.0.0/8"),
        ({"Network": "0.0.0.0/16"}, "must not overlap 0.0.0.0/8"),
        ({"Network": "127.0.0.0/16"}, "must not overlap 127.0.0.0/8"),
        ({"Network": "64.0.0.0/2"}, "must not overlap 127.0.0.0/8"),
        ({"Network": "169.254.0.0/16"}, "must not overlap 169.254.0.0/16"),
        ({"Network": "224.0.0.0/16"}, "must not overlap 224.0.0.0/3"),
        ({"Network": "255.255.0.0/16"}, "must not overlap 224.0.0.0/3"),
        ({"Network": GOOD, "SubnetLen": 17}, "SubnetLen is 17: it must be a whole number from 18"),
        ({"Network": GOOD, "SubnetLen": 31}, "SubnetLen is 31"),
        ({"Network": GOOD, "SubnetLen": 0}, "SubnetLen is 0"),
        ({"Network": GOOD, "SubnetLen": -1}, "SubnetLen is -1"),
        ({"Network": GOOD, "SubnetLen": 33}, "SubnetLen is 33"),
        ({"Network": GOOD, "SubnetLen": "24"}, 'SubnetLen is "24"'),
        ({"Network": GOOD, "SubnetLen": 24.5}, "SubnetLen is 24.5"),
        ({"Network": GOOD, "SubnetLen": True}, "SubnetLen is true"),
        ({"Network": GOOD, "SubnetMin": "10.2.0.0"}, "SubnetMin"),
        ({"Network": GOOD, "SubnetMin": "10.1.3.4"}, "must be the first address of a /24"),
        ({"Network": GOOD, "SubnetMin": "x"}, "SubnetMin"),
        ({"Network": GOOD, "SubnetMin": None}, "SubnetMin is null"),
        ({"Network": GOOD, "SubnetMin": "fc00::"}, "SubnetMin"),
        ({"Network": GOOD, "SubnetMax": "10.2.0.0"}, "SubnetMax"),
        ({"Network": GOOD, "SubnetMin": "10.1.9.0", "SubnetMax": "10.1.8.0"}, "10.1.9.0"),
        ({"Network": GOOD, "Backend": {}}, "Backend.Type is missing"),
        ({"Network": GOOD, "Backend": None}, "Backend is null"),
        ({"Network": GOOD, "Backend": "vxlan"}, "Backend is"),
        ({"Network": GOOD, "Backend": []}, "Backend is []"),
        ({"Network": GOOD, "Backend": {"Type": 1}}, "Backend.Type is 1"),
        ({"Network": GOOD, "EnableIPv6": True}, "EnableIPv6 is true"),
        ({"Network": GOOD, "EnableIPv4": False}, "EnableIPv4 is false"),
        ({"Network": GOOD, "EnableIPv4": "yes"}, "EnableIPv4"),
    ],
)
def test_each_violation_is_named_with_key_value_and_rule(text: Any, complaint: str) -> None:
    with pytest.raises(BadNetworkConfig) as error:
        NetworkConfig.from_json(text if isinstance(text, str) else json.dumps(text))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("backend", "complaint"),
    [
        ({"Type": ""}, "Backend.Type is ''"),
        ({"Type": "ipip"}, "Backend.Type is 'ipip'"),
        ({"Type": "a\nb\0"}, r"Backend.Type is 'a\nb\x00'"),
        ({"Type": "vxlan", "VNI": -1}, "Backend.VNI is -1: it must be a whole number from 0"),
        ({"Type": "vxlan", "VNI": 2**24}, "Backend.VNI is 16777216"),
        ({"Type": "vxlan", "VNI": "1"}, 'Backend.VNI is "1"'),
        ({"Type": "vxlan", "Port": 65536}, "Backend.Port is 65536"),
        ({"Type": "vxlan", "Port": -1}, "Backend.Port is -1"),
        ({"Type": "vxlan", "MTU": 1}, "Backend.MTU is 1: it must be 0 or"),
        ({"Type": "vxlan", "MTU": 65536}, "Backend.MTU is 65536"),
        ({"Type": "vxlan", "GBP": 1}, "Backend.GBP is 1"),
        ({"Type": "vxlan", "Learning": "no"}, 'Backend.Learning is "no"'),
        ({"Type": "vxlan", "DirectRouting": []}, "Backend.DirectRouting is []"),
        ({"Type": "udp", "Port": 70000}, "Backend.Port is 70000"),
        ({"Type": "udp", "MTU": 1}, "Backend.MTU is 1"),
        ({"Type": "udp", "Threads": 0}, "Backend.Threads is 0"),
        ({"Type": "udp", "Threads": 10**9}, "Backend.Threads is 1000000000"),
        ({"Type": "udp", "SourceCheck": "yes"}, 'Backend.SourceCheck is "yes"'),
        ({"Type": "udp", "ECN": 7}, "Backend.ECN is 7"),
    ],
)
def test_values_that_no_backend_can_use_are_named(backend: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadNetworkConfig) as error:
        check_config(parse(Network=GOOD, Backend=backend))
    assert complaint in str(error.value)
    assert str(error.value).isprintable()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([GOOD, "10.1.2.0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["Network", "SubnetLen", "SubnetMin", "SubnetMax", "Backend", "EnableIPv4", "EnableIPv6"]
)


@given(st.dictionaries(KEYS, VALUES))
def test_no_document_makes_the_parser_raise_anything_else(document: dict[str, Any]) -> None:
    try:
        config = NetworkConfig.from_json(json.dumps(document))
    except BadNetworkConfig:
        return
    assert config.subnet_min in config.network
    assert config.subnet_max in config.network
    assert config.n_subnets >= 1
