"""Writing a file so that the former one survives whatever goes wrong."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

_UNWRITABLE = "the folder or file is not writable: change its permissions or choose another folder"
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up: free some space or choose another folder",
    errno.EFBIG: "the file would be larger than this system allows: choose another folder",
    errno.EACCES: _UNWRITABLE,
    errno.EPERM: _UNWRITABLE,
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOENT: "its folder does not exist: create it first",
    errno.ENOTDIR: "its folder is a file: choose another folder",
    errno.EISDIR: "a folder of that name is in the way: choose another name",
}


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BufferedRandom]:
    """Yield a binary file that takes the place of ``path`` in one step when the block ends without an error.

    Whatever the block raises, a former ``path`` stays as it was and nothing is left beside it. The file
    gets the mode the umask asks for. Raises an OSError of the fitting kind that names ``path`` and the
    remedy.
    """
    path = Path(path)
    # In the same folder, since only within one file system a rename is one step.
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise refused(path, error, "; the former file is unchanged" if path.is_file() else "") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def refused(path: Path, error: BaseException, kept: str = "") -> OSError:
    """An OSError of the fitting kind that names what could not be written, and the remedy.

    ``kept``: what is still as it was.
    """
    number = getattr(error, "errno", None)
    remedy = _REMEDIES.get(number or 0, getattr(error, "strerror", None) or str(error))
    return OSError(number or errno.EIO, f"could not write the file, {remedy}{kept}", str(path))
