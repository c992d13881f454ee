"""Options: one table; Go's syntax; every mistake named in one line."""

import re
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typed_options import SECRET, refusal, typed

from flannel import __version__
from flannel.errors import BadOption
from flannel.options.flags import Flag
from flannel.options.table import FLAGS, EtcdOptions, Options, parse

# The flags of every upstream version that are not for Kubernetes only, and their defaults.
UPSTREAM = {
    "etcd-endpoints": "http://127.0.0.1:4001,http://127.0.0.1:2379",
    "etcd-prefix": "/coreos.com/network",
    "etcd-keyfile": "",
    "etcd-certfile": "",
    "etcd-cafile": "",
    "etcd-username": "",
    "etcd-password": "",
    "iface": "",
    "iface-regex": "",
    "iface-can-reach": "",
    "public-ip": "",
    "public-ipv6": "",
    "subnet-file": "/run/flannel/subnet.env",
    "subnet-dir": "/run/flannel/networks",
    "networks": "",
    "watch-networks": "false",
    "listen": "",
    "remote": "",
    "remote-keyfile": "",
    "remote-certfile": "",
    "remote-cafile": "",
    "subnet-lease-renew-margin": "60",
    "ip-masq": "false",
    "ip-masq-fully-random-disable": "false",
    "ip-blackhole-route": "false",
    "iptables-resync": "5",
    "iptables-forward-rules": "true",
    "healthz-ip": "0.0.0.0",
    "healthz-port": "0",
    "v": "0",
    "vmodule": "",
    "log_backtrace_at": ":0",
    "version": "false",
}
OURS = {
    "guard": "true",
    "guard-mark": "0x10000000",
    "ip-masq-except": "",
    "subnet-lease-ttl": "24h",
    "lease-grace": "5m",
    "adopt-after": "1m",
    "lease-hook": "",
    "hand-over": "",
    "release-on-exit": "false",
    "state-dir": "/var/lib/flannel",
    "healthz-ip": "127.0.0.1",  # not upstream's 0.0.0.0: listeners are on loopback unless asked
    "log-format": "text",
    "probe-port": "8286",
}
"""What upstream does not have, or has otherwise."""


def test_every_flag_of_upstream_is_there_with_its_default() -> None:
    assert {flag.name: flag.default for flag in FLAGS} == UPSTREAM | OURS


def test_each_option_has_the_documented_default() -> None:
    assert typed() == Options(
        etcd=EtcdOptions(
            endpoints=("http://127.0.0.1:4001", "http://127.0.0.1:2379"),
            prefix="/coreos.com/network",
            keyfile=None,
            certfile=None,
            cafile=None,
            username="",
            password="",
        ),
        iface=(),
        iface_regex=(),
        iface_can_reach=None,
        public_ip=None,
        subnet_file=Path("/run/flannel/subnet.env"),
        subnet_lease_renew_margin=timedelta(hours=1),
        subnet_lease_ttl=timedelta(days=1),
        lease_grace=timedelta(minutes=5),
        adopt_after=timedelta(minutes=1),
        lease_hook=None,
        hand_over=(),
        release_on_exit=False,
        state_dir=Path("/var/lib/flannel"),
        healthz_ip=IPv4Address("127.0.0.1"),
        healthz_port=0,
        log_format="text",
        probe_port=8286,
        ip_masq=False,
        ip_masq_fully_random_disable=False,
        ip_masq_except=(),
        guard=True,
        guard_mark=0x10000000,
        ip_blackhole_route=False,
        iptables_resync=timedelta(seconds=5),
        iptables_forward_rules=True,
        v=0,
        warnings=(),
    )


