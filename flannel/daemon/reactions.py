"""Reactions: what an error leads to that has ended a run of the network, as a table.

Nothing that can pass ends the process: every `FlannelError` starts another run, but for
`AlreadyRunning` at a start, when the process must not begin to serve. Errors without a
row of their own share that of the class they derive from, which `INHERITED` states for each.
"""

import enum
from dataclasses import dataclass

from flannel.errors import (
    AddressTaken,
    AlreadyRunning,
    BadLease,
    BadNetworkConfig,
    BadOption,
    CannotRun,
    CannotWrite,
    ConfigChanged,
    ConfigConflict,
    FirewallError,
    FlannelError,
    IdentityTaken,
    KernelError,
    LeaseChanged,
    LeaseLost,
    LeaseTaken,
    NetworkInUse,
    NoFreeSubnet,
    NoInterface,
    Shortage,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    StoreUnreachable,
    UnderlayChanged,
)


class Pause(enum.Enum):
    """How long to wait before the next run; see `flannel.daemon.daemon` for the seconds."""

    NONE = enum.auto()
    """Packets may be lost until the next run has begun."""
    SHORT = enum.auto()
    """The next run can succeed as soon as it asks."""
    LONG = enum.auto()
    """It may take somebody to repair what is wrong."""


class After(enum.Flag):
    """What else is done before the next run."""

    NOTHING = 0
    GIVE_UP_LEASE = enum.auto()
    """Another host has our subnet: it is not served again, and not asked for."""
    RENEW_IDENTITY = enum.auto()
    """Another host has our NodeID: this one begins with a new one."""
    CLOSE_CONNECTIONS = enum.auto()
    """Connections to the store from an address that is gone would hang."""
    DISTRUST_STORE = enum.auto()
    """How long the store has been answering begins to count anew."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """A row.

    :ivar text: the line in the log; ``%s`` is the error.
    :ivar is_condition: `Condition.RUN` holds until the next run has begun; it is logged once,
        not each time. False: it is news, and the next run deals with it.
    :ivar is_about_class: its wording varies, and a different one is not logged again: a store
        that does not answer refuses, resets or ignores the connection.
    """

    text: str
    pause: Pause
    after: After = After.NOTHING
    is_condition: bool = True
    is_about_class: bool = False


REACTIONS: dict[type[FlannelError], Reaction] = {
    FlannelError: Reaction("%s; trying again", Pause.LONG),
    StoreUnreachable: Reaction(
        "%s; trying again", Pause.SHORT, After.DISTRUST_STORE, is_about_class=True
    ),
    ConfigChanged: Reaction("%s; starting over", Pause.SHORT, is_condition=False),
    LeaseLost: Reaction("%s; starting over", Pause.SHORT, After.GIVE_UP_LEASE, is_condition=False),
    IdentityTaken: Reaction(
        "%s; starting over",
        Pause.SHORT,
        After.GIVE_UP_LEASE | After.RENEW_IDENTITY,
        is_condition=False,
    ),
    UnderlayChanged: Reaction(
        "%s; adapting to it", Pause.NONE, After.CLOSE_CONNECTIONS, is_condition=False
    ),
}
"""By class of error; the most special one counts."""

INHERITED: dict[type[FlannelError], type[FlannelError]] = {
    StoreUnavailable: StoreUnreachable,
    StoreDenied: StoreUnreachable,
    # What a run begins with fails.
    AddressTaken: FlannelError,
    AlreadyRunning: FlannelError,  # at a start it ends the process
    BadNetworkConfig: FlannelError,
    KernelError: FlannelError,
    LeaseChanged: FlannelError,
    LeaseTaken: FlannelError,
    NetworkInUse: FlannelError,
    NoInterface: FlannelError,
    Shortage: FlannelError,
    NoFreeSubnet: FlannelError,
    # The place that meets one of these deals with it: none of them ends a run.
    BadLease: FlannelError,
    BadOption: FlannelError,
    CannotRun: FlannelError,
    CannotWrite: FlannelError,
    ConfigConflict: FlannelError,
    FirewallError: FlannelError,
    StoreError: FlannelError,
}
"""Errors without a row of their own, and the class whose row they share."""


def reaction_to(error: FlannelError) -> Reaction:
    """The row for ``error``: that of its class, or else of the next class it derives from."""
    return next(REACTIONS[each] for each in type(error).__mro__ if each in REACTIONS)
