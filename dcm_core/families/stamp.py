"""What a LoRA's header says of the backbone it was trained on, as trainers write it: too freely to refuse a file by.

Layers of two models may have the same names and sizes, Flux's and HunyuanVideo's for example: then nothing else tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_KEYS = ("ss_base_model_version", "ss_base_model", "modelspec.architecture")
# How trainers call what is of a family here, by its name, or of another model whose LoRAs fit one.
_CALLED = {
    "wan": r"(?<![a-z])wan(?![a-z])",
    "hunyuan_video": r"hunyuan[-_ ]?video|framepack|^hv(?![a-z])",
    "cogvideox": r"cogvideo",
    "shapes": r"^shapes(?![a-z])",
    "Flux": r"flux|chroma",
}
_LONGEST = 60


def other_backbone(header: Mapping[str, str], family: str) -> str:
    """The backbone that a header names, in its own words, if that is of another family than this; else nothing."""
    said = [header[key] for key in _KEYS if header.get(key)]
    known = {
        name: text for text in said for name, pattern in _CALLED.items() if re.search(pattern, text.lower().strip())
    }
    return "" if family in known else next(iter(known.values()), "")[:_LONGEST]
