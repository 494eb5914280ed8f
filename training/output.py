"""The folder that a command writes into: whether it takes files is asked before anything that takes long."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def require_writable(folder: Path, other: str = "output") -> None:
    """Raises OSError where a folder cannot be made or takes no files. Nothing is left behind; of several processes the
    first one asks.

    ``other``: what to choose another of, as a setting or option is called.
    """
    if int(os.environ.get("RANK", 0)):
        return
    there = existing(folder)
    probe = there / f".{uuid.uuid4().hex}.tmp"  # a name of its own, since other commands may ask at the same time
    try:
        if there == folder:
            probe.touch()
            probe.unlink(missing_ok=True)
        else:  # some places take folders and no files, such as the root of a drive
            probe.mkdir()
            probe.rmdir()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(f"Nothing can be written into {folder} ({reason}): choose another {other}.") from None


def existing(folder: Path) -> Path:
    """The folder, or the nearest one around it that is there: of its disk it will be.

    A link counts by itself, since no folder can be made in the place of one that leads nowhere.
    """
    return next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
