"""Safetensors files larger than memory: tensors read and written one at a time.

A row range of a tensor (along its first dimension) is one byte range of its file, so whatever only renames,
splits or concatenates tensors by rows passes as bytes through one small buffer.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedRandom, FileIO
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ExpertFileError, shortened
from .atomic import atomic_write
from .format import TensorInfo, plan_header, read_header, tensor_bytes, tensor_size

# Small enough to stay in the processor's cache between reading and writing.
_CHUNK = 1 << 20
# In the kernel nothing passes through memory of ours: large steps, but an interrupt is answered between two.
_KERNEL_CHUNK = 64 << 20
# Between two file systems, on one that cannot, in an older kernel.
_NOT_IN_KERNEL = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)
_TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
          "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # fmt: skip


class ByteRange(NamedTuple):
    """Bytes ``start`` to ``stop`` of an open, unbuffered file."""

    file: FileIO
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class TensorDigest:
    """SHA-256 over named tensors in the order in which they are added: name, dtype, shape and bytes."""

    def __init__(self, before: bytes = b"") -> None:
        self._digest = hashlib.sha256(before)

    def add(self, name: str, tensor: Tensor, memory: memoryview | None = None) -> None:
        """``memory``: the tensor's bytes, where they are at hand."""
        self._digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        self._digest.update(tensor_bytes(tensor) if memory is None else memory)

    def add_all(self, tensors: Mapping[str, Tensor]) -> None:
        """In the order of their names."""
        for name in sorted(tensors):
            self.add(name, tensors[name])

    def text(self) -> str:
        return self._digest.hexdigest()


