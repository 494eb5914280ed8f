"""The key of each tensor in an expert file: ComfyUI's own LoRA naming, so that stock loaders read it too.

``diffusion_model.<layer>.lora_A.weight`` / ``.lora_B.weight`` / ``.alpha`` are a low-rank pair,
``diffusion_model.<layer>.diff`` / ``.diff_b`` the difference of a weight and a bias,
``diffusion_model.<layer>.set_weight`` / ``.bias.set_weight`` a new weight and bias, and
``diffusion_model.<name>.diff`` the difference of a bare Parameter (Wan's ``blocks.0.modulation``).

Pairs of fused layers (HunyuanVideo's q, k and v) are written as one block-diagonal pair, which is mostly zeros; or
in the compact form ``.fused_down`` / ``.fused_up`` / ``.fused_alpha`` / ``.fused_rows``, which only DCM reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import ExpertFileError, shortened
from .layers import Difference, Expert, FusedLowRank, Layer, LowRank, Replacement

PREFIX = "diffusion_model."


@dataclass(frozen=True)
class FileForm:
    """What a kind of layer is in a file.

    * ``title``: the kind in words
    * ``suffixes``: what ends the key of each field; ``also``: another ending that is read
    * ``numbers``: fields that are no tensors: a file has them as single float32 numbers
    * ``assumed``: a field that a file may lack, from those that it has
    * ``incomplete``: what to say of a layer without one of its fields, where no damage can be the cause
    """

    title: str
    suffixes: Mapping[str, str]
    also: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, type] = field(default_factory=dict)
    assumed: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    incomplete: str = ""

    def called(self, name: str) -> str:
        """A field as it is told to people: by its key where that says it."""
        suffix = self.suffixes[name].removeprefix(".")
        return suffix if name in suffix.split("_") else name


FILE_FORMS: dict[type[Layer], FileForm] = {
    LowRank: FileForm(
        "a low-rank pair",
        {"down": ".lora_A.weight", "up": ".lora_B.weight", "alpha": ".alpha"},
        also={"down": ".lora_down.weight", "up": ".lora_up.weight"},
        numbers={"alpha": float},
        # Loaders take a scale of 1 where there is no alpha.
        assumed={"alpha": lambda found: found["down"].shape[0]},
    ),
    FusedLowRank: FileForm(
        "fused low-rank pairs",
        {"down": ".fused_down", "up": ".fused_up", "alpha": ".fused_alpha", "rows": ".fused_rows"},
        numbers={"alpha": float, "rows": int},
    ),
    Difference: FileForm("a difference", {"weight": ".diff", "bias": ".diff_b"}),
    Replacement: FileForm(
        "a new weight",
        {"weight": ".set_weight", "bias": ".bias.set_weight"},
        incomplete="it has a new bias without a new weight. Export it as a difference.",
    ),
}

# What one tensor of a layer is: a kind of layer, and one of its fields.
Role = tuple[type[Layer], str]
_BARE: Role = (Difference, "weight")


def to_tensors(expert: Expert, compact: bool = False) -> dict[str, Tensor]:
    """The tensors of an expert under their file keys; numbers become 0-dimensional float32 tensors.

    ``compact`` writes the pairs of fused layers without the zeros of the block-diagonal form.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in expert.layers.items():
        layer = layer if compact else layer.stock
        form = FILE_FORMS[type(layer)]
        for part, suffix in form.suffixes.items():
            value = getattr(layer, part)
            if value is not None:
                value = torch.tensor(float(value)) if part in form.numbers else value
                tensors[f"{PREFIX}{name}{suffix}"] = value
    for name, difference in expert.parameters.items():
        if name in expert.layers:
            raise ExpertFileError(f"{name} is both a layer and a bare Parameter: it can be only one")
        tensors[f"{PREFIX}{name}{FILE_FORMS[Difference].suffixes['weight']}"] = difference
    return tensors


def is_expert(keys: Iterable[str]) -> bool:
    """Is one of these the key of a tensor in an expert file?"""
    pattern, _ = _reading()
    return any(map(pattern.fullmatch, keys))


def by_layer(keys: Iterable[str]) -> dict[str, dict[Role, str]]:
    """The keys of each layer and bare Parameter by what they are, in the order given.

    Raises ExpertFileError that names every key which is no part of an expert, or one that is there twice.
    """
    pattern, roles = _reading()
    layers: dict[str, dict[Role, str]] = {}
    unknown = []
    for key in keys:
        match = pattern.fullmatch(key)
        if match is None:
            unknown.append(key)
            continue
        name, role = match[1], roles[match[2]]
        own = layers.setdefault(name, {})
        if role in own:
            raise ExpertFileError(f"{name} has its {role[1]} tensor twice, in two spellings: keep one of them")
        own[role] = key
    if unknown:
        raise ExpertFileError(
            f"keys that are no part of an expert: {shortened(unknown)}. Expected {PREFIX}<layer> followed by "
            "one of " + ", ".join(roles)
        )
    return layers


