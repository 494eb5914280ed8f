"""Writing a schedule passport into a LoRA's file: the header is made anew, the tensors keep every bit."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..errors import ExpertFileError
from ..expert.file import content_digest, metadata_of
from ..expert.other_files import is_lora, what_it_is
from ..expert.tensor_names import is_expert
from ..files.format import Header, read_header
from ..files.stream import LazyTensors, TensorSource, stream_tensors
from ..schedule.passport import KEYS, Passport, levels, write_passport
from .progress import Progress


def stamp(path: str | os.PathLike, passport: Passport) -> bool:
    """Write the passport into the file, in place of any that it has; the file changes whole or stays as it was.

    True where it replaced a former one.

    Raises ExpertFileError for a file that is no LoRA or damaged, and for an expert whose own schedule says otherwise;
    OSError with the remedy where it is read-only or the disk is full.
    """
    path = Path(path).resolve()  # the rename would put a file in the place of a link
    header = read_header(path)
    _refuse_unsuitable(path, header, passport)
    kept = {key: value for key, value in header.metadata.items() if not key.startswith(KEYS)}
    progress = Progress(path.name, sum(stop - start for start, stop in header.spans.values()))
    with stream_tensors(path, header.tensors, kept | write_passport(passport), progress=progress) as writer:
        with TensorSource([path]) as source:  # closed before the new file takes its place, as Windows asks for
            for name, piece in source.ranges(source.infos).items():
                writer.put(name, piece)
        if "dcm.digest" in kept:
            writer.metadata["dcm.digest"] = content_digest(writer.metadata, LazyTensors(header.tensors, writer.read))
            if writer.metadata["dcm.digest"] != kept["dcm.digest"]:
                raise ExpertFileError(f"{path} is damaged: its content is not what was written. Download it again.")
    progress.finish()
    return kept.keys() != header.metadata.keys()


def _refuse_unsuitable(path: Path, header: Header, passport: Passport) -> None:
    expert = "dcm.expert" in header.metadata and is_expert(header.tensors)
    if not expert and not is_lora(header.tensors):
        raise ExpertFileError(
            f"{path} is no LoRA, and only those are asked for their noise levels. It looks like "
            f"{what_it_is(header.tensors, header.metadata)}"
        )
    if not path.stat().st_mode & 0o222:  # the rename would replace it all the same
        raise PermissionError(f"{path} is read-only: make it writable, or stamp a copy.")
    if expert:
        _refuse_contradiction(path, passport)


def _refuse_contradiction(path: Path, passport: Passport) -> None:
    expert = metadata_of(path)
    for steps in passport.sigmas:
        own = expert.schedule.sigmas(steps)
        trained = expert.trained_steps in (None, steps)
        if not trained or not torch.allclose(own, levels(passport, steps), rtol=1e-3, atol=1e-6):
            raise ExpertFileError(
                f"{path} is a {expert.expert} expert, whose own schedule gives other noise levels for {steps} steps: "
                f"{' '.join(f'{sigma:.4f}' for sigma in own[:-1].tolist())}. Take those, or leave it as it is."
            )
