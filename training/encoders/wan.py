"""Wan 2.1 and 2.2: UMT5, and an autoencoder of 16 channels, or of the 48 that the 5B of 2.2 has."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils import is_ftfy_available
from torch import Tensor
from transformers import UMT5EncoderModel

from ..data.buckets import Size, SizeRule
from ..errors import ConfigError
from .folder import Layout
from .pipeline import PipelineEncoder

_SCALE_OF_2_2 = 16


class WanEncoder(PipelineEncoder):
    """Text is without the zeros that follow it up to 512 tokens: the network attends to them too, so add them again.

    The autoencoder runs in 32 bits and the text encoder in bfloat16, as with the pipeline, whatever they are stored in.
    """

    layout = Layout(
        models={"vae": "AutoencoderKLWan", "text_encoder": "umt5"},
        tokenizers=("tokenizer",),
        example="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    )
    tokens = 512
    precision = "vae float32, text bfloat16"

    def __init__(self, weights: str | None, device: torch.device):
        if not is_ftfy_available():  # the pipeline goes on without it, with other tokens
            raise ConfigError("Wan's captions are cleaned with ftfy, which is missing: python -m pip install ftfy")
        super().__init__(weights, device)

    def rule(self) -> SizeRule:
        """By 16 pixels, with the autoencoder of the 5B by 32."""
        config = self.folder.config("vae")
        scale = config.get("scale_factor_spatial", 8)
        usual, fps = (Size(121, 704, 1280), 24.0) if scale == _SCALE_OF_2_2 else (Size(81, 480, 832), 16.0)
        return SizeRule(usual=usual, fps=fps, channels=config.get("z_dim", 16), scale=scale)

    def text_pipeline(self) -> Any:
        """WanPipeline with UMT5."""
        model = self.folder.load(UMT5EncoderModel, "text_encoder", self.device, dtype=torch.bfloat16)
        absent: Any = None
        return WanPipeline(self.folder.tokenizer("tokenizer"), model, vae=absent, scheduler=absent)

    def embedded(self, pipeline: Any, captions: list[str]) -> list[dict[str, Tensor]]:
        """The tokens of each caption."""
        padded, _ = pipeline.encode_prompt(
            captions, do_classifier_free_guidance=False, max_sequence_length=self.tokens, device=self.device
        )
        counts = [len(pipeline.tokenizer(prompt_clean(caption)).input_ids) for caption in captions]
        kept = [self.kept(caption, count) for caption, count in zip(captions, counts, strict=True)]
        return [{"text": row[:count]} for row, count in zip(padded, kept, strict=True)]

    def autoencoder(self) -> Any:
        """In 32 bits."""
        return self.folder.load(AutoencoderKLWan, "vae", self.device, torch_dtype=torch.float32)

    def statistics(self, config: Any) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel."""
        return torch.tensor(config.latents_mean), 1 / torch.tensor(config.latents_std)


ENCODER = WanEncoder
