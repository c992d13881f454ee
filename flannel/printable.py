"""Makes foreign text safe for a terminal, a log line, and JSON.

A lease, the name of a link or the message of a program can contain characters that control a
terminal (ECMA-48), start a new line or change the direction of writing, and lone surrogates, which
no encoding has. All output of flanneld and `flannel` passes through this module:

    printable(text)         text on one line, cut
    printable_json(text)    a JSON document with its own formatting, not cut
    as_json(document)       JSON of any document
    say(line, ...)          prints lines to stdout; complain() to stderr
"""

import json
import math
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO

LONGEST = 1500
"""The most characters of a line. The longest real ones, findings with an error for each endpoint of
etcd, have half of that."""

_CUT = "..."
_LONGEST_ESCAPE = len(r"\U0001f600")


class CannotPrint(OSError):
    """stdout cannot be written, for example because the disk is full."""


def printable(text: str, longest: int = LONGEST) -> str:
    r"""``text`` on one line; other than printable characters become escapes such as ``\x1b``.

    :param longest: the most characters of the result; a longer one is cut and marked as cut.
    """
    text = text[: longest + 1]
    if not text.isprintable():
        text = "".join(each if each.isprintable() else _escape(each) for each in text)
    return text if len(text) <= longest else text[: longest - len(_CUT)] + _CUT


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def say(*lines: str) -> None:
    """Print ``lines`` to stdout; each becomes exactly one line.

    :raises BrokenPipeError: the reader of the output has ended.
    :raises CannotPrint: another error of the output.

    Only this and the next four functions print.
    """
    _write(map(printable, lines), sys.stdout)


def complain(*lines: str) -> None:
    """Print ``lines`` to stderr; each becomes exactly one line.

    It never raises, as there is no other place for an error.
    """
    with suppress(OSError):
        _write(map(printable, lines), sys.stderr)


def say_whole(text: str) -> None:
    """Print a text of several lines, such as a document, to stdout, without cutting any line."""
    _write((printable(line, len(line) * _LONGEST_ESCAPE) for line in text.split("\n")), sys.stdout)


def ask(question: str) -> str:
    """Print a question to stderr, so that stdout has only the document; return the typed line.

    "" at the end of the input, and if there is none.
    """
    if sys.stderr is not None:
        sys.stderr.write(_encodable(f"{printable(question)} ", sys.stderr))
        sys.stderr.flush()
    try:
        return sys.stdin.readline() if sys.stdin is not None else ""
    except (OSError, ValueError):  # it is a directory; not UTF-8
        return ""


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
    r"""A JSON document with its own formatting, safe for a terminal, and still the same document.

    Characters that are not printable can only be in strings, and become ``\u...`` there. Nothing
    is cut, as the text may go into a file.
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

    Every JSON reader can parse it: a number that JSON lacks (NaN, infinities) becomes null, and a
    Python object becomes its text.
    """
    options: dict[str, Any] = {"indent": indent, "default": str, "allow_nan": False}
    try:
        text = json.dumps(document, **options)
    except ValueError:
        text = json.dumps(_without_infinities(document), **options)
    return text.replace(
        "\x7f", "\\u007f"
    )  # the only control character of ASCII that json does not escape


def _without_infinities(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_infinities(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(each) for each in value]
    return value
