"""Say a thing once: for conditions that are found again at every look."""

import logging

_MAX_REMEMBERED = 10_000
"""An upper bound only; a store full of rubbish must not fill our memory as well."""


class Once:
    """Remembers what was said of each subject, and logs only what differs.

    once.warn("10.5.1.0-24", "skipping ...")      # logged
    once.warn("10.5.1.0-24", "skipping ...")      # not again
    once.forget("10.5.1.0-24")                    # mended: next time is news
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[object, tuple[object, str]] = {}

    def __bool__(self) -> bool:
        """Whether anything is said and not forgotten."""
        return bool(self._said)

    def warn(self, subject: object, message: str, *, about: object = None) -> None:
        """Log ``message`` as a warning unless it is what was last said of ``subject``.

        :param about: what to compare instead of the message, where its wording varies.
        """
        self._say(logging.WARNING, subject, message, message if about is None else about)

    def info(self, subject: object, message: str) -> None:
        """The same for what is no trouble."""
        self._say(logging.INFO, subject, message, message)

    def _say(self, level: int, subject: object, message: str, about: object) -> None:
        said = self._said.get(subject)
        if said is not None and said[0] == about:
            return
        if len(self._said) >= _MAX_REMEMBERED:
            self._said.clear()
        self._said[subject] = about, message
        self._log.log(level, "%s", message)

    def told(self, subject: object) -> str:
        """What stands of ``subject``; "" if nothing does."""
        return self._said[subject][1] if subject in self._said else ""

    def forget(self, subject: object) -> bool:
        """The condition is over; return whether anything had been said."""
        return self._said.pop(subject, None) is not None