def refuse_incomplete(tensors: Mapping[str, Mapping[Role, Tensor]], parameters: Collection[str]) -> None:
    """Raises ExpertFileError that names what lacks its partner or fits no kind of layer.

    ``tensors`` are sorted as by ``by_layer``, and may be on the meta device: only their shapes are asked for.
    ``parameters`` are the names of bare Parameters.
    """
    empty = [name for name, own in tensors.items() if not all(map(Tensor.numel, own.values()))]
    if empty:
        raise ExpertFileError(f"tensors without elements: {shortened(empty)}. Export the expert again.")
    for name, own in tensors.items():
        if name not in parameters:
            _fields(name, own)
        elif own.keys() != {_BARE}:
            raise ExpertFileError(f"the bare Parameter {name} needs one .diff tensor and nothing else")
    if lost := sorted(set(parameters) - tensors.keys()):
        raise ExpertFileError(f"missing differences of bare Parameters: {shortened(lost)}. Export the expert again.")


def from_tensors(
    tensors: Mapping[str, Mapping[Role, Tensor]], parameters: Collection[str]
) -> tuple[dict[str, Layer], dict[str, Tensor]]:
    """Layers and bare Parameters of tensors sorted as by ``by_layer``. Raises as ``refuse_incomplete``."""
    refuse_incomplete(tensors, parameters)
    layers = {name: layer_from(name, own) for name, own in tensors.items() if name not in parameters}
    return layers, {name: own[_BARE] for name, own in tensors.items() if name in parameters}


def layer_from(name: str, tensors: Mapping[Role, Tensor]) -> Layer:
    """The layer that these tensors are. Raises ExpertFileError for half a layer, or tensors of more than one kind."""
    kind, found = _fields(name, tensors)
    try:
        return kind(**found)
    except ExpertFileError as error:
        raise ExpertFileError(f"{name}: {error}") from None


def _fields(name: str, tensors: Mapping[Role, Tensor]) -> tuple[type[Layer], dict[str, Any]]:
    (kind, _), *_ = tensors
    form = FILE_FORMS[kind]
    found: dict[str, Any] = {}
    for (other, part), tensor in tensors.items():
        if other is not kind:
            has = [FILE_FORMS[each].title for each in FILE_FORMS if each in (kind, other)]
            raise ExpertFileError(
                f"{name}: it has both {' and '.join(has)}, of which loaders would keep one without a word. Export it "
                "as one difference."
            )
        found[part] = (
            _number(f"{name}: {form.called(part)}", form.numbers[part], tensor) if part in form.numbers else tensor
        )
    missing = sorted(_required(kind) - found.keys())
    if missing:
        lacks = " and ".join(map(form.called, missing))
        what = form.incomplete or f"{form.title} without its {lacks} tensor. Export it again."
        raise ExpertFileError(f"{name}: {what}")
    for part, assume in form.assumed.items():
        if part not in found:
            found[part] = assume(found)
    return kind, found


def _number(called: str, number: type, tensor: Tensor) -> float | int:
    if tensor.numel() != 1:
        raise ExpertFileError(f"{called} must be a single number, got shape {list(tensor.shape)}")
    try:
        return number(tensor) if not tensor.is_meta else number(0)
    except (ValueError, OverflowError):  # NaN and Inf are no whole numbers
        raise ExpertFileError(f"{called} cannot be {float(tensor)}") from None


@cache
def _required(kind: type[Layer]) -> set[str]:
    """The fields that a file must have."""
    return {each.name for each in fields(kind) if each.default is MISSING} - FILE_FORMS[kind].assumed.keys()


@cache
def _reading() -> tuple[re.Pattern[str], dict[str, Role]]:
    """What every key of an expert looks like, and what its ending says."""
    roles: dict[str, Role] = {}
    for kind, form in FILE_FORMS.items():
        for endings in (form.suffixes, form.also):
            roles |= {suffix: (kind, part) for part, suffix in endings.items()}
    # The shortest name is taken, so of two endings that fit a key, the longer.
    return re.compile(rf"{re.escape(PREFIX)}(.+?)({'|'.join(map(re.escape, roles))})"), roles
