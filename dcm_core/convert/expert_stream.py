"""Writing an expert file layer by layer, so that no more than one layer has to be in memory as the file has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ..errors import ExpertFileError
from ..expert.file import all_finite, content_digest, header_of
from ..expert.layers import Expert, Layer
from ..expert.tensor_names import to_tensors
from ..files.format import TensorInfo, tensor_bytes, tensor_size
from ..files.stream import LazyTensors, TensorWriter, stream_tensors
from .backbone import dtype_name
from .progress import Progress

_DIGEST_ROOM = 200


class ExpertWriter:
    """Takes an expert's layers one at a time, in any order; ``metadata`` may be added to until the end."""

    def __init__(self, writer: TensorWriter, planned: Expert, compact: bool) -> None:
        self._writer, self._planned, self._compact = writer, planned, compact
        self.metadata = writer.metadata

    def put_layer(self, name: str, layer: Layer) -> None:
        """Write a layer. Raises ExpertFileError for NaN or Inf in it."""
        self._put(Expert(self._planned.metadata, {name: layer}))

    def put_parameter(self, name: str, difference: Tensor) -> None:
        """Write the difference of a bare Parameter. Raises as ``put_layer``."""
        self._put(Expert(self._planned.metadata, {}, {name: difference}))

    def _put(self, part: Expert) -> None:
        for key, tensor in to_tensors(part, self._compact).items():
            if not all_finite(tensor):
                raise ExpertFileError(f"NaN or Inf in {key}: take another checkpoint, or export in bf16 or fp32")
            self._writer.put(key, tensor_bytes(tensor))


@contextmanager
def stream_expert(
    path: str | os.PathLike, planned: Expert, compact: bool = False, room: int = 0
) -> Iterator[ExpertWriter]:
    """Yield a writer for an expert file; the block has to put every layer of ``planned``, whose numbers do not count.

    The file is the one ``save_expert`` writes, but for spaces at the end of its header. ``room``: bytes that the
    metadata may grow by in the block. Raises as ``stream_tensors``.
    """
    outline = to_tensors(planned.map(lambda tensor: tensor.to("meta")), compact)
    infos = {key: TensorInfo(dtype_name(tensor), tuple(tensor.shape)) for key, tensor in sorted(outline.items())}
    progress = Progress(os.path.basename(path), sum(map(tensor_size, infos.values())))
    with stream_tensors(path, infos, header_of(planned), room + _DIGEST_ROOM, progress) as writer:
        yield ExpertWriter(writer, planned, compact)
        writer.metadata["dcm.digest"] = content_digest(writer.metadata, LazyTensors(infos, writer.read))
    progress.finish()


def save_in_parts(path: str | os.PathLike, expert: Expert, compact: bool = False) -> None:
    """As ``save_expert``, without a second copy of the expert in the form the file has."""
    with stream_expert(path, expert, compact) as writer:
        for name, layer in expert.layers.items():
            writer.put_layer(name, layer)
        for name, difference in expert.parameters.items():
            writer.put_parameter(name, difference)
