"""HunyuanVideo: LLaMA told what to look at, CLIP's pooled text, and an autoencoder of 16 channels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor
from transformers import CLIPTextModel, LlamaModel

from ..data.buckets import Size, SizeRule
from .folder import Layout
from .pipeline import PipelineEncoder

_TEMPLATE: str = DEFAULT_PROMPT_TEMPLATE["template"]


class HunyuanVideoEncoder(PipelineEncoder):
    """All runs in the precision in which it is stored: float16 in the released folder.

    The autoencoder works in tiles, as the pipeline is used and as the published training set was encoded.
    """

    layout = Layout(
        models={"vae": "AutoencoderKLHunyuanVideo", "text_encoder": "llama", "text_encoder_2": "clip_text_model"},
        tokenizers=("tokenizer", "tokenizer_2"),
        example="hunyuanvideo-community/HunyuanVideo",
    )
    tokens = 256
    precision = f"as stored, vae tiled, {_TEMPLATE}"

    def rule(self) -> SizeRule:
        """By 16 pixels."""
        config = self.folder.config("vae")
        return SizeRule(
            usual=Size(129, 720, 1280),
            fps=24.0,
            channels=config.get("latent_channels", 16),
            scale=config.get("spatial_compression_ratio", 8),
            stride=config.get("temporal_compression_ratio", 4),
        )

    def text_pipeline(self) -> Any:
        """HunyuanVideoPipeline with LLaMA and CLIP."""
        models = {
            part: self.folder.load(kind, part, self.device, dtype=self.folder.dtype(part))
            for part, kind in (("text_encoder", LlamaModel), ("text_encoder_2", CLIPTextModel))
        }
        tokenizers = {part: self.folder.tokenizer(part) for part in self.layout.tokenizers}
        absent: Any = None
        return HunyuanVideoPipeline(**models, **tokenizers, transformer=absent, vae=absent, scheduler=absent)

    def embedded(self, pipeline: Any, captions: list[str]) -> list[dict[str, Tensor]]:
        """The tokens of each caption, and of what closes the template, after two layers fewer than LLaMA has."""
        # Counted: the pipeline takes the number that its own tokenizer makes for granted.
        instruction = len(pipeline.tokenizer(_TEMPLATE.partition("{}")[0]).input_ids)
        padded, pooled, mask = pipeline.encode_prompt(
            captions,
            prompt_template={"template": _TEMPLATE, "crop_start": instruction},
            max_sequence_length=self.tokens,
            device=self.device,
        )
        for caption in captions:
            self.kept(caption, len(pipeline.tokenizer(_TEMPLATE.format(caption)).input_ids) - instruction)
        return [
            {"text": row[there.bool()], "pooled": vector}
            for row, there, vector in zip(padded, mask, pooled, strict=True)
        ]

    def autoencoder(self) -> Any:
        """As stored, in tiles."""
        model = self.folder.load(AutoencoderKLHunyuanVideo, "vae", self.device, torch_dtype=self.folder.dtype("vae"))
        model.enable_tiling()
        return model

    def statistics(self, config: Any) -> tuple[Tensor, Tensor]:
        """One factor for all channels."""
        return torch.zeros(1), torch.tensor([config.scaling_factor])


ENCODER = HunyuanVideoEncoder
