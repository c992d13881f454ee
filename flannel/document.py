"""JSON documents from the store, read the way Go's encoding/json reads them into a struct.

The names of members may be in any case, unknown members are ignored, and the last of duplicates
counts. Any program with access to etcd can write a document: its size is limited, and reading it
raises only `BadDocument`.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from flannel.printable import as_json, printable

MAX_CHARS = 64 * 1024
"""Characters; real configs and leases have some hundred. The limit keeps one bad value cheap."""
_MAX_DEPTH = 20
"""Levels of nested values; real documents have three. A deep one would exhaust the stack of the
decoder, or of whatever compares, copies or writes the value."""
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


class BadDocument(Exception):
    """Why a document, or one member of it, cannot be used; a phrase without the document's name."""


class NotAnObject(BadDocument):
    """The document is JSON, but another value than an object."""


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")  # Python's json reads NaN and Infinity, Go's does not


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(
        value
    ):  # 1e999 is JSON, but becomes an infinity, which cannot be written as JSON
        raise BadDocument(f"{printable(digits, 20)} in it is too large a number")
    return value


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def parse_object(text: str, max_chars: int = MAX_CHARS) -> dict[str, Any]:
    """Return the object in ``text``; read its members through `Members`.

    :raises BadDocument: it is too long, not JSON, nested too deeply, or not an object.
    """
    if len(text) > max_chars:
        raise BadDocument(f"it has {len(text)} characters, more than {max_chars}")
    # Counting brackets is quick, and most documents have fewer than the limit.
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_deep(text):
        raise BadDocument("it is nested too deeply")
    try:
        document = _decoder.decode(text)
    except ValueError as error:
        raise BadDocument(f"it is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise NotAnObject(f"it is {shown(document)}, not an object")
    return document


def _is_deep(text: str) -> bool:
    level = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        level += 1 if bracket in "[{" else -1
        if level > _MAX_DEPTH:
            return True
    return False


def shown(value: Any) -> str:
    """``value`` as JSON on one line, cut to a length fit for a message."""
    return printable(as_json(value), 60)


class Members:
    """Typed access to an object's members; every complaint names the key, its value and the rule.

    :param where: the text before a member's name in messages: ``""`` or ``"Backend."``.
    """

    def __init__(self, members: Mapping[str, Any], where: str = "") -> None:
        self._members = {name.lower(): value for name, value in members.items()}
        self._where = where

    def get(self, name: str) -> Any:
        """The member's value; None if it is absent."""
        return self._members.get(name.lower())

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._members

    def bad(self, name: str, rule: str) -> BadDocument:
        """The exception for a member that breaks ``rule``, e.g. ``must be 1 to 30``."""
        if name not in self:
            return BadDocument(f"{self._where}{name} is missing: it {rule}")
        value = shown(self._members[name.lower()])
        return BadDocument(f"{self._where}{name} is {value}: it {rule}")

    def text(self, name: str, rule: str) -> str:
        """The string ``name``, which must exist; ``rule`` is for the message if it does not."""
        value = self.get(name)
        if not isinstance(value, str):
            raise self.bad(name, rule)
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """The whole number ``name`` in ``low``..``high``; absent or null means ``default``."""
        value = self.get(name)
        if value is None:
            return default
        if type(value) is not int or not low <= value <= high:  # bool is an int, and no number
            raise self.bad(name, f"must be a whole number from {low} to {high}")
        return value

    def boolean(self, name: str, default: bool = False) -> bool:
        """``true`` or ``false``; absent or null means ``default``."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.bad(name, "must be true or false")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """The object ``name``, which must exist."""
        value = self.get(name)
        if not isinstance(value, dict):
            raise self.bad(name, "must be an object")
        return value
