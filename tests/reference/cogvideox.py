"""CogVideoX with both experts, run by diffusers and peft: as its pipelines run it, with this project's boundary.

No experts were published for CogVideoX. The weights have the form of the published bundles of other families, and the
steps are DDIM's (arXiv 2010.02502) from the noise levels of diffusers' scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.pipelines.cogvideo.pipeline_cogvideox import (
    get_3d_rotary_pos_embed,
    get_resize_crop_region_for_grid,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from .inference import expert
from .networks import Kind

SEED = 7
LAST_DETAIL_TIMESTEP = 769
TIMESTEPS = (999, 879, 759, 379)
SEMANTIC_TIMESTEP, DETAIL_TIMESTEP = 879, 379
TOKENS = 226  # to which the text is padded, nothing masked
# What ComfyUI has for the last cumulative alpha, so that its sigma is finite; diffusers has 0.
TERMINAL_ALPHA = 4.8973451890853435e-08


@dataclass(frozen=True)
class CogVideoX:
    """A kind of network, the SNR shift of its noise levels, and the latents [B, C, T, H, W] it is run on."""

    kind: Kind
    snr_shift: float = 1.0
    shape: tuple[int, ...] = (1, 16, 3, 8, 12)

    @property
    def takes_image(self) -> bool:
        return self.kind.sizes.get("in_channels", 16) > 16

    def alphas(self, terminal: float) -> Tensor:
        levels = CogVideoXDDIMScheduler(snr_shift_scale=self.snr_shift, rescale_betas_zero_snr=True)
        levels.alphas_cumprod[-1] = terminal
        return levels.alphas_cumprod


_KIND = Kind(
    "cogvideox",
    CogVideoXTransformer3DModel,
    {
        "num_attention_heads": 3,
        "attention_head_dim": 64,
        "num_layers": 2,
        "text_embed_dim": 256,
        "time_embed_dim": 64,
        "sample_width": 90,
        "sample_height": 60,
        "use_rotary_positional_embeddings": True,
    },
    ("time_embedding", "norm_out", "proj_out"),
)


def _with(**sizes: object) -> Kind:
    return replace(_KIND, sizes=_KIND.sizes | sizes)


KINDS = {
    "cogvideox": CogVideoX(_KIND),
    "cogvideox_2b": CogVideoX(_with(use_rotary_positional_embeddings=False), snr_shift=3.0),
    # Its table of positions is for this size alone.
    "cogvideox_i2v": CogVideoX(_with(in_channels=32, use_learned_positional_embeddings=True), shape=(1, 16, 1, 60, 90)),
    "cogvideox_15_i2v": CogVideoX(
        _with(in_channels=32, patch_size_t=2, ofs_embed_dim=64, sample_width=170, sample_height=96),
        shape=(1, 16, 4, 8, 12),
    ),
}


def main(folder: Path) -> None:
    """`<kind>/diffusers`: the semantic expert alone; `<kind>/released`: both; `<kind>.safetensors`: their results."""
    for name, this in KINDS.items():
        network = this.kind.build()
        network.save_pretrained(folder / name / "diffusers")
        this.kind.add_detail_expert(network)
        released = folder / name / "released"
        released.mkdir()
        save_file(network.state_dict(), released / "diffusion_pytorch_model.safetensors")
        save_file(expectations(network, this), folder / f"{name}.safetensors")


@torch.inference_mode()
def expectations(network: nn.Module, this: CogVideoX) -> dict[str, Tensor]:
    """`text`, `image`: what a ComfyUI conditioning holds. `semantic`, `detail`: clean latents by one call of each.

    `latents`, `latents_from_zero`: a whole run from the noise of SEED, with ComfyUI's last alpha and with diffusers'.
    """
    noise = torch.randn(this.shape, generator=torch.manual_seed(SEED))
    generator = torch.Generator().manual_seed(11)
    given = {"text": torch.randn(1, TOKENS, 256, generator=generator)}
    if this.takes_image:
        given["image"] = torch.randn(this.shape, generator=generator)
    alphas = this.alphas(TERMINAL_ALPHA)
    expected = {}
    for name, timestep in (("semantic", SEMANTIC_TIMESTEP), ("detail", DETAIL_TIMESTEP)):
        x = (1 - alphas[timestep]).sqrt().float() * noise
        expected[name] = clean(x, velocity(network, this, x, timestep, given), alphas[timestep])
    expected["latents"] = trajectory(network, this, noise, given, alphas)
    expected["latents_from_zero"] = trajectory(network, this, noise, given, this.alphas(0.0))
    return expected | given


def velocity(network: nn.Module, this: CogVideoX, x: Tensor, timestep: int, given: dict[str, Tensor]) -> Tensor:
    """One call of the expert that the timestep belongs to: x [B, C, T, H, W] to a velocity like it."""
    beside = [given["image"]] if this.takes_image else []
    frames = torch.cat([x, *beside], dim=1).transpose(1, 2)
    ofs = {"ofs": torch.full((1,), 2.0)} if network.config.ofs_embed_dim else {}
    with expert(network, this.kind, detail=timestep <= LAST_DETAIL_TIMESTEP):
        out = network(
            frames,
            given["text"],
            torch.tensor([timestep]),
            image_rotary_emb=rotary(network.config, frames),
            return_dict=False,
            **ofs,
        )[0]
    return out.transpose(1, 2)


def rotary(config, frames: Tensor) -> tuple[Tensor, Tensor] | None:
    """The rotary positions as the pipelines prepare them, for frames [B, T, C, H, W]."""
    if not config.use_rotary_positional_embeddings:
        return None
    count, height, width = frames.shape[1], frames.shape[3] // 2, frames.shape[4] // 2
    trained = config.sample_height // 2, config.sample_width // 2
    if config.patch_size_t is None:
        region = get_resize_crop_region_for_grid((height, width), trained[1], trained[0])
        return get_3d_rotary_pos_embed(64, region, (height, width), count)
    return get_3d_rotary_pos_embed(
        64, None, (height, width), count // config.patch_size_t, grid_type="slice", max_size=trained
    )


def clean(x: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    return (alpha.sqrt() * x - (1 - alpha).sqrt() * v).float()


def trajectory(network: nn.Module, this: CogVideoX, noise: Tensor, given: dict[str, Tensor], alphas: Tensor) -> Tensor:
    """DDIM over TIMESTEPS, without fresh noise: from the noise to clean latents."""
    x = noise
    for timestep, following in zip(TIMESTEPS, (*TIMESTEPS[1:], None), strict=True):
        alpha = alphas[timestep]
        v = velocity(network, this, x, timestep, given)
        x0, epsilon = clean(x, v, alpha), (alpha.sqrt() * v + (1 - alpha).sqrt() * x).float()
        if following is None:
            return x0
        x = (alphas[following].sqrt() * x0 + (1 - alphas[following]).sqrt() * epsilon).float()