@pytest.mark.parametrize(
    ("flag", "text", "reason"),
    [
        ("etcd-endpoints", "", "not a URL"),
        ("etcd-endpoints", "127.0.0.1:2379", "not a URL"),
        ("etcd-endpoints", "etcd://a:1", "not a URL"),
        ("etcd-endpoints", "http://a:1,", "not a URL"),
        ("etcd-endpoints", "http://", "not a URL"),
        ("etcd-endpoints", ",", "not a URL"),
        ("etcd-endpoints", "http://a:1 http://b:1", "not a URL"),
        ("etcd-endpoints", "http://a:1/v2/keys", "not a URL"),
        ("etcd-endpoints", "http://a:1?x", "not a URL"),
        ("etcd-endpoints", "http://a:x", "not a URL"),
        ("etcd-endpoints", "http://[::1", "not a URL"),
        ("etcd-endpoints", "http://[1:2]:1", "not an IPv6 address"),
        ("etcd-endpoints", "http://a:0", "no port from 1 to 65535"),
        ("etcd-endpoints", "http://a:65536", "no port from 1 to 65535"),
        ("etcd-endpoints", "http://a\n:1", "not a URL"),
        ("etcd-endpoints", "http://a:1,https://b:1", "both http and https"),
        ("etcd-prefix", "", "not a key"),
        ("etcd-prefix", "coreos.com/network", "not a key"),
        ("etcd-prefix", "/a b", "not a key"),
        ("etcd-prefix", "/a?b", "not a key"),
        ("etcd-prefix", "/a%2fb", "not a key"),
        ("etcd-prefix", "/a\n", "not a key"),
        ("etcd-prefix", "/a//b", "an empty name"),
        ("etcd-prefix", "/a/../b", "an empty name, . or .."),
        ("etcd-keyfile", "/nowhere/key.pem", "No such file"),
        ("etcd-certfile", "/", "not a file"),
        ("etcd-cafile", "/dev/null", "not a file"),
        ("etcd-cafile", "a\0b", "not the name of a file"),
        ("etcd-username", "a:b", "colon"),
        ("etcd-username", "me", "needs FLANNELD_ETCD_PASSWORD"),
        ("etcd-password", SECRET, "needs -etcd-username"),
        ("iface", "averyveryverylongname", "neither an interface's name"),
        ("iface", "eth0/1", "neither an interface's name"),
        ("iface", "eth0 eth1", "neither an interface's name"),
        ("iface", "fe80::1", "neither an interface's name"),
        ("iface-regex", "(", "not a regular expression"),
        ("iface-regex", "(?\n", "not a regular expression"),
        ("iface-regex", "[[:alpha:]]+", "not a regular expression"),
        ("iface-regex", r"\pL", "not a regular expression"),
        ("iface-regex", "(" * 5000, "not a regular expression"),
        ("iface-regex", "a{99999999999}", "not a regular expression"),
        ("iface-can-reach", "example.com", "not an IPv4 address"),
        ("public-ip", "1.2.3", "not an IPv4 address"),
        ("public-ip", "1.2.3.4/24", "not an IPv4 address"),
        ("public-ip", "::1", "not an IPv4 address"),
        ("public-ip", "192.0.2.300", "not an IPv4 address"),
        ("public-ip", "192.0.2.1\n", "not an IPv4 address"),
        ("public-ip", "0.0.0.0", "no other host"),
        ("public-ip", "127.0.0.1", "no other host"),
        ("public-ip", "224.0.0.1", "no other host"),
        ("public-ip", "255.255.255.255", "no other host"),
        ("public-ipv6", "1.2.3.4", "not an IPv6 address"),
        ("subnet-file", "", "not the name of a file"),
        ("subnet-lease-renew-margin", "0", "from 1 to 1439"),
        ("subnet-lease-renew-margin", "1440", "from 1 to 1439"),
        ("subnet-lease-renew-margin", "1h", "from 1 to 1439"),
        ("subnet-lease-renew-margin", "010", "from 1 to 1439"),
        ("subnet-lease-renew-margin", "٦٠", "from 1 to 1439"),
        ("subnet-lease-renew-margin", "9" * 5000, "from 1 to 1439"),
        *[
            ("subnet-lease-ttl", text, "is not a time like 24h or 90m")
            for text in ("", "0", "59", "-1h", "90", "1d", "1m30s", "1h 1m", "h", "9" * 50, "٦٠")
        ],
        ("lease-grace", "8d", "is not a time"),
        ("lease-grace", "-1", "is not a time"),
        ("lease-hook", "/does/not/exist", "No such file"),
        ("lease-hook", "/etc/passwd", "not executable"),
        ("lease-hook", "/etc", "is not a file"),
        ("state-dir", "", "is not the name of a file"),
        ("iptables-resync", "-5", "from 0"),
        ("iptables-resync", "5s", "from 0"),
        ("ip-masq-except", "192.168.0.1/16", "not a network"),
        ("ip-masq-except", "192.168.0.0/16,", "not a network"),
        ("ip-masq-except", "fe80::/64", "not a network"),
        ("ip-masq-except", "0.0.0.0/0", "there is -ip-masq=false"),
        ("healthz-port", "99999", "from 0 to 65535"),
        ("healthz-port", "-1", "from 0 to 65535"),
        ("healthz-port", "http", "from 0 to 65535"),
        ("probe-port", "65536", "from 0 to 65535"),
        ("healthz-ip", "localhost", "is not an IP address"),
        ("log-format", "xml", "is none of text, json"),
        ("v", "high", "whole number"),
        ("subnet-dir", "/elsewhere", "one network"),
        ("networks", "blue,red", "one network"),
        ("listen", "fd://", "itself"),
        ("remote", "10.0.0.1:8888", "itself"),
        ("remote-keyfile", "/key", "itself"),
        ("remote-certfile", "/cert", "itself"),
        ("remote-cafile", "/ca", "itself"),
    ],
)
def test_a_bad_value_is_named_by_the_flag_or_by_the_variable(
    flag: str, text: str, reason: str
) -> None:
    why = refusal(f"-{flag}={text}")
    assert why.startswith(f"cannot use -{flag}: ")
    assert reason in why
    assert len(why) < 250
    if text:
        variable = "FLANNELD_" + flag.upper().replace("-", "_")
        assert refusal(**{variable: text}) == why.replace(f"-{flag}", variable, 1)


