"""The detail expert of a released bundle as a file of its own, and back into a bundle."""

from __future__ import annotations

import os

from ..backbone.bundle import bundle_recipes, bundle_tensors, expert_from_bundle
from ..backbone.file import BackboneFile
from ..expert.layers import Expert
from ..schedule.experts import steps_text
from .backbone import write_recipes
from .expert_stream import save_in_parts


def export_detail(bundle: BackboneFile, path: str | os.PathLike, exact: bool = False, compact: bool = False) -> Expert:
    """Write the detail expert of a released bundle as an expert file, and return it.

    ``exact`` keeps the replaced layers bit for bit, for the way back into a bundle; ``compact`` leaves out the zeros
    that other programs need in HunyuanVideo's fused layers. Raises ValueError for a file that is no whole
    bundle, and OSError with the remedy.
    """
    expert = expert_from_bundle(bundle, exact)
    save_in_parts(path, expert, compact)
    return expert


def export_bundle(backbone: BackboneFile, expert: Expert, path: str | os.PathLike) -> list[str]:
    """Write a backbone (the semantic expert) and a detail expert as one released bundle; returns what is doubtful.

    Raises ValueError for an expert that does not fit the backbone or cannot be in a bundle, and OSError with
    the remedy.
    """
    warnings = list(backbone.check_fit(expert).warnings)
    if steps := expert.metadata.trained_steps:
        warnings.append(
            f"a bundle does not say that its expert was trained for {steps_text(steps)}: run it with so many"
        )
    recipes, tensors = bundle_recipes(backbone, expert), bundle_tensors(backbone, expert)
    write_recipes(path, backbone, recipes, tensors, {})
    return warnings
