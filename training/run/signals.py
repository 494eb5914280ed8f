"""How a run is asked to stop: SIGTERM, as job schedulers send it, or a file of the name ``stop`` in its folder."""

from __future__ import annotations

import signal
from pathlib import Path


class StopRequest:
    """Inside this context SIGTERM is a request, and a second one ends the process at once.

    The file is for whoever cannot send a signal, and is gone once it is obeyed.
    """

    def __init__(self, folder: Path):
        self.file = folder / "stop"
        self._signalled = False

    def __enter__(self) -> StopRequest:
        self._former = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._former)

    def made(self) -> bool:
        """Whether this process was asked to stop."""
        return self._signalled or self.file.exists()

    def obeyed(self) -> None:
        """The run has stopped: another one is not asked to."""
        self.file.unlink(missing_ok=True)

    def _note(self, *_) -> None:
        self._signalled = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
