"""The released single-file bundle: a backbone (the semantic expert) and a detail expert over it, both ways.

Exactness: the file holds the detail expert's copies ("twins") of some layers whole. As a ``Difference`` to the
backbone, the form that any LoRA loader reads and that leaves room for other LoRAs on the layer, the sum with the
backbone's weight gives the twin back to rounding only. As a ``Replacement`` it stays the twin bit for bit, so
``exact=True`` makes bundle -> expert -> bundle lossless.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import LayoutError, shortened
from ..expert.file import all_finite
from ..expert.layers import Expert, Layer, LowRank, Replacement
from ..expert.merge import in_one_layer, layers_of, with_difference
from ..expert.metadata import ExpertMetadata
from ..families.keymap import KeyMap
from ..families.recipe import Recipe
from ..families.released import ALPHA_OVER_RANK, write_names
from .file import BackboneFile


def expert_from_bundle(bundle: BackboneFile, exact: bool = False) -> Expert:
    """The detail expert of a released bundle, under ComfyUI's names, over the bundle's own backbone.

    Read are the expert's own tensors, the twins' originals and the norms. Low-rank pairs get a scale of 2
    (alpha = 2 rank), at which released weights are run: no file says it. The schedule is the published one. Raises
    LayoutError for a file that is no whole bundle.
    """
    layout = bundle.layout
    if layout.kind != "released":
        raise LayoutError(f"this is no released bundle ({layout.describe()}), so it holds no expert")
    if layout.rank is None:
        raise LayoutError(
            f"{_named(bundle)}the bundle has no low-rank pairs, so it holds no detail expert: its adapter was taken "
            "off, or the file is cut off. Download it again, or convert its backbone alone (python -m "
            "dcm_core.convert to-comfy)."
        )
    try:
        _refuse_incomplete(bundle)
        changed, parameters = _copied(bundle, exact)
        layers = _adapted(bundle) | changed
    except (ValueError, KeyError) as error:
        raise LayoutError(f"{_named(bundle)}the bundle is not whole: {error}") from error
    ranks = {pair.rank for layer in layers.values() for _, pair in layer.pairs}
    rank = ranks.pop() if len(ranks) == 1 else None
    metadata = ExpertMetadata(
        expert="detail",
        family=layout.family.name,
        backbone=layout.variant,
        schedule=layout.family.bundle_schedule,
        guidance=layout.family.bundle_guidance,
        rank=rank,
        alpha=rank and ALPHA_OVER_RANK * rank,
        base_fingerprint=bundle.fingerprint,
        trained_with="the released DCM bundle",
        complete=True,
    )
    return Expert(metadata, layers, parameters)


def _named(bundle: BackboneFile) -> str:
    return "".join(f"{path}: " for path in bundle.source.paths[:1])


def bundle_recipes(backbone: BackboneFile, expert: Expert) -> dict[str, Recipe]:
    """The backbone's part of a bundle: every tensor by its released name, made from those of the backbone's file.

    Raises LayoutError for a backbone or an expert that cannot be in a bundle.
    """
    recipes = backbone.recipes("diffusers")
    adapted = _adapted_modules(backbone.keymap, expert)
    if lost := _modules_with_pairs(backbone) - set(adapted):
        raise LayoutError(
            f"a bundle holds a low-rank pair for each of {shortened(sorted(lost))}, which this expert lacks: keep it "
            "as an expert file"
        )
    names = write_names(recipes, adapted, ()).base
    return {names[name]: recipe for name, recipe in recipes.items()}


def bundle_tensors(backbone: BackboneFile, expert: Expert) -> dict[str, Tensor]:
    """The detail expert's part of a bundle: adapter and twins by their released names.

    A scale other than 2 goes into the pair, since a bundle has no place for it; what the expert leaves of the
    layers with a twin is copied from the backbone. Raises LayoutError for an expert that cannot be in a bundle.
    """
    keymap, base = backbone.keymap, backbone.recipes("comfy")
    changed = _whole_twins(expert, lambda name: backbone.build(base[name]))
    recipes = backbone.recipes("diffusers")
    twins = {name: recipe for name, recipe in recipes.items() if name.partition(".")[0] in keymap.twins}
    there = {keymap.to_comfy(name): name for name in twins}
    if strange := [name for name in changed if name not in there]:
        raise LayoutError(
            f"a released {keymap.network} bundle has no second copy of {shortened(strange)}, which this expert "
            "changes: export it as an expert file"
        )
    own = keymap.state_to_diffusers(changed)
    names = write_names((), _adapted_modules(keymap, expert), twins)
    tensors = {
        names.twins[name]: own[name] if name in own else backbone.build(recipe) for name, recipe in twins.items()
    }
    for name, layer in expert.layers.items():
        pairs = [pair for _, pair in layer.pairs]
        modules = keymap.adapted(name) if pairs else []
        for module, pair in zip(modules, pairs, strict=True):
            factor = pair.scale / ALPHA_OVER_RANK
            up = pair.up if factor == 1 else pair.up * factor
            tensors[names.down[module]], tensors[names.up[module]] = pair.down.contiguous(), up.contiguous()
    return tensors


def _adapted(bundle: BackboneFile) -> dict[str, Layer]:
    """The layers with low-rank pairs, by ComfyUI's names."""
    names, recipes = bundle.names, bundle.recipes("comfy")
    weight_of = {part.name: weight for weight, recipe in recipes.items() for part in recipe.parts}
    groups: dict[str, list[str]] = {}
    for module in names.down:
        groups.setdefault(weight_of[names.base[f"{module}.weight"]], []).append(module)
    layers: dict[str, Layer] = {}
    for weight, found in groups.items():
        name = weight.removesuffix(".weight")
        modules = found if len(recipes[weight].parts) == 1 else bundle.keymap.adapted(name)
        ranks = {bundle.infos[names.down[module]].shape[0] for module in found}
        if set(found) != set(modules) or len(ranks) > 1:
            raise ValueError(
                f"{name} needs low-rank pairs of one rank for {', '.join(modules)}, but the file has them for "
                f"{', '.join(found)} with rank {sorted(ranks)}"
            )
        alpha = ALPHA_OVER_RANK * ranks.pop()
        halves = [[_usable(half[each], bundle.read(half[each])) for half in (names.down, names.up)] for each in modules]
        layers[name] = in_one_layer([LowRank(down, up, alpha) for down, up in halves], bundle.shapes[weight][0])
    return layers


