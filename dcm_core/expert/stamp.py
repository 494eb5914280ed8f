"""What a LoRA's header says of the backbone it was trained on, as trainers write it: too freely to refuse a file by.

Layers of two models may have the same names and sizes, Flux's and HunyuanVideo's for example: then nothing else tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..families.presets import FAMILIES

_KEYS = ("ss_base_model_version", "ss_base_model", "modelspec.architecture")
_OTHERS = {"Flux": r"flux|chroma"}  # models of no family here whose LoRAs fit one
_LONGEST = 60


def other_backbone(header: Mapping[str, str], family: str) -> str:
    """The backbone that a header names, in its own words, if that is of another family than this; else nothing."""
    said = [header[key] for key in _KEYS if header.get(key)]
    called = {each.name: each.called for each in FAMILIES.values() if each.called} | _OTHERS
    known = {name: text for text in said for name, words in called.items() if re.search(words, text.lower().strip())}
    return "" if family in known else next(iter(known.values()), "")[:_LONGEST]
