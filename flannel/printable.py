"""Foreign text, made fit for a terminal, a line of the log, and JSON.

A lease, the name of a link or the message of a program can hold characters that a terminal obeys
(ECMA-48), that begin a new line, that change the direction of writing, or lone surrogates, which no
encoding has. Everything that flanneld and `flannel` print passes here:

    printable(text)         on one line, cut
    printable_json(text)    a JSON document as it was written, whole
    as_json(document)       always JSON, whatever the document holds
    say(line, ...)          printed, each on one line; complain() to stderr
"""

import json
import math
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO

LONGEST = 1500
"""Characters of a line, at most. The longest honest ones, findings with an error that names every
endpoint of etcd with its reason, have half of that."""

_CUT = "..."
_LONGEST_ESCAPE = len(r"\U0001f600")


class CannotPrint(OSError):
    """stdout does not take what is printed: its disk is full, or it is an error of the device."""


def printable(text: str, longest: int = LONGEST) -> str:
    r"""``text`` on one line: what is no printable character becomes an escape such as ``\x1b``.

    :param longest: characters of the result; the end of a longer one is cut, and shown to be.
    """
    text = text[: longest + 1]
    if not text.isprintable():
        text = "".join(each if each.isprintable() else _escape(each) for each in text)
    return text if len(text) <= longest else text[: longest - len(_CUT)] + _CUT


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def say(*lines: str) -> None:
    """Print ``lines`` to stdout; each becomes one line, whatever it holds.

    :raises BrokenPipeError: the reader of the output has ended.
    :raises CannotPrint: another error of the output.

    It and the next four functions are the only ones that print.
    """
    _write(map(printable, lines), sys.stdout)


def complain(*lines: str) -> None:
    """Print ``lines`` to stderr; each becomes one line, whatever it holds.

    It never raises: there is nobody else to tell.
    """
    with suppress(OSError):
        _write(map(printable, lines), sys.stderr)


def say_whole(text: str) -> None:
    """Print a text of several lines, of which none is cut, such as a document, to stdout."""
    _write((printable(line, len(line) * _LONGEST_ESCAPE) for line in text.split("\n")), sys.stdout)


def ask(question: str) -> str:
    """Print a question to stderr, where it disturbs no document, and return the line typed."""
    if sys.stderr is not None:
        sys.stderr.write(_encodable(f"{printable(question)} ", sys.stderr))
        sys.stderr.flush()
    return sys.stdin.readline()


def clear() -> None:
    """Clear the terminal that stdout is."""
    sys.stdout.write("\x1b[H\x1b[2J")  # ECMA-48: cursor home, erase all


def _write(lines: Iterable[str], stream: TextIO | None) -> None:
    if stream is None:  # it was closed when this process began
        return
    try:
        for line in lines:
            stream.write(_encodable(line, stream) + "\n")
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as why:
        raise CannotPrint(why.errno, why.strerror) from why


def _encodable(text: str, stream: TextIO) -> str:
    """``text`` with escapes for the characters that the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def printable_json(text: str) -> str:
    r"""A JSON document as it was written, fit for a terminal, and still the same document.

    What is no printable character can stand in strings only, and becomes ``\u...`` there. Nothing
    is cut: the text may go into a file.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else _json_escape(each)
        for each in text.replace("\r\n", "\n")
    )


def _json_escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if character < "\x80" else json.dumps(character)[1:-1]


def as_json(document: Any, indent: int | None = None) -> str:
    """``document`` as JSON in ASCII; on one line, if no ``indent`` is given.

    It is JSON for every reader: a number that JSON cannot write (NaN, infinities) becomes null,
    and an object of Python's its text.
    """
    options: dict[str, Any] = {"indent": indent, "default": str, "allow_nan": False}
    try:
        text = json.dumps(document, **options)
    except ValueError:
        text = json.dumps(_without_infinities(document), **options)
    return text.replace("\x7f", "\\u007f")  # of ASCII, the one that json leaves as it is


def _without_infinities(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_infinities(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(each) for each in value]
    return value
