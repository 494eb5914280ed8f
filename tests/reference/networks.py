"""Networks in the form in which the weights of DCM (arXiv 2506.03123) were released, tiny and random.

One diffusers network holds both experts: the semantic one as its own weights; the detail one as a PEFT adapter
`lora1` and as twins, second copies of a few modules beside the originals under their name + `_lora`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from diffusers import HunyuanVideoTransformer3DModel, WanTransformer3DModel
from harness.random_weights import randomise
from peft import LoraConfig
from torch import Tensor, nn

ADAPTER, TWIN = "lora1", "_lora"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
RANK = 4


@dataclass(frozen=True)
class Kind:
    """A diffusers class, its tiny sizes, and which of its modules the detail expert has twins of."""

    family: str
    network: type[nn.Module]
    sizes: dict[str, object]
    twins: tuple[str, ...]

    def build(self, seed: int = 0) -> nn.Module:
        """The semantic expert alone, an ordinary diffusers network."""
        network = randomise(self.network(**self.sizes), seed).requires_grad_(False).eval()
        generator = torch.Generator().manual_seed(seed)
        for name, table in network.named_parameters():
            if name.endswith("scale_shift_table"):  # of three dimensions, where the rule for matrices makes it tiny
                table.data = 0.3 * torch.randn(table.shape, generator=generator)
        return network

    def add_detail_expert(self, network: nn.Module, seed: int = 1, rank: int = RANK) -> nn.Module:
        """Adapter and twins, in the order in which the published code makes them; returns the same network."""
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS), lora_dropout=0.0)
        network.add_adapter(config, adapter_name=ADAPTER)
        generator = torch.Generator().manual_seed(seed)

        def normal(like: Tensor) -> Tensor:
            fan_in = like[0].numel() if like.ndim > 1 else 1
            return torch.randn(like.shape, generator=generator) / fan_in**0.5

        for name, parameter in network.named_parameters():
            if ADAPTER in name:
                parameter.data = 0.5 * normal(parameter)
        for name in self.twins:
            twin = copy.deepcopy(network.get_submodule(name))
            for parameter in twin.parameters():
                parameter.data = parameter.data + 0.3 * normal(parameter)
            setattr(network, name + TWIN, twin)
        return network.requires_grad_(False)


_HEADS = {"num_attention_heads": 2, "attention_head_dim": 128}
_WAN = Kind(
    "wan",
    WanTransformer3DModel,
    {**_HEADS, "num_layers": 2, "ffn_dim": 512},
    ("condition_embedder", "norm_out", "proj_out"),
)
_HUNYUAN_VIDEO = Kind(
    "hunyuan_video",
    HunyuanVideoTransformer3DModel,
    {**_HEADS, "num_layers": 2, "num_single_layers": 2, "text_embed_dim": 256},
    ("time_text_embed", "norm_out", "proj_out"),
)


def _with(kind: Kind, **sizes: object) -> Kind:
    return replace(kind, sizes=kind.sizes | sizes)


KINDS = {
    "wan": _WAN,
    "hunyuan_video": _HUNYUAN_VIDEO,
    "wan_i2v": _with(_WAN, in_channels=36, image_dim=1280, added_kv_proj_dim=256),
    "hunyuan_video_i2v": _with(_HUNYUAN_VIDEO, in_channels=33),
}
