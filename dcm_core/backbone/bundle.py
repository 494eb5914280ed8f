"""The released single-file bundle: a backbone (the semantic expert) and a detail expert over it, both ways.

Exactness: the file holds the detail expert's copies ("twins") of some layers whole. As a ``Difference`` to the
backbone, the form that any LoRA loader reads and that leaves room for other LoRAs on the layer, the sum with the
backbone's weight gives the twin back to rounding only. As a ``Replacement`` it stays the twin bit for bit, so
``exact=True`` makes bundle -> expert -> bundle lossless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ..errors import LayoutError, shortened
from ..expert.fingerprint import fingerprint, norm_tensors
from ..expert.layers import Difference, Expert, FusedLowRank, Layer, LowRank, Replacement
from ..expert.metadata import ExpertMetadata
from ..families.keymap import KeyMap
from ..families.recipe import Recipe
from ..families.released import ALPHA_OVER_RANK, Bundle, read_names, write_names
from .layouts import Infos, Layout, backbone_recipes, bare_names

Read = Callable[[str], Tensor]


def expert_from_bundle(layout: Layout, infos: Infos, read: Read, exact: bool = False) -> Expert:
    """The detail expert of a released bundle, under ComfyUI's names, over the bundle's own backbone.

    ``infos`` and ``read`` give the file's tensors by their names in it; read are the expert's own, the twins'
    originals and the norms. Low-rank pairs get a scale of 2 (alpha = 2 rank), at which released weights are
    run: no file says it. The schedule is the published one. Raises LayoutError for a file that is no whole bundle.
    """
    if layout.kind != "released":
        raise LayoutError(f"this is no released bundle ({layout.describe()}), so it holds no expert")
    table, bare = layout.keymap, bare_names(layout, infos)
    try:
        bundle = read_names(table, bare)
        own = {name: infos[there] for name, there in bare.items()}
        layers = _adapter(table, bundle, own, lambda name: read(bare[name]))
        twins = table.recipes_to_comfy({name: own[there] for name, there in bundle.twins.items()})
        changed, parameters = _twins(twins, bundle, own, lambda name: read(bare[name]), exact)
    except (ValueError, KeyError) as error:
        raise LayoutError(f"the bundle is not whole: {error}") from error
    base = backbone_recipes(layout, infos, "comfy")
    metadata = ExpertMetadata(
        expert="detail",
        family=layout.family.name,
        backbone=layout.variant,
        schedule=layout.family.bundle_schedule,
        guidance=layout.family.bundle_guidance,
        rank=layout.rank,
        alpha=ALPHA_OVER_RANK * layout.rank,
        base_fingerprint=_fingerprint(layout.family.name, base, infos, read),
        trained_with="the released DCM bundle",
        complete=True,
    )
    return Expert(metadata, layers | changed, parameters)


def bundle_recipes(layout: Layout, infos: Infos, expert: Expert) -> dict[str, Recipe]:
    """The backbone's part of a bundle: every tensor by its released name, made from the backbone file ``infos``.

    Raises LayoutError for a backbone or an expert that cannot be in a bundle.
    """
    recipes = backbone_recipes(layout, infos, "diffusers")
    names = write_names(recipes, _adapted(layout.keymap, expert), ()).base
    return {names[name]: recipe for name, recipe in recipes.items()}


def bundle_tensors(layout: Layout, infos: Infos, read: Read, expert: Expert) -> dict[str, Tensor]:
    """The detail expert's part of a bundle: adapter and twins by their released names.

    A scale other than 2 goes into the pair, since a bundle has no place for it; what the expert leaves of the
    layers with a twin is copied from the backbone. Raises LayoutError for an expert that cannot be in a bundle.
    """
    table, base = layout.keymap, backbone_recipes(layout, infos, "comfy")
    changed = _whole_twins(expert, lambda name: base[name].build(read))
    recipes = backbone_recipes(layout, infos, "diffusers")
    twins = {name: recipe for name, recipe in recipes.items() if name.partition(".")[0] in table.twins}
    there = {table.to_comfy(name): name for name in twins}
    if strange := [name for name in changed if name not in there]:
        raise LayoutError(
            f"a released {table.family} bundle has no second copy of {shortened(strange)}, which this expert changes: "
            "export it as an expert file"
        )
    own = table.state_to_diffusers(changed)
    names = write_names((), _adapted(table, expert), twins)
    tensors = {names.twins[name]: own[name] if name in own else twins[name].build(read) for name in twins}
    for name, layer in expert.layers.items():
        if isinstance(layer, LowRank | FusedLowRank):
            for module, down, up in zip(_modules(table, name), *_pairs(layer), strict=True):
                tensors[names.down[module]], tensors[names.up[module]] = down, up
    return tensors


def _adapter(table: KeyMap, bundle: Bundle, infos: Infos, read: Read) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    for name, found in _grouped(table, bundle.down).items():
        modules = _modules(table, name)
        ranks = {infos[bundle.down[module]].shape[0] for module in found}
        if set(found) != set(modules) or len(ranks) > 1:
            raise ValueError(
                f"{name} needs low-rank pairs of one rank for {', '.join(modules)}, but the file has them for "
                f"{', '.join(found)} with rank {sorted(ranks)}"
            )
        downs, ups = ([read(names[module]) for module in modules] for names in (bundle.down, bundle.up))
        alpha = ALPHA_OVER_RANK * ranks.pop()
        if len(modules) == 1:
            layers[name] = LowRank(downs[0], ups[0], alpha)
            continue
        rows = sum(infos[bundle.base[source]].shape[0] for source in table.sources(f"{name}.weight"))
        layers[name] = FusedLowRank(torch.cat(downs), torch.cat(ups), alpha, rows)
    return layers


def _grouped(table: KeyMap, modules: Iterable[str]) -> dict[str, list[str]]:
    """diffusers modules by the ComfyUI module they are in."""
    groups: dict[str, list[str]] = {}
    for module in modules:
        groups.setdefault(table.module_to_comfy(module), []).append(module)
    return groups


def _twins(
    recipes: Mapping[str, Recipe], bundle: Bundle, infos: Infos, read: Read, exact: bool
) -> tuple[dict[str, Layer], dict[str, Tensor]]:
    """Layers, and differences of what is no Linear's, by ComfyUI's names; the recipes take diffusers names."""
    parts: dict[str, dict[str, Tensor]] = {}
    bare: dict[str, Tensor] = {}
    linear = {
        name.removesuffix(".weight")
        for name, recipe in recipes.items()
        if name.endswith(".weight") and len(infos[bundle.twins[recipe.parts[0].name]].shape) == 2
    }
    for name, recipe in recipes.items():
        twin = recipe.build(lambda source: read(bundle.twins[source]))
        module, _, kind = name.rpartition(".")
        if module in linear and exact:
            parts.setdefault(module, {})[kind] = twin
            continue
        difference = twin.float() - recipe.build(lambda source: read(bundle.base[source])).float()
        if module in linear:
            parts.setdefault(module, {})[kind] = difference
        else:
            bare[name] = difference
    kind = Replacement if exact else Difference
    return {module: kind(**tensors) for module, tensors in parts.items()}, bare


def _whole_twins(expert: Expert, base: Read) -> dict[str, Tensor]:
    """The new weights of the layers the expert has whole, by ComfyUI's names, in the backbone's dtype."""
    changed = {}
    for name, layer in expert.layers.items():
        if isinstance(layer, LowRank | FusedLowRank):
            continue
        for key in layer.shapes:
            tensor = getattr(layer, key)
            changed[f"{name}.{key}"] = (
                tensor if isinstance(layer, Replacement) else _sum(base(f"{name}.{key}"), tensor)
            )
    return changed | {name: _sum(base(name), tensor) for name, tensor in expert.parameters.items()}


def _sum(base: Tensor, difference: Tensor) -> Tensor:
    return (base.float() + difference.float()).to(base.dtype)


def _adapted(table: KeyMap, expert: Expert) -> list[str]:
    """The diffusers modules with a low-rank pair."""
    if expert.metadata.expert != "detail":
        raise LayoutError(
            "a bundle holds a detail expert: this is a semantic one, which would be its backbone"
        )
    names = [name for name, layer in expert.layers.items() if isinstance(layer, LowRank | FusedLowRank)]
    return [module for name in names for module in _modules(table, name)]


def _modules(table: KeyMap, name: str) -> list[str]:
    """The diffusers modules with an adapter of their own in a ComfyUI module."""
    sources = table.sources(f"{name}.weight")[: table.projections(name)]
    return [source.removesuffix(".weight") for source in sources]


def _pairs(layer: LowRank | FusedLowRank) -> tuple[list[Tensor], list[Tensor]]:
    ups = layer.up if layer.scale == ALPHA_OVER_RANK else layer.up * (layer.scale / ALPHA_OVER_RANK)
    parts = layer.parts if isinstance(layer, FusedLowRank) else 1
    return [each.contiguous() for each in layer.down.chunk(parts)], [
        each.contiguous() for each in ups.chunk(parts)
    ]


def _fingerprint(family: str, recipes: Mapping[str, Recipe], infos: Infos, read: Read) -> str:
    shapes = {name: recipe.info(infos).shape for name, recipe in recipes.items()}
    # Chosen by name and shape first: norms are a few of the many tensors.
    meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return fingerprint(family, shapes, {name: recipes[name].build(read) for name in norm_tensors(meta)})
