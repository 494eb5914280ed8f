"""Writing a file so that the former one survives whatever goes wrong."""

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces ``path`` in one step.

    The block writes the whole file and closes it. Whatever it raises, the temporary file is removed and a
    former ``path`` stays as it was. The new file gets the mode the umask asks for (safetensors alone writes
    0600). Raises an OSError that names ``path`` and the remedy when the folder is missing or not writable
    or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        # Made here, not by the block: an unwritable folder is noticed before the work, and the mode is the
        # umask's.
        mode = _touch(temporary)
        yield temporary
        os.chmod(temporary, mode)
        _flush(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _touch(path: Path) -> int:
    with open(path, "xb") as file:
        return os.fstat(file.fileno()).st_mode & 0o777


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _explained(error: Exception, path: Path) -> OSError:
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"os error (\d+)", str(error))):
        number = int(found.group(1))
    remedy = {
        errno.ENOSPC: "the disk is full: free some space or choose another folder",
        errno.EDQUOT: "your disk quota is used up: free some space or choose another folder",
        errno.EFBIG: "the file would be larger than this system allows: choose another folder",
        errno.EACCES: "the folder or file is not writable: change its permissions or choose another folder",
        errno.EPERM: "the folder or file is not writable: change its permissions or choose another folder",
        errno.EROFS: "the file system is read-only: choose another folder",
        errno.ENOENT: f"the folder {path.parent} does not exist: create it first",
        errno.ENOTDIR: f"{path.parent} is not a folder",
        errno.EISDIR: "a folder of that name is in the way",
    }.get(number, str(error))
    kept = "; the former file is unchanged" if path.is_file() else ""
    return OSError(number or errno.EIO, f"could not write the file, {remedy}{kept}", str(path))
