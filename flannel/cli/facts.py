"""Facts: what `flannel check` knows of this host's part in the overlay."""

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from flannel import backends
from flannel.handover.subnet_env import SubnetEnv
from flannel.lease import Lease
from flannel.network_config import NetworkConfig


@dataclass
class Facts:
    """This host's part in the overlay, as far as it is known.

    :ivar status: flanneld's document; None: it does not answer.
    :ivar config: the network config in the store; None: unknown or unusable.
    :ivar leases: all leases in the store; None: unknown.
    :ivar env: the content of subnet.env.
    :ivar mark: the guard's bit of the packet mark.
    """

    status: dict[str, Any] | None = None
    config: NetworkConfig | None = None
    leases: tuple[Lease, ...] | None = None
    env: SubnetEnv | None = None
    mark: int = 0

    @property
    def leaves_docker0(self) -> bool:
        """Whether the lease goes to other networks, by -hand-over."""
        return self.status is not None and bool(self.status.get("hand_over"))

    @property
    def network(self) -> IPv4Network | None:
        """The overlay's range."""
        if self.config is not None:
            return self.config.network
        return self.env.network if self.env is not None else None

    @property
    def subnet(self) -> IPv4Network | None:
        """This host's subnet."""
        if self.status is not None and self.status["lease"] is not None:
            return IPv4Network(self.status["lease"]["subnet"])
        return self.env.subnet.network if self.env is not None else None

    @property
    def interface(self) -> dict[str, Any] | None:
        """The external interface, as flanneld found it."""
        return self.status["interface"] if self.status is not None else None

    @property
    def backend(self) -> str:
        """The backend's name; "" if it is not known."""
        if self.status is not None and self.status["backend"]:
            return str(self.status["backend"])
        return self.config.backend_type if self.config is not None else ""

    @property
    def device(self) -> str:
        """The name of the overlay's link; "" if it has none, or that is not known."""
        if self.status is not None and self.status["device"] is not None:
            return str(self.status["device"])
        return ""

    @property
    def port(self) -> int | None:
        """The UDP port that must be open between hosts; None: none is needed, or it is unknown."""
        return backends.check_config(self.config) if self.config is not None else None
