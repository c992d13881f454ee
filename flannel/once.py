"""Once: a message is logged once, although what it is about is found again at every look."""

import logging
from collections.abc import Callable
from time import monotonic

_NAMED = 100
"""Messages that are logged one by one in a row..."""
_PAUSE = 6.0
"""...and one more for each pause of so many seconds. The others are counted."""
_SUMMARY_PAUSE = 60.0
"""Seconds between two lines that say how many were counted."""
_MAX_REMEMBERED = 100_000
"""Subjects; an upper bound only: a store full of garbage must not fill our memory as well."""
_MAX_TEXTS = 1000
"""Subjects whose message can be read back."""
_LONG = 100
"""Characters of a subject; of longer ones only the hash is kept."""


class Once:
    """Remembers what was logged of each subject, and logs only what differs.

    once.warn("10.5.1.0-24", "skipping ...")      # logged
    once.warn("10.5.1.0-24", "skipping ...")      # not again
    once.forget("10.5.1.0-24")                    # it is over: the next time is news
    once.summarize()                              # "and 49,900 more, the last: ...", if so many

    However many subjects there are, some 10 lines a minute are logged in the long run.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._clock = clock
        self._about: dict[object, int] = {}
        """Hashes of what was logged last, by subject."""
        self._texts: dict[object, str] = {}
        self._left = float(_NAMED)
        self._left_at = clock()
        self._unnamed = 0
        self._unnamed_since = self._summarized_at = float("-inf")
        self._last = ""
        self._is_full = False

    def __bool__(self) -> bool:
        """Whether anything was logged and not forgotten."""
        return bool(self._about)

    def warn(self, subject: object, message: str, *, about: object = None) -> None:
        """Log ``message`` as a warning unless it is what was last logged of ``subject``.

        :param about: what to compare instead of the message, where its wording varies.
        """
        self._report(logging.WARNING, subject, message, message if about is None else about)

    def info(self, subject: object, message: str) -> None:
        """The same for what is no trouble."""
        self._report(logging.INFO, subject, message, message)

    def _report(self, level: int, subject: object, message: str, about: object) -> None:
        key, value = _key(subject), hash(about)
        if self._about.get(key) == value:
            return
        if key not in self._about and len(self._about) >= _MAX_REMEMBERED:
            # Whether this one was met before is unknown: counting it would count the same ones at
            # every look.
            if not self._is_full:
                self._is_full = True
                self._log.warning(
                    "more than %d such messages; the last: %s", _MAX_REMEMBERED, message
                )
            return
        self._about[key] = value
        if key in self._texts or len(self._texts) < _MAX_TEXTS:
            self._texts[key] = message
        if self._may_log():
            self._log.log(level, "%s", message)
        else:
            self._count(message)

    def _may_log(self) -> bool:
        now = self._clock()
        self._left = min(_NAMED, self._left + (now - self._left_at) / _PAUSE)
        self._left_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _count(self, message: str) -> None:
        now = self._clock()
        if not self._unnamed:
            self._unnamed_since = now
        self._unnamed += 1
        self._last = message
        if now >= self._unnamed_since + _SUMMARY_PAUSE:  # nobody else calls it
            self.summarize()

    def summarize(self) -> None:
        """Log how many messages were counted instead of being logged, if any were.

        Call it after a look at everything. It logs a line a minute at most.
        """
        now = self._clock()
        if self._unnamed and now >= self._summarized_at + _SUMMARY_PAUSE:
            self._log.warning("and %d more such messages; the last: %s", self._unnamed, self._last)
            self._summarized_at = now
            self._unnamed = 0

    def message_of(self, subject: object) -> str:
        """The message that was logged last of ``subject`` and holds; "" if none does."""
        return self._texts.get(_key(subject), "")

    def forget(self, subject: object) -> bool:
        """What was logged is over; return whether anything had been."""
        if not self._about:
            return False
        key = _key(subject)
        self._texts.pop(key, None)
        found = self._about.pop(key, None) is not None
        if len(self._about) < _MAX_REMEMBERED:
            self._is_full = False
        return found


def _key(subject: object) -> object:
    # A name from the store may be as long as all that is kept of the others.
    return hash(subject) if isinstance(subject, str) and len(subject) > _LONG else subject
