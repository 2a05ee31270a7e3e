"""Lines for people on standard error that no log can flood."""

import time
from collections.abc import Callable

_REMEMBERED = 1000


class Notes:
    """Says each thing once, and few a minute.

    Args:
        tell: takes a line.
        most: lines a minute; those above are counted, and the next line says how many there were.
        clock: seconds that never go back.
    """

    def __init__(
        self, tell: Callable[[str], None] = print, most: int = 10, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._most, self._clock = tell, most, clock
        self._said: dict[str, None] = {}
        self._began, self._count, self._missed = clock(), 0, 0

    def __call__(self, text: str) -> None:
        """Say it, unless it was said."""
        if text in self._said:
            return
        self._said[text] = None
        if len(self._said) > _REMEMBERED:
            del self._said[next(iter(self._said))]
        now = self._clock()
        if now - self._began >= 60:
            self._began, self._count = now, 0
        self._count += 1
        if self._count > self._most:
            self._missed += 1
            return
        more = f" ({self._missed:,} other notes were left out)" if self._missed else ""
        self._missed = 0
        self._tell(text + more)
