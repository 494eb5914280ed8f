"""The folder that a command writes into: whether it takes files is asked before anything that takes long."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dcm_core.files.atomic import atomic_write

_PROBE = "writable"


def require_writable(folder: Path, other: str = "output") -> None:
    """Raises OSError where a folder cannot be made or takes no files. Nothing is left behind; of several processes the
    first one asks.

    ``other``: what to choose another of, as a setting or option is called.
    """
    if int(os.environ.get("RANK", 0)):
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / _PROBE):
            pass
        (folder / _PROBE).unlink()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(f"Nothing can be written into {folder} ({reason}): choose another {other}.") from None
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


def existing(folder: Path) -> Path:
    """The folder, or the nearest one around it that is there: of its disk it will be."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())
