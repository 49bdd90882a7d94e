"""How far a job is: on a terminal a line that overwrites itself, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time

NOW_AND_THEN = 60.0  # seconds between the lines of a log
OFTEN = 0.2  # and between the looks of a person


class Progress:
    """Of `total` pictures `done` were there before: rate and time left come from those that are added now."""

    def __init__(self, total: int, done: int):
        self.total, self.before = total, done
        self.watched = sys.stderr.isatty()
        self.start = self.last = time.monotonic()
        if self.watched:
            self.last -= OFTEN

    def tell(self, done: int, failed: int) -> None:
        """Say it, unless it has been said just now."""
        now = time.monotonic()
        if now - self.last >= (OFTEN if self.watched else NOW_AND_THEN):
            self.last = now
            text = self.text(done, failed, now - self.start)
            print(f"\r\033[K{text}" if self.watched else text, end="" if self.watched else "\n", file=sys.stderr)
            sys.stderr.flush()

    def clear(self) -> None:
        """Make the line free for something else."""
        if self.watched:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def text(self, done: int, failed: int, seconds: float) -> str:
        """`320 of 10000 pictures, 12.5 a second, 12 min 54 s left, 2 failed`"""
        said = f"{done} of {self.total} pictures"
        if (fresh := done - self.before) and seconds > 0:
            rate = fresh / seconds
            said += f", {rate:.3g} a second, {duration((self.total - done) / rate)} left"
        return said + (f", {failed} failed" if failed else "")


def duration(seconds: float) -> str:
    """`45 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`"""
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    rest = round(seconds)
    for (size, name), (smaller, next_name) in zip(units, units[1:], strict=False):
        if rest >= size:
            more = rest % size // smaller
            return f"{rest // size} {name}" + (f" {more} {next_name}" if more else "")
    return f"{rest} s"
