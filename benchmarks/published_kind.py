"""A random detail expert of the published kind, for the measurements inside the host's own process."""

from __future__ import annotations

import torch
from harness import in_host
from torch import nn

in_host.load_pack()

from dcm_pack.dcm_core.expert.layers import Difference, Expert, FusedLowRank, LowRank  # noqa: E402
from dcm_pack.dcm_core.expert.metadata import ExpertMetadata  # noqa: E402
from dcm_pack.dcm_core.families.presets import FAMILIES, find_family  # noqa: E402

RANK = 128  # that of the published detail experts


def random_expert(network: nn.Module, family: str, dtype: torch.dtype) -> Expert:
    """A detail expert of the published kind: rank 128 on the attention, and the embedders and the head whole."""
    table, names = find_family(family).keymap, network.state_dict()
    low_rank, replaced = table.detail_layers(names)

    def normal(scale: float, *shape: int):
        return scale * torch.randn(shape, dtype=dtype)

    layers = {}
    for name in [*low_rank, *replaced]:
        rows, columns = names[f"{name}.weight"].shape
        parts = table.projections(name)
        if name in replaced:
            layers[name] = Difference(normal(0.001, rows, columns), torch.zeros(rows, dtype=dtype))
        elif parts > 1:
            pairs = normal(0.01, parts * RANK, columns), normal(0.01, parts * columns, RANK)
            layers[name] = FusedLowRank(*pairs, 2.0 * RANK, rows)
        else:
            layers[name] = LowRank(normal(0.01, RANK, columns), normal(0.01, rows, RANK), 2.0 * RANK)
    metadata = ExpertMetadata("detail", family, "random", FAMILIES[family].schedule, 5.0, RANK, 2.0 * RANK)
    return Expert(metadata, layers)
