"""The speed LoRA that a file is, from its header and its name; its tensors are not read."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ExpertFileError
from ..files.format import read_header
from ..files.shards import is_safetensors
from ..schedule.speed_loras import SpeedLora, recognise


def speed_lora_of(path: str | os.PathLike) -> SpeedLora | None:
    """The speed LoRA that this file is; None for a file that nothing is known of.

    Of a file that is no safetensors file, only the name is asked. Raises ExpertFileError, naming the file, for a broken
    one, for a passport that no run could follow, and for a name that fits several rows of the table; and OSError.
    """
    path = Path(path)
    header = read_header(path).metadata if is_safetensors(path.name) else {}
    try:
        return recognise(header, f"{path.parent.name}/{path.name}")
    except ValueError as error:
        raise ExpertFileError(f"{path}: {error}") from error
