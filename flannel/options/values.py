"""Parses the text of an option strictly, so that a mistake ends the start, not a later request.

Each function raises ValueError with a phrase that shows the text and what it should be. A text that
may hold a password is not shown.
"""

import os
import re
import stat
import warnings
from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path

from flannel.document import shown
from flannel.lease import is_unicast

_LINK_NAME_BYTES = 15  # IFNAMSIZ - 1
_KUBERNETES_BITS = 0xC000
"""Bits of the packet mark: kube-proxy's for masquerade, and kubelet's for packets to be dropped."""
_ENDPOINT = re.compile(
    r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?", re.ASCII | re.IGNORECASE
)


def integer(low: int, high: int) -> Callable[[str], int]:
    """Make a reader of decimal numbers in ``low``..``high``."""

    def parse(text: str) -> int:
        # No leading zero: Go reads 010 as eight.
        if re.fullmatch(r"[+-]?(0|[1-9][0-9]{0,9})", text) and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"{shown(text)} is not a whole number from {low} to {high}")

    return parse


def mark_bit(text: str) -> int:
    """One bit of the packet mark, written as ``ip rule`` and iptables do: 0x10000000."""
    number = int(text, 16) if re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}", text) else 0
    if number.bit_count() != 1:
        raise ValueError(f"{shown(text)} is not one bit of a packet mark, such as 0x10000000")
    if number & _KUBERNETES_BITS:
        raise ValueError(f"{text} is a bit that kube-proxy and kubelet use")
    return number


def margin(text: str) -> timedelta:
    """Minutes, fewer than the 24 hours that a lease lasts."""
    return timedelta(minutes=integer(1, 24 * 60 - 1)(text))


def duration(low: int, high: int, unit: int = 1) -> Callable[[str], timedelta]:
    """Make a reader of times from ``low`` to ``high`` seconds, whole multiples of ``unit``.

    It reads seconds as a number, or as Go writes them: ``24h``, ``1h30m``.
    """

    def parse(text: str) -> timedelta:
        match = re.fullmatch(r"(?:(\d{1,5})h)?(?:(\d{1,7})m)?(?:(\d{1,9})s?)?", text, re.ASCII)
        if match is not None and text:
            hours, minutes, seconds = (int(part or 0) for part in match.groups())
            total = hours * 3600 + minutes * 60 + seconds
            if low <= total <= high and total % unit == 0:
                return timedelta(seconds=total)
        whole = " in whole minutes" if unit == 60 else ""
        limits = f"{timedelta(seconds=low)} to {timedelta(seconds=high)}"
        raise ValueError(f"{shown(text)} is not a time like 24h or 90m, {limits}{whole}")

    return parse


def program(text: str) -> Path | None:
    """The name of a file that this process may run; None for an empty text."""
    path = readable_file(text)
    if path is not None and not os.access(path, os.X_OK):
        raise ValueError(f"{text!r} cannot be run: it is not executable")
    return path


def username(text: str) -> str:
    """A user name for HTTP's basic auth, which ends it with a colon."""
    if ":" in text:
        raise ValueError(f"{shown(text)} has a colon in it")
    return text


def unicast_ipv4(text: str) -> IPv4Address | None:
    """An address at which another host can be reached; None for an empty text."""
    if not text:
        return None
    try:
        address = IPv4Address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IPv4 address") from None
    if not is_unicast(address):
        raise ValueError(f"no other host can be reached at {address}")
    return address


def ipv6(text: str) -> IPv6Address | None:
    """An IPv6 address; None for an empty text."""
    try:
        return IPv6Address(text) if text else None
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IPv6 address") from None


def listening_address(text: str) -> IPv4Address | IPv6Address:
    """An address of this host to listen at, or 0.0.0.0 or :: for all of them."""
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IP address") from None


