"""OwnLease: writes this host's lease to the store, renews it, and repairs it there."""

import logging
from dataclasses import replace

from flannel.errors import BadLease, LeaseLost
from flannel.lease import Lease, LeaseAttrs
from flannel.stores import Store

log = logging.getLogger(__name__)


class OwnLease:
    """Writes the lease of this host.

    :param ttl: seconds that the lease lasts; a reservation stays one.
    """

    def __init__(self, store: Store, ttl: int) -> None:
        self.ttl = ttl
        self._store = store

    async def write(self, lease: Lease, attrs: LeaseAttrs) -> Lease:
        """Write our ``lease`` again, with ``attrs``.

        If its attributes are right already, it is only renewed, which sends no event: otherwise a
        restart of all hosts would send an event for each host to each other host. A question in
        it is answered by writing the lease without the question.

        :raises LeaseChanged: somebody wrote it at the same moment.
        """
        if lease.attrs != attrs or lease.attrs.asked_by:
            return await self._store.replace(lease, attrs, self._ttl_of(lease))
        return lease if lease.ttl is None else await self._store.renew(lease, self.ttl)

    async def repair(self, own: Lease) -> Lease | None:
        """The lease for our subnet in the store; None if there is none.

        If its key holds a value that is not a lease, our lease is written over it.

        :raises LeaseLost: the value cannot be overwritten.
        :raises LeaseChanged: somebody wrote it at the same moment.
        """
        try:
            return await self._store.find(own.subnet)
        except BadLease as why:
            if not why.index:
                raise LeaseLost(f"cannot keep lease {own.subnet}: {why}") from None
            garbled = replace(own, index=why.index)
            lease = await self._store.replace(garbled, own.attrs, self._ttl_of(own))
            log.warning("lease %s was overwritten: %s; written again", own, why)
            return lease

    def _ttl_of(self, lease: Lease) -> int | None:
        return None if lease.ttl is None else self.ttl