def test_a_flag_overrides_its_variable_and_a_variable_overrides_the_default() -> None:
    environ = {"FLANNELD_ETCD_PREFIX": "/v", "FLANNELD_SUBNET_LEASE_RENEW_MARGIN": "5"}
    options = parse(["-etcd-prefix=/f"], environ)
    assert options.etcd.prefix == "/f"
    assert options.subnet_lease_renew_margin == timedelta(minutes=5)
    assert options.subnet_file == typed().subnet_file


def test_networks_may_be_repeated_or_listed_and_overlap() -> None:
    argv = ("-ip-masq-except=192.168.0.0/16,192.168.7.0/24", "-ip-masq-except", "172.16.0.1")
    expected = (IPv4Network("172.16.0.1/32"), IPv4Network("192.168.0.0/16"))
    assert typed(*argv).ip_masq_except == expected


def test_a_variable_is_not_looked_at_when_its_flag_is_given() -> None:
    assert parse(["-v=1"], {"FLANNELD_V": "high"}).v == 1


def test_an_empty_variable_is_none() -> None:
    assert parse([], {flag.variable: "" for flag in FLAGS if flag.variable}) == typed()


def test_a_repeated_flag_keeps_its_order_and_takes_one_value_from_its_variable() -> None:
    assert typed("-iface=eth1", "--iface", "10.0.0.1", "-iface=").iface == ("eth1", "10.0.0.1")
    assert parse([], {"FLANNELD_IFACE": "eth2"}).iface == ("eth2",)
    assert parse(["-iface=eth1"], {"FLANNELD_IFACE": "eth2"}).iface == ("eth1",)
    patterns = typed("-iface-regex=^10[.]", "-iface-regex=eth[12]").iface_regex
    assert [pattern.pattern for pattern in patterns] == ["^10[.]", "eth[12]"]