class TensorSource:
    """The tensors of one or several safetensors files, of which only the headers are kept in memory.

    Use as a context manager; the files stay open until it is left. ``infos`` and ``metadata`` are those of all
    files together, in file order, and ``headers`` the metadata of each. Raises what ``read_header`` raises, and
    ExpertFileError for a tensor that stands in two files.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]) -> None:
        self.paths = [Path(path) for path in paths]
        self.infos: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        self.headers: list[dict[str, str]] = []
        self._where: dict[str, tuple[int, int, int]] = {}
        for number, path in enumerate(self.paths):
            header = read_header(path)
            if doubled := header.tensors.keys() & self.infos.keys():
                raise ExpertFileError(f"{path} repeats tensors of another part: {shortened(sorted(doubled))}")
            for name, (start, stop) in sorted(header.spans.items(), key=itemgetter(1)):
                self.infos[name] = header.tensors[name]
                self._where[name] = (number, start, stop)
            self.metadata |= header.metadata
            self.headers.append(header.metadata)
        self._files: list[FileIO] = []
        self._closing = ExitStack()

    def __enter__(self) -> TensorSource:
        # Unbuffered: every read here is a large one into memory that is already there.
        self._files = [self._closing.enter_context(open(path, "rb", buffering=0)) for path in self.paths]
        return self

    def __exit__(self, *_) -> None:
        self._closing.close()

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(stop - start for _, start, stop in self._where.values())

    def position(self, name: str) -> tuple[int, int]:
        """File number and first byte: sorting by it makes reading sequential."""
        return self._where[name][:2]

    def read(self, name: str, digest: TensorDigest | None = None, memory: Tensor | None = None) -> Tensor:
        """One whole tensor, in memory of its own or the bytes given, added to ``digest`` if there is one.

        Raises ExpertFileError for a dtype PyTorch does not have.
        """
        info = self.infos[name]
        if info.dtype not in _TORCH:
            raise ExpertFileError(f"{name} has dtype {info.dtype}, which cannot be computed with")
        number, start, stop = self._where[name]
        memory = torch.empty(stop - start, dtype=torch.uint8) if memory is None else memory[: stop - start]
        self._fill(number, start, memory.numpy().data)
        tensor = _as_tensor(memory, info)
        if digest is not None:
            digest.add(name, tensor, memory.numpy().data)
        return tensor

    def rows(self, name: str, start: int | None = None, stop: int | None = None) -> ByteRange:
        """Where the bytes of rows ``start`` to ``stop`` of a tensor are, for ``TensorWriter.put``."""
        number, first, end = self._where[name]
        if start is not None or stop is not None:
            rows = self.infos[name].shape[0]
            row = (end - first) // rows
            low, high, _ = slice(start, stop).indices(rows)
            first, end = first + low * row, first + high * row
        return ByteRange(self._files[number], first, end)

    def ranges(self, names: Iterable[str]) -> dict[str, ByteRange]:
        """The bytes of these tensors, in file order."""
        ordered = sorted(names, key=self._where.__getitem__)
        return {name: ByteRange(self._files[self._where[name][0]], *self._where[name][1:]) for name in ordered}

    def _fill(self, number: int, position: int, memory: memoryview) -> None:
        file = self._files[number]
        file.seek(position)
        while memory:
            count = file.readinto(memory)
            if not count:
                raise _shortened(self.paths[number])
            memory = memory[count:]


class LazyTensors(Mapping[str, Tensor]):
    """Named tensors that are read each time they are asked for."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> Tensor:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class TensorWriter:
    """Fills the places of the tensors in a file whose header is planned, in whatever order they come.

    ``progress`` is called with the number of bytes each time some are written.
    """

    def __init__(
        self,
        file: BufferedRandom,
        infos: Mapping[str, TensorInfo],
        metadata: Mapping[str, str],
        room: int = 0,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._file, self._infos, self.metadata, self._progress = file, infos, dict(metadata), progress
        header, self._spans = plan_header(infos, metadata, room)
        self._header_size = len(header)
        file.write(header)
        self._pending = dict(self._spans)

    def put(self, name: str, *pieces: ByteRange | memoryview) -> None:
        """Write one tensor from its bytes, or from ranges of other files.

        Raises ValueError if they are more or fewer bytes than the tensor was planned with.
        """
        position, stop = self._pending.pop(name)
        sizes = [piece.size if isinstance(piece, ByteRange) else len(piece) for piece in pieces]
        if sum(sizes) != stop - position:
            raise ValueError(f"{name} was planned with {stop - position} bytes, but has {sum(sizes)}")
        for piece, size in zip(pieces, sizes, strict=True):
            if self._file.tell() != position:
                self._file.seek(position)
            for count in _copied(piece, self._file) if isinstance(piece, ByteRange) else [self._file.write(piece)]:
                self._progress(count)
            position += size

    def read(self, name: str) -> Tensor:
        """A tensor that was written, read back from the file."""
        start, stop = self._spans[name]
        memory = torch.empty(stop - start, dtype=torch.uint8)
        self._file.seek(start)
        self._file.readinto(memory.numpy().data)
        return _as_tensor(memory, self._infos[name])

    def finish(self) -> None:
        """Bring the header to the final ``metadata``. Raises ValueError for a tensor that was never written."""
        if self._pending:
            raise ValueError(f"planned, but not written: {shortened(self._pending)}")
        header, _ = plan_header(self._infos, self.metadata)
        header, spans = plan_header(self._infos, self.metadata, self._header_size - len(header))
        if spans != self._spans:
            raise ValueError("the metadata outgrew the room left for it")
        self._file.seek(0)
        self._file.write(header)


def _as_tensor(memory: Tensor, info: TensorInfo) -> Tensor:
    return memory.view(_TORCH[info.dtype]).reshape(info.shape)


def _copied(source: ByteRange, target: BufferedRandom) -> Iterator[int]:
    """Copy a range to where ``target`` stands and yield the bytes of each step."""
    start = yield from _copied_in_kernel(source, target)
    source.file.seek(start)
    buffer = memoryview(bytearray(min(_CHUNK, source.stop - start)))
    while start < source.stop:
        count = source.file.readinto(buffer[: source.stop - start])
        if not count:
            raise _shortened(source.file.name)
        target.write(buffer[:count])
        start += count
        yield count


def _copied_in_kernel(source: ByteRange, target: BufferedRandom) -> Iterator[int]:
    """As far as the system copies between these two files by itself: returns where the rest begins."""
    start, position = source.start, target.tell()
    target.flush()
    while hasattr(os, "copy_file_range") and start < source.stop:
        step = min(_KERNEL_CHUNK, source.stop - start)
        try:
            count = os.copy_file_range(source.file.fileno(), target.fileno(), step, start, position)
        except OSError as error:
            if error.errno not in _NOT_IN_KERNEL:
                raise
            break
        if not count:
            break
        start, position = start + count, position + count
        yield count
    target.seek(position)
    return start


def _shortened(path: str | os.PathLike) -> ExpertFileError:
    return ExpertFileError(f"{path} became shorter while it was read. Try again.")


@contextmanager
def stream_tensors(
    path: str | os.PathLike,
    infos: Mapping[str, TensorInfo],
    metadata: Mapping[str, str],
    room: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> Iterator[TensorWriter]:
    """Yield a writer for a file of these tensors, which takes the place of ``path`` when the block ends well.

    The writer's ``metadata`` may be changed in the block; ``room`` is how many bytes it may grow by. Raises
    OSError before anything is written if the disk has no room for the whole file, and as ``atomic_write``.
    """
    require_space(path, sum(map(tensor_size, infos.values())))
    with atomic_write(path) as file:
        writer = TensorWriter(file, infos, metadata, room, progress)
        yield writer
        writer.finish()


def require_space(path: str | os.PathLike, size: int) -> None:
    """Raise OSError that says how much is missing unless ``size`` bytes fit beside what is on the disk."""
    folder = Path(path).absolute().parent
    free = shutil.disk_usage(folder).free if folder.is_dir() else size
    if free < size:
        raise OSError(
            errno.ENOSPC,
            f"the file needs {size / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free there: free some space "
            "or choose another folder",
            str(path),
        )
