"""NetworkConfig: the JSON document at ``<prefix>/config``, which all hosts of the cluster use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from typing import Any

from flannel.document import BadDocument, Members, parse_object
from flannel.errors import BadNetworkConfig

DEFAULT_BACKEND = "udp"
BACKEND_TYPE = "Type"
"""The member of the Backend object that names it."""
MEMBERS = (
    "Network",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "Backend",
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
)
"""Those that are read."""

# Addresses that cannot be used for an overlay: "this network", loopback, link-local, multicast and
# reserved space (RFC 6890).
_UNUSABLE = tuple(
    IPv4Network(cidr) for cidr in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The network: its range, the subnets it is divided into, and the backend that carries it.

    ``subnet_min`` and ``subnet_max`` are the network addresses of the first and the last subnet
    that may be leased. ``backend`` is the Backend object as written in the document; only that
    backend reads it.
    """

    network: IPv4Network
    subnet_len: int
    subnet_min: IPv4Address
    subnet_max: IPv4Address
    backend_type: str = DEFAULT_BACKEND
    backend: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subnet_size(self) -> int:
        """Addresses in one subnet."""
        return 1 << (32 - self.subnet_len)

    @property
    def n_subnets(self) -> int:
        """The number of subnets that may be leased."""
        return (int(self.subnet_max) - int(self.subnet_min)) // self.subnet_size + 1

    def fits(self, subnet: IPv4Network) -> bool:
        """Whether ``subnet`` may be leased to a host of this network."""
        return (
            subnet.prefixlen == self.subnet_len
            and self.subnet_min <= subnet.network_address <= self.subnet_max
        )

    @property
    def last_leasable(self) -> IPv4Address:
        """The last address of the last subnet that may be leased; the first is ``subnet_min``."""
        return self.subnet_max + (self.subnet_size - 1)

    def may_lease(self, address: IPv4Address) -> bool:
        """Whether ``address`` is in a subnet that may be leased to a host."""
        return self.subnet_min <= address <= self.last_leasable

    def difference(self, other: "NetworkConfig") -> str:
        """The members that differ in ``other``, for messages; "" if there are none."""
        return ", ".join(
            f"{name} {before} is {after} now"
            for name, before, after in (
                ("Network", self.network, other.network),
                ("SubnetLen", self.subnet_len, other.subnet_len),
                ("SubnetMin", self.subnet_min, other.subnet_min),
                ("SubnetMax", self.subnet_max, other.subnet_max),
                ("Backend.Type", self.backend_type, other.backend_type),
                ("Backend", dict(self.backend), dict(other.backend)),
            )
            if before != after
        )

    @classmethod
    def from_json(cls, text: str) -> "NetworkConfig":
        """Parse and validate; unknown members are ignored.

        Defaults and limits are upstream's (subnet/config.go: CheckNetworkConfig).

        :raises BadNetworkConfig: naming the key, its value and the rule.
        """
        try:
            return _parse(Members(parse_object(text)))
        except BadDocument as why:
            raise BadNetworkConfig(f"cannot use the network config: {why}") from None


def _parse(members: Members) -> NetworkConfig:
    if not members.boolean("EnableIPv4", default=True):
        raise members.bad("EnableIPv4", "must be true: only IPv4 networks are served")
    if members.boolean("EnableIPv6"):
        raise members.bad("EnableIPv6", "must be false: only IPv4 networks are served")
    members.boolean("EnableNFTables")  # only its type is checked: it does not change the rules

    network = _network(members)
    subnet_len = _subnet_len(members, network)
    size = 1 << (32 - subnet_len)
    low = _boundary(members, "SubnetMin", network, subnet_len, network.network_address + size)
    last = IPv4Address(int(network.broadcast_address) + 1 - size)
    high = _boundary(members, "SubnetMax", network, subnet_len, last)
    if low > high:
        raise members.bad("SubnetMax", f"must not be below SubnetMin, {low}")

    if "Backend" not in members:
        return NetworkConfig(network, subnet_len, low, high)
    backend = members.mapping("Backend")
    kind = Members(backend, "Backend.").text(BACKEND_TYPE, "must name a backend").lower()
    return NetworkConfig(network, subnet_len, low, high, kind, backend)


def _network(members: Members) -> IPv4Network:
    rule = "must be an IPv4 network such as 10.1.0.0/16"
    text = members.text("Network", rule)
    address, slash, prefix_len = text.partition("/")
    if not slash or not (prefix_len.isascii() and prefix_len.isdigit()):
        raise members.bad("Network", rule)  # ipaddress would read a bare address, or a netmask
    try:
        network = IPv4Network((IPv4Address(address), int(prefix_len)), strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        raise members.bad("Network", rule) from None
    if network.prefixlen > 28:
        raise members.bad("Network", "must be /28 or larger, to hold four subnets")
    for unusable in _UNUSABLE:
        if network.overlaps(unusable):
            raise members.bad("Network", f"must not overlap {unusable}")
    return network


def _subnet_len(members: Members, network: IPv4Network) -> int:
    default = 24 if network.prefixlen <= 22 else network.prefixlen + 2
    # At least four subnets in the network, at least two host addresses in a subnet.
    return members.integer("SubnetLen", default, network.prefixlen + 2, 30)


def _boundary(
    members: Members,
    name: str,
    network: IPv4Network,
    subnet_len: int,
    default: IPv4Address,
) -> IPv4Address:
    if name not in members:
        return default
    rule = f"must be the first address of a /{subnet_len} inside {network}"
    try:
        address = IPv4Address(members.text(name, rule))
    except AddressValueError:
        raise members.bad(name, rule) from None
    if address not in network or int(address) % (1 << (32 - subnet_len)):
        raise members.bad(name, rule)
    return address
