"""How far two networks that began as one have parted, by kind of layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ...errors import ConfigError

# The kind of a layer by a part of its name in diffusers, the first that fits. What blocks have comes before what stands
# by itself, since a text refiner has attention and feed-forward layers of its own.
_KINDS = (
    ("norms and modulation", ("norm", "scale_shift_table")),
    ("attention", ("attn",)),
    ("feed-forward", (".ff", "ffn", "proj_mlp", "single_transformer_blocks")),
    ("time embedder", ("time_embed", "time_proj", "timestep", "guidance_embed")),
    ("text embedder", ("text", "context")),
    ("patch embedder", ("patch_embed", "x_embedder")),
    ("output head", ("proj_out",)),
)


def kind(name: str) -> str:
    """The kind of layer that a parameter of a diffusers transformer belongs to."""
    return next((title for title, parts in _KINDS if any(part in name for part in parts)), "other")


def differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, float]:
    """By kind of layer, the norm of the difference over that of the first network's weights; the largest first.

    Raises ConfigError where they are not the same network.
    """
    if {name: p.shape for name, p in first.items()} != {name: p.shape for name, p in second.items()}:
        raise ConfigError("--experts: the two files are of different networks; name two that came of one teacher.")
    apart: dict[str, float] = {}
    whole: dict[str, float] = {}
    for name, tensor in first.items():
        group = kind(name)
        apart[group] = apart.get(group, 0.0) + float((tensor - second[name]).float().square().sum())
        whole[group] = whole.get(group, 0.0) + float(tensor.float().square().sum())
    shares = {group: math.sqrt(apart[group] / whole[group]) if whole[group] else 0.0 for group in apart}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
