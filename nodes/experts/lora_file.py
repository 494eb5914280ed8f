"""A LoRA file for one MODEL: which of its keys act there, and errors for a file of another backbone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dcm_core.errors import shortened
from ...dcm_core.expert.file import all_finite
from ...dcm_core.expert.other_files import what_it_is
from ...dcm_core.expert.stamp import other_backbone
from ...dcm_core.families.family import Family
from ...dcm_core.families.keymap import Shapes
from ...dcm_core.files.stream import TensorSource
from ..backbone.host import PREFIX, WeightPatches
from ..backbone.host_lora import fits, is_known, kind_of, pair_of, patches_of, target_of, tensors_of, without_settings
from ..backbone.model import family_of, shapes_of


@dataclass(frozen=True)
class LoraFile:
    """The ``patches`` of weights that a file holds for a MODEL, its ``settings`` of layers, the ``silent`` ones of its
    keys, and how many others act.

    ``doubts``: what its metadata gives reason to say, a sentence each.
    """

    patches: WeightPatches
    settings: WeightPatches
    acting: int
    silent: list[str]
    doubts: list[str] = field(default_factory=list)


def read_lora(path: Path, model: ModelPatcher) -> LoraFile:
    """Raises ValueError for a file that is no LoRA for this MODEL, and for kinds of changes that are not known here."""
    name = path.name
    with TensorSource([path]) as source:
        tensors = {key: source.read(key) for key in source.infos}
        metadata = source.metadata
    wrong = [key for key, tensor in tensors.items() if not all_finite(tensor.float())]
    if wrong:
        raise ValueError(f"{name} has NaN or Inf in {shortened(wrong, 4)}: download it again, or take another version.")
    known, silent = patches_of(model, tensors)
    known, settings, not_taken = without_settings(model, known)
    shapes = shapes_of(model)
    here = {key: patch for key, patch in known.items() if weight_of(key) in shapes}
    unknown = {kind_of(patch) for patch in here.values() if not is_known(patch)}
    if unknown:
        raise ValueError(
            f"{name} changes weights in a way that is not known here ({', '.join(sorted(unknown))}): load it with "
            "LoraLoaderModelOnly, which has one strength for all steps."
        )
    patches = {key: patch for key, patch in here.items() if fits(patch, _part(key, shapes))}
    lost = [key for key in known if key not in patches]
    if not known and not settings:
        raise ValueError(f"{name} {_without_keys(tensors, metadata)} {_remedy(model)}")
    if known and len(patches) <= len(lost):
        raise ValueError(f"{name} {_another(known, here, lost, shapes)} {_remedy(model)}")
    names = {id(tensor): key for key, tensor in tensors.items()}
    silent += [names[id(tensor)] for patch in (*map(known.get, lost), *not_taken) for tensor in tensors_of(patch)]
    return LoraFile(patches, settings, len(tensors) - len(silent), silent, _doubts(metadata, family_of(model)))


def _doubts(metadata: dict[str, str], family: Family) -> list[str]:
    """A warning where the file was trained on a backbone of another family, whose layers are called alike."""
    other = other_backbone(metadata, family.name)
    if not other:
        return []
    return [
        f"by its metadata this LoRA was made for {other}, and this MODEL is {family.title}: layers of the same name "
        f"and size mean something else there. Choose a LoRA for {family.title}."
    ]


def weight_of(key: str | tuple) -> str:
    """The name of the weight that a patch is for, in the network."""
    return target_of(key)[0].removeprefix(PREFIX)


def _part(key: str | tuple, shapes: Shapes) -> tuple[int, ...]:
    """The shape of the weight, or of the part of it, that a patch is for."""
    shape, rows = list(shapes[weight_of(key)]), target_of(key)[1]
    if rows:
        shape[rows[0]] = rows[2]
    return tuple(shape)


def _another(known: WeightPatches, here: WeightPatches, lost: list[str | tuple], shapes: Shapes) -> str:
    """In what layers a file is unlike the MODEL."""
    key = next((key for key in lost if key in here), None)
    if key is None:
        return f"changes {shortened([weight_of(key) for key in lost], 3)}, which this MODEL does not have."
    sizes = f"{_size(known[key])} and {list(_part(key, shapes))} here"
    return f"was made for layers of another size: {weight_of(key)} is {sizes}."


def _without_keys(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """What a file is, none of whose keys ComfyUI knows for the MODEL."""
    what = what_it_is(tensors, metadata)
    if "LoRA" not in what:
        return f"is no LoRA. It looks like {what}"
    return f"has no key that acts on this MODEL: its keys are {shortened(list(tensors), 3)}."


def _size(patch) -> str:
    pair = pair_of(patch)
    return f"[{len(pair[1])}, {pair[0].shape[1]}] there" if pair else "of another shape there"


def _remedy(model: ModelPatcher) -> str:
    return f"Choose a LoRA for {family_of(model).title} of this size."
