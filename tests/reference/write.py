"""Writes bundles as released, plain diffusers folders, and what each computes, for processes without diffusers.

python -m reference.write FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import cogvideox
from .inference import PUBLISHED, switched, trajectory
from .networks import KINDS, Kind

SHAPE = (1, 16, 3, 8, 8)
SEED = 7
TOKENS, PADDED = 6, 10
IMAGE_PADDED = 512  # Wan's image-to-video network counts on so many
# Noise levels at which one call of each expert is compared.
SEMANTIC_SIGMA, DETAIL_SIGMA = 0.992, 0.9


def main(folder: Path) -> None:
    """`<kind>/diffusers`: the semantic expert alone, in shards; `<kind>/released`: both; `<kind>.safetensors`."""
    for name, kind in KINDS.items():
        network = kind.build()
        network.save_pretrained(folder / name / "diffusers", max_shard_size="8MB")
        kind.add_detail_expert(network)
        released = folder / name / "released"
        released.mkdir()
        save_file(network.state_dict(), released / "diffusion_pytorch_model.safetensors")
        (released / "config.json").write_text(json.dumps(dict(network.config)), "utf-8")
        save_file(expectations(network, kind), folder / f"{name}.safetensors")
    cogvideox.main(folder)


@torch.inference_mode()
def expectations(network: nn.Module, kind: Kind) -> dict[str, Tensor]:
    """The contents of a ComfyUI conditioning (`text`, `pooled`, ...), and what the published code makes of them.

    `semantic`, `detail`: one velocity of each expert; `latents`, `latents_bf16`: a whole run from the noise of SEED;
    `latents_autocast`: the latter under autocast, as it was published.
    """
    noise = torch.randn(SHAPE, generator=torch.manual_seed(SEED))
    given, beside, conditions = conditions_of(kind)
    velocity = switched(network, kind, beside, conditions)
    expected = {
        name: velocity(sigma * noise, torch.tensor([1000 * sigma]))
        for name, sigma in (("semantic", SEMANTIC_SIGMA), ("detail", DETAIL_SIGMA))
    }
    sigmas = PUBLISHED[kind.family].sigmas
    expected["latents"] = trajectory(velocity, noise, sigmas, bf16_timestep=False)
    if kind.family == "hunyuan_video":  # the published pipeline of Wan keeps the timestep in float32
        expected["latents_bf16"] = trajectory(velocity, noise, sigmas, bf16_timestep=True)
        with torch.autocast("cpu", torch.bfloat16):
            expected["latents_autocast"] = trajectory(velocity, noise, sigmas, bf16_timestep=True).float()
    return expected | given


def conditions_of(kind: Kind) -> tuple[dict[str, Tensor], list[Tensor], dict[str, Tensor]]:
    """(contents of a ComfyUI conditioning, further latent channels, what diffusers takes).

    Wan pads its text with zeros and masks nothing. HunyuanVideo masks its padding, which here is no zeros: whoever
    lets it through is found out. ComfyUI is given the real tokens only.
    """
    generator = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    image, mask = normal(*SHAPE), torch.zeros(1, 1, *SHAPE[2:])
    mask[:, :, 0] = 1  # the first frame is given
    to_video = kind.sizes.get("in_channels", 16) > 16
    given = {"image": image} if to_video else {}
    if kind.family == "wan":
        text = torch.zeros(1, IMAGE_PADDED if to_video else PADDED, 4096)
        text[:, :TOKENS] = normal(1, TOKENS, 4096)
        conditions = {"encoder_hidden_states": text}
        if to_video:
            given["clip_vision"] = conditions["encoder_hidden_states_image"] = normal(1, 257, 1280)
        return given | {"text": text}, [mask.expand(-1, 4, -1, -1, -1), image] if to_video else [], conditions
    text, pooled = normal(1, PADDED, kind.sizes["text_embed_dim"]), normal(1, 768)
    conditions = {
        "encoder_hidden_states": text,
        "encoder_attention_mask": (torch.arange(PADDED) < TOKENS).long()[None],
        "pooled_projections": pooled,
        "guidance": torch.tensor([PUBLISHED["hunyuan_video"].guidance]),
    }
    given |= {"text": text[:, :TOKENS].clone(), "padded_text": text, "pooled": pooled}
    return given, [image, mask] if to_video else [], conditions


if __name__ == "__main__":
    main(Path(sys.argv[1]))