def test_addresses_and_files_become_values() -> None:
    options = typed("-public-ip=192.0.2.1", "-iface-can-reach=8.8.8.8", "-subnet-file=x/y", "-v=-1")
    assert options.public_ip == IPv4Address("192.0.2.1")
    assert options.iface_can_reach == IPv4Address("8.8.8.8")
    assert options.subnet_file == Path("x/y")
    assert options.v == -1


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.no_effect], ids=lambda f: f.name)
def test_a_flag_without_effect_is_worth_one_warning(flag: Flag) -> None:
    text = flag.default or "::1"
    expected = (f"-{flag.name} has no effect: {flag.no_effect}",)
    assert typed(f"-{flag.name}={text}").warnings == expected
    [warning] = parse([], {flag.variable: text}).warnings
    assert warning.startswith(f"{flag.variable} has no effect: ")


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.refused], ids=lambda f: f.name)
def test_a_refused_flag_may_have_its_default(flag: Flag) -> None:
    assert typed(f"-{flag.name}={flag.default}") == typed()


def test_a_variable_of_no_flag_is_warned_of() -> None:
    environ = {"FLANNELD_ETCD_ENDPOINT": "http://a:1", "FLANNEL_X": "1", "PATH": "/bin"}
    [warning] = parse([], environ).warnings
    assert '"FLANNELD_ETCD_ENDPOINT"' in warning


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["-v=1", "-help", "stray"]])
def test_help_names_every_flag_and_variable(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        typed(*argv)
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for flag in FLAGS:
        assert re.search(rf"(?m)^  -{flag.name} {re.escape(flag.metavar)}(\s|$)", shown)
        assert flag.variable in shown


@pytest.mark.parametrize("argv", [["-version"], ["--version=1"], ["-v=x", "--version"]])
def test_the_version_is_printed_to_stderr(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(argv, {"FLANNELD_V": "high"})
    assert caught.value.code == 0
    assert capsys.readouterr() == ("", f"{__version__}\n")


def test_version_has_no_variable() -> None:
    assert parse(["-version=false"], {"FLANNELD_VERSION": "true"}).v == 0


WORDS = st.text(max_size=30)
FLAG_WORDS = st.builds(
    lambda dashes, flag, equals, text: f"{dashes}{flag.name}{equals}{text}",
    st.sampled_from(["-", "--"]),
    st.sampled_from(FLAGS),
    st.sampled_from(["", "="]),
    WORDS | st.sampled_from(["true", "1", "http://a:1", "/x", "10.0.0.1", "("]),
)


@given(
    st.lists(FLAG_WORDS | WORDS, max_size=5),
    st.dictionaries(st.sampled_from([flag.variable for flag in FLAGS] + ["FLANNELD_"]), WORDS),
)
def test_every_command_line_gives_options_a_refusal_or_an_exit(
    argv: list[str], environ: dict[str, str]
) -> None:
    said: tuple[str, ...] = ()
    status: object = 0
    try:
        said = parse(argv, environ).warnings
    except BadOption as why:
        said = (str(why),)
    except SystemExit as end:
        status = end.code
    assert all(line.isprintable() for line in said)
    assert status == 0


def test_a_margin_that_leaves_nothing_of_the_lease_is_refused() -> None:
    text = refusal("-subnet-lease-renew-margin=60", "-subnet-lease-ttl=1h")
    assert "-subnet-lease-renew-margin: it must be less than -subnet-lease-ttl, 1:00:00" in text


def test_the_default_margin_gives_way_to_a_short_lease() -> None:
    assert typed("-subnet-lease-ttl=1h").subnet_lease_renew_margin == timedelta(minutes=15)
