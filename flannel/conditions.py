"""Condition: a fault that may hold for a while. flanneld's parts report it, ``status`` shows it.

conditions = Conditions(log)
conditions.report(Condition.STORE, "cannot read ...; trying again")    # logged once
conditions.clear(Condition.STORE)                                      # the next one is logged
conditions.text(Condition.STORE)                                       # "" while all is well
"""

import logging
from enum import StrEnum

from flannel.once import Once


class Condition(StrEnum):
    """The value of each is its name in ``flannel status --json``."""

    INTERFACE = "interface"
    """There is no external interface that can be used."""
    OTHER_INTERFACE = "other-interface"
    """The best external interface is not the one in use, which works and is kept."""
    UNDERLAY = "underlay"
    """The external interface cannot be looked at."""
    STORE = "store"
    """The store does not answer, or denies access, while the network config is read."""
    CONFIG = "config"
    """There is no network config, or it cannot be used."""
    RUN = "run"
    """An error has ended the last run of the network, and the next one has not begun."""
    RESUMED = "resumed"
    """The saved state is served, or cannot be, until the store answers with a usable config."""
    LEASE = "lease"
    """The store does not accept the renewal of our lease."""
    WATCH = "watch"
    """The leases in the store cannot be followed."""
    KERNEL = "kernel"
    """The device or the tables cannot be brought up to date."""
    BLACKHOLE = "blackhole"
    """The route of -ip-blackhole-route cannot be added or removed."""
    SUBNET_ENV = "subnet.env"
    """subnet.env cannot be written."""
    RESOURCES = "resources"
    """The system has no descriptor, no memory or no thread for a task; it is started again."""
    STATE = "state"
    """The state cannot be saved for a start without the store."""
    NFT = "nft"
    """nft fails, so the content of our table is unknown."""
    IPTABLES = "iptables"
    """iptables fails, so the content of our chains is unknown."""
    SYSCTLS = "sysctls"
    """The settings of the overlay's device cannot be made."""
    GUARD = "guard"
    """No program of this host can make the whole guard."""
    MASQUERADE = "masquerade"
    """No program of this host can masquerade."""
    DOCKER_SUBNET = "docker-subnet"
    """docker's bridge has no address of the lease."""
    DOCKER_MTU = "docker-mtu"
    """docker's containers have a larger MTU than the overlay."""
    HAND_OVER = "hand-over"
    """A network of -hand-over does not have the lease."""


_OVER = {
    Condition.UNDERLAY: "the kernel lists links, addresses and routes again",
    Condition.OTHER_INTERFACE: "a new choice would be the external interface in use",
    Condition.STORE: "the store answers again",
    Condition.CONFIG: "the network config can be used",
    Condition.RESUMED: "the store's leases are served",
    Condition.LEASE: "the store accepts the renewal of the lease again",
    Condition.WATCH: "following the leases again",
    Condition.KERNEL: "the device and the tables can be brought up to date again",
    Condition.BLACKHOLE: "the route of -ip-blackhole-route is as wanted again",
    Condition.SUBNET_ENV: "subnet.env can be written again",
    Condition.RESOURCES: "all tasks have what they need of the system again",
    Condition.STATE: "the state can be saved again",
    Condition.NFT: "nft works again",
    Condition.IPTABLES: "iptables works again",
    Condition.SYSCTLS: "the settings of the device can be made again",
    Condition.GUARD: "the whole guard can be made",
    Condition.MASQUERADE: "there is a program to masquerade with",
    Condition.DOCKER_SUBNET: "docker's bridge has the address of the lease",
    Condition.DOCKER_MTU: "the MTU of docker's bridge fits the overlay",
    Condition.HAND_OVER: "all networks of -hand-over have the lease",
}
"""The lines that the log gets when a condition is over. The others' ends are logged elsewhere."""


class Conditions:
    """The conditions that hold now, each with a text; a change is logged as a warning.

    The end of one is logged as well, as information.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._once = Once(log)

    def report(self, condition: Condition, text: str, *, about: object = None) -> None:
        """Record that ``condition`` holds; log ``text`` unless it was reported last.

        :param about: compared instead of the text, if its wording varies.
        """
        self._once.warn(condition, text, about=about)

    def clear(self, condition: Condition) -> bool:
        """Record that ``condition`` does not hold; return whether it did."""
        did_hold = self._once.forget(condition)
        if did_hold and condition in _OVER:
            self._log.info("%s", _OVER[condition])
        return did_hold

    def text(self, condition: Condition) -> str:
        """The text reported for ``condition``; "" if it does not hold."""
        return self._once.message_of(condition)

    def document(self) -> dict[str, str]:
        """All conditions that hold, for JSON: texts by name."""
        return {each.value: text for each in Condition if (text := self.text(each))}
