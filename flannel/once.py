"""Once: logs a message once, although its subject is found again at every look."""

import logging
from collections.abc import Callable
from time import monotonic

_NAMED = 100
"""Messages that may be logged in a row..."""
_PAUSE = 6.0
"""...and the seconds after which one more may be logged. The others are counted."""
_SUMMARY_PAUSE = 60.0
"""Seconds between two lines that give the number of counted messages."""
_MAX_REMEMBERED = 100_000
"""Subjects, at most: a store full of garbage must not fill our memory."""
_MAX_TEXTS = 1000
"""Subjects whose message can be read back."""
_LONG = 100
"""Characters of a subject; of a longer one only the hash is kept."""


class Once:
    """Remembers the last message of each subject, and logs a message only if it differs.

    once.warn("10.5.1.0-24", "skipping ...")      # logged
    once.warn("10.5.1.0-24", "skipping ...")      # not again
    once.forget("10.5.1.0-24")                    # the fault is over: the next one is logged
    once.summarize()                              # "and 49,900 more, the last: ...", if so many

    However many subjects there are, about 10 lines a minute are logged in the long run.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._clock = clock
        self._about: dict[object, int] = {}
        """Hashes of the last messages, by subject."""
        self._texts: dict[object, str] = {}
        self._left = float(_NAMED)
        self._left_at = clock()
        self._unnamed = 0
        self._unnamed_since = self._summarized_at = float("-inf")
        self._last = ""
        self._is_full = False

    def __bool__(self) -> bool:
        """Whether a message was logged and not forgotten."""
        return bool(self._about)

    def warn(self, subject: object, message: str, *, about: object = None) -> None:
        """Log ``message`` as a warning unless it was the last message of ``subject``.

        :param about: compared instead of the message, if its wording varies.
        """
        self._report(logging.WARNING, subject, message, message if about is None else about)

    def info(self, subject: object, message: str) -> None:
        """The same for a message that is not a warning."""
        self._report(logging.INFO, subject, message, message)

    def _report(self, level: int, subject: object, message: str, about: object) -> None:
        key, value = _key(subject), hash(about)
        if self._about.get(key) == value:
            return
        if key not in self._about and len(self._about) >= _MAX_REMEMBERED:
            # It is unknown whether this subject is new; counting would count it again at each look.
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
        if now >= self._unnamed_since + _SUMMARY_PAUSE:  # no caller has summarized
            self.summarize()

    def summarize(self) -> None:
        """Log the number of messages that were counted instead of being logged, if any.

        Call it after a look at all subjects. It logs at most one line a minute.
        """
        now = self._clock()
        if self._unnamed and now >= self._summarized_at + _SUMMARY_PAUSE:
            self._log.warning("and %d more such messages; the last: %s", self._unnamed, self._last)
            self._summarized_at = now
            self._unnamed = 0

    def message_of(self, subject: object) -> str:
        """The last message of ``subject`` that still holds; "" if there is none."""
        return self._texts.get(_key(subject), "")

    def forget(self, subject: object) -> bool:
        """Forget ``subject``, whose fault is over; return whether a message was logged for it."""
        if not self._about:
            return False
        key = _key(subject)
        self._texts.pop(key, None)
        found = self._about.pop(key, None) is not None
        if len(self._about) < _MAX_REMEMBERED:
            self._is_full = False
        return found


def _key(subject: object) -> object:
    # A name from the store may be longer than all other subjects together.
    return hash(subject) if isinstance(subject, str) and len(subject) > _LONG else subject
