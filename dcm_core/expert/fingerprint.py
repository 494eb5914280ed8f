"""Telling which backbone a file belongs to.

A fingerprint is ``family:shapes:norms``. Shapes are logical (out and in features), so that fp8, GGUF and
other quantised copies of the right backbone share them; norms are weights that such copies leave alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..files.stream import TensorDigest

_NORM = re.compile(r".*norm.*\.(weight|scale)")
# Tensors that a file of the backbone holds and its network has among its buffers: CogVideoX's table of positions.
_BUFFERS = ".pos_embedding"

Shapes = Mapping[str, tuple[int, ...]]


def logical_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes by full Parameter name, as the architecture means them and not as they are stored.

    A packed or quantised Linear tells its true size in ``in_features`` / ``out_features``; a GGUF tensor in
    ``tensor_shape``. Storage extras of quantised Linears (scales) are left out.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if rows_and_columns := _sizes_of_linear(module):
            shapes[f"{prefix}weight"] = rows_and_columns
            if getattr(module, "bias", None) is not None:
                shapes[f"{prefix}bias"] = rows_and_columns[:1]
            continue
        for key, parameter in module.named_parameters(recurse=False):
            shapes[f"{prefix}{key}"] = tuple(getattr(parameter, "tensor_shape", parameter.shape))
    return shapes


def _sizes_of_linear(module: Any) -> tuple[int, int] | None:
    """(out, in) features; a host's quantised Linear may be no ``nn.Linear``."""
    is_linear = isinstance(module, nn.Linear) or (hasattr(module, "in_features") and "weight" in module._parameters)
    return (module.out_features, module.in_features) if is_linear else None


def norm_names(shapes: Shapes) -> list[str]:
    """The one-dimensional weights of norm layers: what quantised copies leave as it was."""
    return [name for name, shape in shapes.items() if len(shape) == 1 and _NORM.fullmatch(name)]


def norm_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict that ``norm_names`` names."""
    return {name: state[name] for name in norm_names({name: tensor.shape for name, tensor in state.items()})}


def fingerprint(family: str, shapes: Shapes, norms: Mapping[str, Tensor] | None = None) -> str:
    """``family:shapes:norms``, with ``-`` for unknown norms, and for those of a float16 copy of finer numbers.

    ``shapes`` as from ``logical_shapes`` or of a file's tensors; only those with two or more dimensions count.
    ``norms`` as from ``norm_tensors``, compared as bfloat16 so that copies in another precision agree.
    """
    counted = [
        (name, list(shape)) for name, shape in sorted(shapes.items()) if len(shape) > 1 and not name.endswith(_BUFFERS)
    ]
    shape_digest = hashlib.sha256(json.dumps(counted).encode()).hexdigest()[:16]
    norm_digest = _norm_digest(norms)[:16] if norms and not any(map(_was_float16, norms.values())) else "-"
    return f"{family}:{shape_digest}:{norm_digest}"


def told_apart(one: str, other: str) -> bool:
    """Whether two fingerprints of backbones with the same layers are of other weights; unknown norms tell nothing."""
    norms = {each.rpartition(":")[2] for each in (one, other)}
    return len(norms) == 2 and "-" not in norms


def _was_float16(norm: Tensor) -> bool:
    """Was it rounded to float16? Some such numbers, rounded on to bfloat16, end beside where the first ones do."""
    norm = norm.detach().to("cpu", torch.float32)
    half, brain = (norm.to(dtype).float() for dtype in (torch.float16, torch.bfloat16))
    return torch.equal(norm, half) and not torch.equal(norm, brain)


def _norm_digest(norms: Mapping[str, Tensor]) -> str:
    # HunyuanVideo's norms are named .scale in some host versions and .weight in others.
    renamed = {name.removesuffix(".scale").removesuffix(".weight"): tensor for name, tensor in norms.items()}
    digest = TensorDigest()
    digest.add_all({name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in renamed.items()})
    return digest.text()