def one_of(*words: str) -> Callable[[str], str]:
    """Make a reader of a choice."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{shown(text)} is none of {', '.join(words)}")
        return text

    return parse


def interface(text: str) -> str:
    """A name that a link can have by the kernel's rules, or an IPv4 address."""
    if len(os.fsencode(text)) > _LINK_NAME_BYTES or re.search(r"[/:\s]", text):
        raise ValueError(f"{shown(text)} is neither an interface's name nor an IPv4 address")
    return text


def pattern(text: str) -> re.Pattern[str]:
    """A regular expression of those that Python and Go read alike."""
    try:
        with warnings.catch_warnings():
            # [[:alpha:]] and the like: classes to Go, and to Python sets with a bracket in them.
            warnings.simplefilter("error", FutureWarning)
            return re.compile(text)
    except (re.error, FutureWarning, OverflowError, RecursionError) as why:
        raise ValueError(f"{shown(text)} is not a regular expression: {shown(str(why))}") from None


def file_name(text: str) -> Path:
    """The name of a file, which need not exist."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not the name of a file")
    return Path(text)


def readable_file(text: str) -> Path | None:
    """The name of an existing file that this process may read; None for an empty text."""
    if not text:
        return None
    path = file_name(text)
    try:
        mode = path.stat().st_mode
    except OSError as why:
        raise ValueError(f"cannot read {text!r}: {why.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{text!r} is not a file")
    if not os.access(path, os.R_OK):
        raise ValueError(f"cannot read {text!r}: Permission denied")
    return path


def key_file(text: str) -> Path | None:
    """The same for a private key, in PEM, that needs no passphrase."""
    path = readable_file(text)
    try:
        is_encrypted = path is not None and b"ENCRYPTED" in path.read_bytes()  # RFC 7468, 1421
    except OSError as why:
        raise ValueError(f"cannot read {text!r}: {why.strerror}") from None
    if is_encrypted:
        raise ValueError(
            f"{text!r} is encrypted with a passphrase, and nobody can be asked: "
            "`openssl pkey -in FILE -out FILE2` writes it without"
        )
    return path


def networks(text: str) -> tuple[IPv4Network, ...]:
    """Networks like 192.168.0.0/16, or addresses, with commas between them."""
    return tuple(_network(each.strip()) for each in text.split(","))


def _network(text: str) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a network like 192.168.0.0/16") from None
    if not network.prefixlen:
        raise ValueError(f"{shown(text)} is every network; there is -ip-masq=false")
    return network


def etcd_endpoints(text: str) -> tuple[str, ...]:
    """URLs with commas between them, as ``scheme://host:port``, all of one scheme."""
    if "@" in text:
        raise ValueError(
            "it has a user name or password in it, for which there are -etcd-username and "
            "FLANNELD_ETCD_PASSWORD"
        )
    endpoints = tuple(dict.fromkeys(_endpoint(each.strip()) for each in text.split(",")))
    if len({each.partition(":")[0] for each in endpoints}) > 1:
        raise ValueError("it has both http and https: a failover would drop TLS")
    return endpoints


def _endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is not a URL like http://host:port or https://host:port")
    scheme, host = match[1].lower(), match[2].lower()
    # A URL without a port means the scheme's own, here as to the HTTP client of upstream.
    port = int(match[3] or {"http": 80, "https": 443}[scheme])
    if not 0 < port < 65536:
        raise ValueError(f"{shown(text)} has no port from 1 to 65535")
    if host.startswith("["):
        ipv6(host[1:-1])
    return f"{scheme}://{host}:{port}"


def etcd_prefix(text: str) -> str:
    """A key of etcd without a slash at its end; empty for ``/``."""
    names = text.rstrip("/").split("/")
    # Other characters would reach etcd as a URL's query, fragment or escape, or as another path.
    if not text.startswith("/") or re.search(r"[^!-~]|[?#%\\]", text):
        raise ValueError(f"{shown(text)} is not a key of etcd: /, then ASCII letters and the like")
    if {"", ".", ".."} & set(names[1:]):
        raise ValueError(f"{shown(text)} has an empty name, . or .. in it")
    return "/".join(names)
