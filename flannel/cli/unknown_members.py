"""Members of a network config that no host reads, and what was perhaps meant. Pure.

Hosts ignore them, as upstream does, so that a misspelled name costs nothing but its effect.
"""

from difflib import get_close_matches
from typing import NamedTuple

from flannel.backends.traits import traits
from flannel.document import Members, parse_object
from flannel.network_config import BACKEND_TYPE, DEFAULT_BACKEND, MEMBERS
from flannel.printable import printable

_WIDEST = 60


class Unknown(NamedTuple):
    """A member that is not known.

    :ivar member: its path, such as ``Backend.Vni``.
    :ivar nearest: that of the known one that is most like it; "" if none is.
    """

    member: str
    nearest: str

    def __str__(self) -> str:
        meant = f"; perhaps {self.nearest} is meant" if self.nearest else ""
        return f"{printable(self.member, _WIDEST)} is unknown and has no effect{meant}"


def find_unknown(text: str) -> list[Unknown]:
    """The unknown members of a valid network config."""
    document = parse_object(text)
    backend = Members(document).get("Backend")
    inner = backend if isinstance(backend, dict) else {}
    kind = Members(inner).get(BACKEND_TYPE)
    of_backend = (BACKEND_TYPE, *traits(str(kind or DEFAULT_BACKEND).lower()).members)
    paths = [*MEMBERS, *(f"Backend.{each}" for each in of_backend)]
    given = [*document, *(f"Backend.{each}" for each in inner)]
    known = {path.lower() for path in paths}
    return [Unknown(each, _nearest(each, paths)) for each in given if each.lower() not in known]


def _nearest(path: str, paths: list[str]) -> str:
    """The known path with the most similar name, in the same object if there is one."""
    where, _, name = path.rpartition(".")
    beside = [each for each in paths if each.rpartition(".")[0] == where]
    for candidates in (beside, paths):
        names = {each.rpartition(".")[2].lower(): each for each in candidates}
        close = get_close_matches(name.lower(), names, n=1)
        if close:
            return names[close[0]]
    return ""