def _refuse_incomplete(bundle: BackboneFile) -> None:
    """A bundle holds every tensor of a detail expert, each as large as the backbone's: nothing of it is optional."""
    names, keymap, infos = bundle.names, bundle.keymap, bundle.infos
    copied = {name for name in names.base if name.partition(".")[0] in keymap.twins}
    pairs = _modules_with_pairs(bundle)
    copies = write_names((), (), sorted(copied - names.twins.keys())).twins.values()
    if lost := [*copies, *(f"the low-rank pair of {module}" for module in sorted(pairs - names.down.keys()))]:
        raise ValueError(f"its detail expert lacks {shortened(lost)}. Download it again.")
    wrong = [
        f"{there} {list(infos[there].shape)} for {list(infos[names.base[name]].shape)}"
        for name, there in names.twins.items()
        if name in names.base and infos[there].shape != infos[names.base[name]].shape
    ]
    for module, down in names.down.items():
        weight, ends = infos[names.base[f"{module}.weight"]].shape, (infos[names.up[module]].shape, infos[down].shape)
        if len(weight) != 2 or any(len(each) != 2 for each in ends) or (ends[0][0], ends[1][1]) != weight:
            wrong.append(f"{down} {list(ends[1])} with {list(ends[0])} for {list(weight)}")
    if wrong:
        raise ValueError(f"wrong shape: {shortened(wrong, 4)}. Download it again.")


def _usable(name: str, tensor: Tensor) -> Tensor:
    """In a dtype that an expert can have: one-byte floats keep their values in bfloat16."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name} is stored as {tensor.dtype}, which no expert is. Take the bf16 bundle.")
    if tensor.dtype.itemsize == 1:
        tensor = tensor.to(torch.bfloat16)
    elif tensor.dtype.itemsize > 4:
        tensor = tensor.float()
    if not all_finite(tensor):
        raise ValueError(f"NaN or Inf in {name}. Download it again.")
    return tensor


def _copied(bundle: BackboneFile, exact: bool) -> tuple[dict[str, Layer], dict[str, Tensor]]:
    """Layers of the twins, and differences of what is no Linear's, by ComfyUI's names."""
    there = bundle.names.twins
    twins = bundle.keymap.recipes_to_comfy({name: bundle.infos[there[name]] for name in there}, there)
    base, shapes = bundle.recipes("comfy"), bundle.shapes
    new: dict[str, Tensor] = {}
    differences: dict[str, Tensor] = {}
    bare: dict[str, Tensor] = {}
    for name, recipe in twins.items():
        twin = _usable(name, bundle.build(recipe))
        weight = f"{name.rpartition('.')[0]}.weight"
        linear = weight in twins and len(shapes[weight]) == 2
        if linear and exact:
            new[name] = twin
        else:
            (differences if linear else bare)[name] = _usable(name, twin.float() - bundle.build(base[name]).float())
    layers = layers_of(new, Replacement)[0] | layers_of(differences)[0]
    return layers, bare


def _whole_twins(expert: Expert, base: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The new weights of the layers the expert has whole, by ComfyUI's names, in the backbone's dtype."""

    def total(name: str, difference: Tensor) -> Tensor:
        original = base(name)
        return with_difference(original, difference).to(original.dtype)

    changed = {name: total(name, difference) for name, difference in expert.parameters.items()}
    for module, layer in expert.layers.items():
        for key, tensor in layer.tensors.items():
            name = f"{module}.{key}"
            changed[name] = tensor if layer.replaces else total(name, tensor)
    return changed


def _adapted_modules(keymap: KeyMap, expert: Expert) -> list[str]:
    """The diffusers modules with a low-rank pair."""
    if expert.metadata.expert != "detail":
        raise LayoutError("a bundle holds a detail expert: this is a semantic one, which would be its backbone")
    names = [name for name, layer in expert.layers.items() if layer.pairs]
    return [module for name in names for module in keymap.adapted(name)]


def _modules_with_pairs(backbone: BackboneFile) -> set[str]:
    """The diffusers modules that have a low-rank pair in every bundle with this backbone."""
    adapted, _ = backbone.keymap.detail_layers(backbone.shapes)
    return {module for name in adapted for module in backbone.keymap.adapted(name)}
