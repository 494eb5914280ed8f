"""Weight patches that ComfyUI would leave out in silence: a part of what ``host.py`` gathers, to be reread with it.

* ``add_patches`` takes weights by the names that the network has just now, whichever clone of the MODEL it is loaded
  for. A MODEL is loaded by the names that it has then: with the modules that are object patches in their places.
* Within a compiled module (``torch.compile(block)``) weights have other names, with ``_orig_mod`` in them. The stock
  node puts such modules in place for each call alone, after weights were loaded; some do it for good.
"""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from torch import nn

from .host import PREFIX

_COMPILED = "_orig_mod."
# What to do, whoever finds it.
COMPILE_OTHERWISE = (
    "Another node has put compiled or changed modules in the place of those that ComfyUI patches: take it out, and "
    "compile with TorchCompileModel"
)


def is_compiled_in_place(model: ModelPatcher) -> bool:
    """Has the network compiled modules of other names in it just now, for this MODEL or another clone of it?"""
    return any(_COMPILED in name for name in model.model.state_dict())


def out_of_reach(model: ModelPatcher) -> set[str]:
    """The patched weights of the network, by name, that the host will not find when it loads this MODEL."""
    # Where another clone's stand just now, the network's own will be again.
    objects = {**model.object_patches_backup, **model.object_patches}
    names = {place: set(each.state_dict()) for place, each in objects.items() if isinstance(each, nn.Module)}
    renamed = {name.replace(_COMPILED, "") for name in model.model.state_dict() if _COMPILED in name}

    def is_found(weight: str) -> bool:
        places = [place for place in names if weight.startswith(f"{place}.")]
        if not places:
            return weight not in renamed
        return all(weight.removeprefix(f"{place}.") in names[place] for place in places)

    return {weight.removeprefix(PREFIX) for weight in model.patches if not is_found(weight)}
