"""The folder that a command writes into: before anything that takes long it is asked whether it takes files, and held
against a second command."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_PATIENCE = 6  # seconds: processes that decode look every 5 whether the one that started them is there


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


@contextmanager
def alone(folder: Path, other: str = "output", name: str = ".lock") -> Iterator[None]:
    """Inside this context no second command writes into a folder: each would take the other's files for its own.

    Of several processes the first one holds it, and it is free when that one has ended, whatever ended it. Where the
    disk knows no locks there is none. ``other``: as above; ``name``: of the file that is locked, which stays, but for a
    folder that was made for it and into which nothing was written. Raises OSError where another command holds it.
    """
    if int(os.environ.get("RANK", 0)):
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        raise OSError(
            f"Another command is writing into {folder} just now: let it end, or choose another {other}."
        ) from None
    except (NotImplementedError, OSError):
        pass
    try:
        yield
    finally:
        lock.release()
        if made and folder.is_dir() and os.listdir(folder) == [name]:
            (folder / name).unlink()
            for each in made:
                with suppress(OSError):  # something was put beside it
                    each.rmdir()


def existing(folder: Path) -> Path:
    """The folder, or the nearest one around it that is there: of its disk it will be.

    A link counts by itself, since no folder can be made in the place of one that leads nowhere.
    """
    return next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
