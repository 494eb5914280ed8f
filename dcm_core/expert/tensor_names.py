"""The key of each tensor in an expert file: ComfyUI's own LoRA naming, so that stock loaders read it too.

``diffusion_model.<layer>.lora_A.weight`` / ``.lora_B.weight`` / ``.alpha`` are a low-rank pair,
``diffusion_model.<layer>.diff`` / ``.diff_b`` the difference of a weight and a bias,
``diffusion_model.<layer>.set_weight`` / ``.bias.set_weight`` a new weight and bias, and
``diffusion_model.<name>.diff`` the difference of a bare Parameter (Wan's ``blocks.0.modulation``).

Pairs of fused layers (HunyuanVideo's q, k and v) are written as one block-diagonal pair, which is mostly zeros; or
in the compact form ``.fused_down`` / ``.fused_up`` / ``.fused_alpha`` / ``.fused_rows``, which only DCM reads.
"""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from ..errors import ExpertFileError, shortened
from .layers import Difference, Expert, FusedLowRank, Layer, LowRank, Replacement

PREFIX = "diffusion_model."

# What is written first; the second spelling of a low-rank pair is read too. Of two suffixes that fit a key, the longer
# comes first.
_SUFFIXES = {
    ".bias.set_weight": "new_bias",
    ".set_weight": "new_weight",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".alpha": "alpha",
    ".diff": "weight",
    ".diff_b": "bias",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".fused_down": "fused_down",
    ".fused_up": "fused_up",
    ".fused_alpha": "fused_alpha",
    ".fused_rows": "fused_rows",
}


def to_tensors(expert: Expert, compact: bool = False) -> dict[str, Tensor]:
    """The tensors of an expert under their file keys; numbers become 0-dimensional float32 tensors.

    ``compact`` writes the pairs of fused layers without the zeros of the block-diagonal form.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in expert.layers.items():
        key = PREFIX + name
        if isinstance(layer, FusedLowRank):
            if compact:
                tensors[f"{key}.fused_down"] = layer.down
                tensors[f"{key}.fused_up"] = layer.up
                tensors[f"{key}.fused_alpha"] = torch.tensor(float(layer.alpha))
                tensors[f"{key}.fused_rows"] = torch.tensor(float(layer.rows))
                continue
            layer = layer.block
        if isinstance(layer, LowRank):
            tensors[f"{key}.lora_A.weight"] = layer.down
            tensors[f"{key}.lora_B.weight"] = layer.up
            tensors[f"{key}.alpha"] = torch.tensor(float(layer.alpha))
            continue
        exact = isinstance(layer, Replacement)
        if layer.weight is not None:
            tensors[key + (".set_weight" if exact else ".diff")] = layer.weight
        if layer.bias is not None:
            tensors[key + (".bias.set_weight" if exact else ".diff_b")] = layer.bias
    for name, difference in expert.parameters.items():
        if name in expert.layers:
            raise ExpertFileError(f"{name} is both a layer and a bare Parameter: it can be only one")
        tensors[f"{PREFIX}{name}.diff"] = difference
    return tensors


def from_tensors(
    tensors: Mapping[str, Tensor], parameters: Collection[str]
) -> tuple[dict[str, Layer], dict[str, Tensor]]:
    """Sort file tensors into layers and bare Parameters (those named in ``parameters``), in the order given.

    Raises ExpertFileError that names every key which is unknown, doubled, or lacks its partner.
    """
    parts, unknown = _by_layer(tensors)
    if unknown:
        raise ExpertFileError(
            f"keys that are no part of an expert: {shortened(unknown)}. Expected {PREFIX}<layer> followed by "
            "one of " + ", ".join(_SUFFIXES)
        )
    if empty := [key for key, tensor in tensors.items() if not tensor.numel()]:
        raise ExpertFileError(f"tensors without elements: {shortened(empty)}. Export the expert again.")
    layers: dict[str, Layer] = {}
    bare: dict[str, Tensor] = {}
    for name, part in parts.items():
        if name in parameters:
            if set(part) != {"weight"}:
                raise ExpertFileError(f"the bare Parameter {name} needs one .diff tensor and nothing else")
            bare[name] = part["weight"]
            continue
        try:
            layers[name] = _layer(part)
        except ExpertFileError as error:
            raise ExpertFileError(f"{name}: {error}") from None
    lost = sorted(set(parameters) - set(bare))
    if lost:
        raise ExpertFileError(
            f"missing differences of bare Parameters: {shortened(lost)}. Export the expert again."
        )
    return layers, bare


def layer_name(key: str) -> str | None:
    """The layer or bare Parameter that a file key belongs to; None for a key that is no part of an expert."""
    stem = key.removesuffix(_suffix(key) or "")
    name = stem.removeprefix(PREFIX)
    return name if name and stem not in (key, name) else None


def keys_by_layer(keys: Iterable[str]) -> dict[str, list[str]]:
    """The file keys of each layer and bare Parameter; a key that is no part of an expert stands alone."""
    layers: dict[str, list[str]] = {}
    for key in keys:
        layers.setdefault(layer_name(key) or key, []).append(key)
    return layers


def _suffix(key: str) -> str | None:
    return next((suffix for suffix in _SUFFIXES if key.endswith(suffix)), None)


def _by_layer(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        name, suffix = layer_name(key), _suffix(key)
        if name is None:
            unknown.append(key)
            continue
        part = parts.setdefault(name, {})
        if _SUFFIXES[suffix] in part:
            raise ExpertFileError(
                f"{name} has its {_SUFFIXES[suffix]} tensor twice, in two spellings: keep one of them"
            )
        part[_SUFFIXES[suffix]] = tensor
    return parts, unknown


_KINDS = {
    "a low-rank pair": {"down", "up", "alpha"},
    "fused low-rank pairs": {"fused_down", "fused_up", "fused_alpha", "fused_rows"},
    "a difference": {"weight", "bias"},
    "a new weight": {"new_weight", "new_bias"},
}


def _layer(part: dict[str, Tensor]) -> Layer:
    kinds = [kind for kind, keys in _KINDS.items() if keys & part.keys()]
    if len(kinds) > 1:
        raise ExpertFileError(
            f"it has both {' and '.join(kinds)}, of which loaders would keep one without a word. Export it as one "
            "difference."
        )
    if part.keys() & {"weight", "bias"}:
        return Difference(part.get("weight"), part.get("bias"))
    if "new_weight" in part:
        return Replacement(part["new_weight"], part.get("new_bias"))
    if "new_bias" in part:
        raise ExpertFileError("it has a new bias without a new weight. Export it as a difference.")
    fused = kinds == ["fused low-rank pairs"]
    wanted = {"fused_down", "fused_up", "fused_alpha", "fused_rows"} if fused else {"down", "up"}
    if missing := wanted - part.keys():
        raise ExpertFileError(
            f"{kinds[0]} without its {' and '.join(sorted(missing))} tensor. Export it again."
        )
    for key in ("alpha", "fused_alpha", "fused_rows"):
        if key in part and part[key].numel() != 1:
            raise ExpertFileError(f"{key} must be a single number, got shape {list(part[key].shape)}")
    if fused:
        alpha, rows = float(part["fused_alpha"]), int(part["fused_rows"])
        return FusedLowRank(part["fused_down"], part["fused_up"], alpha, rows)
    alpha = part.get("alpha")
    # Loaders take a scale of 1 where there is no alpha.
    return LowRank(part["down"], part["up"], part["down"].shape[0] if alpha is None else float(alpha))
