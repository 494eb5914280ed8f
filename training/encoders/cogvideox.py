"""CogVideoX 2B, 5B and 1.5: T5, and an autoencoder of 16 channels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline
from torch import Tensor
from transformers import T5EncoderModel

from ..data.buckets import Size, SizeRule
from .folder import Layout
from .pipeline import PipelineEncoder


class CogVideoXEncoder(PipelineEncoder):
    """Text is all 226 tokens: T5 attends to its padding, and so does the network, which is told no mask.

    All runs in the precision in which it is stored: float16 of 2B, bfloat16 of the others. Which one it is stands in
    the config of the transformer. Latents are [B, C, T, H, W] as everywhere here; diffusers' network takes time first.
    """

    layout = Layout(
        models={"vae": "AutoencoderKLCogVideoX", "text_encoder": "t5"},
        tokenizers=("tokenizer",),
        described={"transformer": "CogVideoXTransformer3DModel"},
        example="zai-org/CogVideoX-5b",
    )
    tokens = 226
    precision = "as stored"

    def rule(self) -> SizeRule:
        """By 16 pixels; with patches of two latents (1.5) an even number of them; one size where positions are learned.

        The usual clip of 1.5 has the 22 latents that its pipeline samples when it is asked for 81 frames.
        """
        vae, network = self.folder.config("vae"), self.folder.config("transformer")
        channels = vae.get("latent_channels", 16)
        if group := network.get("patch_size_t"):
            return SizeRule(usual=Size(85, 768, 1360), fps=16.0, channels=channels, group=group)
        scale = 2 ** (len(vae["block_out_channels"]) - 1)
        trained = Size(
            network.get("sample_frames", 49),
            network.get("sample_height", 60) * scale,
            network.get("sample_width", 90) * scale,
        )
        learned = bool(network.get("use_learned_positional_embeddings"))
        return SizeRule(usual=trained, fps=8.0, channels=channels, scale=scale, only=learned)

    def text_pipeline(self) -> Any:
        """CogVideoXPipeline with T5."""
        dtype = self.folder.dtype("text_encoder")
        model = self.folder.load(T5EncoderModel, "text_encoder", self.device, dtype=dtype)
        absent: Any = None
        return CogVideoXPipeline(
            self.folder.tokenizer("tokenizer"), model, vae=absent, transformer=absent, scheduler=absent
        )

    def embedded(self, pipeline: Any, captions: list[str]) -> list[dict[str, Tensor]]:
        """The tokens of each caption with their padding."""
        for caption in captions:
            self.kept(caption, len(pipeline.tokenizer(caption).input_ids))
        padded, _ = pipeline.encode_prompt(
            captions, do_classifier_free_guidance=False, max_sequence_length=self.tokens, device=self.device
        )
        return [{"text": row} for row in padded]

    def autoencoder(self) -> Any:
        """As stored."""
        return self.folder.load(AutoencoderKLCogVideoX, "vae", self.device, torch_dtype=self.folder.dtype("vae"))

    def decoded(self, model: Any, raw: Tensor) -> Tensor:
        """It takes the first latent for the first frame only where their number is odd: else that one comes twice."""
        if raw.shape[2] % 2:
            return super().decoded(model, raw)
        return super().decoded(model, torch.cat([raw[:, :, :1], raw], 2))[:, :, self.size_rule.stride :]

    def statistics(self, config: Any) -> tuple[Tensor, Tensor]:
        """One factor for all channels: of latents too where the config inverts that of an image's."""
        return torch.zeros(1), torch.tensor([config.scaling_factor])


ENCODER = CogVideoXEncoder
