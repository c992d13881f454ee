"""The command line as Go's package flag reads it, for any table of flags.

* ``-flag`` and ``--flag``; ``-flag=value`` and ``-flag value``. The next word is the value, even if
  it begins with a dash. argparse would take such a word for a flag, and the ``--`` in ``-flag=--``
  for a separator, so it only prints the help here.
* A boolean stands alone or has ``=true`` or ``=false``; the next word is never its value.
* No abbreviations, and unlike upstream's, no words that belong to no flag.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flannel.document import shown
from flannel.errors import BadOption
from flannel.printable import say


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A row of the table.

    :ivar parse: text to value; raises ValueError with a phrase for the mistake.
    :ivar default: upstream's, as one would type it.
    :ivar repeatable: every occurrence counts, in order; otherwise the last one does.
    :ivar secret: no part of the value may be shown.
    :ivar has_variable: whether an environment variable can stand in for the flag.
    :ivar no_effect: why the flag, accepted for compatibility, does nothing in this version.
    :ivar refused: why any value but the default is refused.
    """

    name: str
    parse: Callable[[str], object]
    default: str = ""
    metavar: str
    help: str
    repeatable: bool = False
    secret: bool = False
    has_variable: bool = True
    no_effect: str = ""
    refused: str = ""

    @property
    def variable(self) -> str:
        """The name of its environment variable; empty if there is none."""
        return "FLANNELD_" + self.name.upper().replace("-", "_") if self.has_variable else ""

    def value(self, texts: Sequence[str], source: str = "") -> object:
        """The value of the flag when given as ``texts``: a tuple if it is repeatable.

        :param source: the flag or variable that an error names.
        :raises BadOption: one of them is wrong, even if a later one would count.
        """
        try:
            if self.repeatable:
                return tuple(self.parse(text) for text in texts if text)
            return [self.parse(text) for text in texts][-1]
        except ValueError as why:
            raise BadOption(f"cannot use {source}: {why}") from None


def boolean(text: str) -> bool:
    """As Go's strconv.ParseBool; a flag with this as its `Flag.parse` can stand alone."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"{shown(text)} is neither true nor false")


def split(argv: Sequence[str], flags: Mapping[str, Flag]) -> dict[str, list[str]]:
    """The texts that ``argv`` gives to each flag, in order.

    :param flags: by name.
    :raises BadOption: a word that is no flag and no value of one.
    :raises SystemExit: with status 0, once the help is printed.
    """
    given: dict[str, list[str]] = {}
    last: Flag | None = None
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or word in ("-", "--"):
            raise BadOption(_stray(word, last))
        name, equals, text = word[2 if word.startswith("--") else 1 :].partition("=")
        if name in ("h", "help"):
            say(*usage(flags.values()).splitlines())
            raise SystemExit(0)
        if name not in flags:
            unknown = shown(word.partition("=")[0])
            raise BadOption(f"cannot use {unknown}: there is no such flag, -help names them all")
        last = flags[name]
        if not equals and last.parse is boolean:
            text = "true"
        elif not equals:
            following = next(words, None)
            if following is None:
                raise BadOption(f"cannot use -{name}: it needs a value")
            text = following
        given.setdefault(name, []).append(text)
    return given


def _stray(word: str, last: Flag | None) -> str:
    if last is None:
        return f"cannot use {shown(word)}: it is not a flag"
    # This may be the rest of a secret that has a blank in it and was not quoted.
    what = "a word" if last.secret else shown(word)
    hint = f"; write -{last.name}=true or =false" if last.parse is boolean else ""
    return f"cannot use {what} after -{last.name}: it belongs to no flag{hint}"


def usage(flags: Iterable[Flag]) -> str:
    """The answer to ``-help``, as wide as the terminal."""
    parser = argparse.ArgumentParser(
        prog="flanneld",
        usage="flanneld [-FLAG=VALUE | -FLAG VALUE]...",
        description="Lease a subnet of the overlay network and carry packets to the other hosts. "
        "A flag beats the variable that is named after it. A BOOL is never a word of its own: "
        "-ip-masq or -ip-masq=true.",
        add_help=False,
    )
    used = parser.add_argument_group("flags")
    no_effect = parser.add_argument_group("accepted, without effect in this version")
    refused = parser.add_argument_group("refused, unless they have the default")
    for flag in flags:
        notes = [flag.variable, f"default {flag.default}" if flag.default else ""]
        text = f"{flag.help} ({', '.join(filter(None, notes))})".replace("%", "%%")
        group = refused if flag.refused else no_effect if flag.no_effect else used
        group.add_argument(f"-{flag.name}", metavar=flag.metavar, help=text)
    return parser.format_help()
