"""How far a conversion is: one line on a terminal, a few lines in a log."""

import sys
import time
from typing import TextIO

_REDRAW_SECONDS = 0.2
_LOG_SECONDS = 10.0


class Progress:
    """Counts bytes towards ``total``; call it with each number of bytes done.

    On a terminal one line is drawn over and over, otherwise one is printed every ten seconds.
    """

    def __init__(self, label: str, total: int, out: TextIO | None = None) -> None:
        self.label, self.total, self.done = label, max(total, 1), 0
        self._out = out or sys.stderr
        self._interval = _REDRAW_SECONDS if self._out.isatty() else _LOG_SECONDS
        self._started = self._shown = time.monotonic()

    def __call__(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        # The last line is finish's, when the file is really there.
        if now - self._shown >= self._interval and self.done < self.total:
            self._shown = now
            self._show(f"{self.left():.0f} s left", "\r" if self._out.isatty() else "\n")

    def left(self) -> float:
        """Seconds the rest will take at the speed so far."""
        return (time.monotonic() - self._started) * (self.total - self.done) / max(self.done, 1)

    def finish(self) -> None:
        """Print the last line."""
        self._show(f"{time.monotonic() - self._started:.1f} s", "\n")

    def _show(self, remark: str, end: str) -> None:
        share = 100 * self.done // self.total
        line = f"{self.label}: {share:3d}%  {size_text(self.done)} of {size_text(self.total)}, {remark}"
        print(f"{line:78}" if self._out.isatty() else line, end=end, file=self._out, flush=True)


def size_text(size: int) -> str:
    """A number of bytes for people: ``26.10 GB``, ``3.4 MB``."""
    return f"{size / 1e9:.2f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB"
