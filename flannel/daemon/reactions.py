"""Reactions: what follows an error that ended a run of the network, as a table.

Each `FlannelError` is followed by another run, with one exception: `AlreadyRunning` at a start ends
the process. An error without its own row has the row of the class that it derives from; `INHERITED`
lists these.
"""

import enum
from dataclasses import dataclass

from flannel.errors import (
    AddressTaken,
    AlreadyRunning,
    BadLease,
    BadNetworkConfig,
    BadOption,
    CannotHandOver,
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
    """How long to wait before the next run; `flannel.daemon.daemon` has the seconds."""

    NONE = enum.auto()
    """Packets may be lost until the next run starts."""
    SHORT = enum.auto()
    """The next run can succeed at once."""
    LONG = enum.auto()
    """An operator may have to repair something first."""


class After(enum.Flag):
    """What else is done before the next run."""

    NOTHING = 0
    GIVE_UP_LEASE = enum.auto()
    """Another host has our subnet: do not serve it again, and do not ask for it."""
    RENEW_IDENTITY = enum.auto()
    """Another host has our NodeID: make a new one."""
    CLOSE_CONNECTIONS = enum.auto()
    """Connections to the store from an address that was removed would hang."""
    DISTRUST_STORE = enum.auto()
    """The time for which the store has answered is counted from zero."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """A row of the table.

    :ivar text: the line in the log; ``%s`` is the error.
    :ivar is_condition: `Condition.RUN` holds until the next run starts, and the error is logged
        once. False: the error is logged each time.
    :ivar is_about_class: errors of this class with different texts are logged once, together: an
        unreachable store may refuse, reset or ignore the connection.
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
"""By class of error; the most derived class counts."""

INHERITED: dict[type[FlannelError], type[FlannelError]] = {
    StoreUnavailable: StoreUnreachable,
    StoreDenied: StoreUnreachable,
    # The start of a run fails with these.
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
    # These are handled where they occur, and never end a run.
    BadLease: FlannelError,
    BadOption: FlannelError,
    CannotHandOver: FlannelError,
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
