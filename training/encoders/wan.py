"""Wan 2.1 and 2.2: UMT5, and an autoencoder of 16 channels, or of the 48 that the 5B of 2.2 has."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils import is_ftfy_available
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModel, UMT5EncoderModel
from transformers.utils import logging

from ..data.buckets import Size, SizeRule
from ..errors import ConfigError
from .folder import Layout, PipelineFolder
from .pipeline import PipelineEncoder

_SCALE_OF_2_2 = 16
_IMAGE_EXAMPLE = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
_VISION = Layout(
    models={"image_encoder": "clip_vision_model"},
    processors=("image_processor",),
    tokenizers=(),
    example=_IMAGE_EXAMPLE,
)


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


class WanImageEncoder(WanEncoder):
    """Image to video, of 2.1 and of 2.2's pair: the first frame as latents, and for 2.1 what CLIP sees in it.

    Both as WanImageToVideoPipeline makes them of an image that is as large as the clip. CLIP runs in 32 bits.
    """

    layout = replace(WanEncoder.layout, described={"transformer": "WanTransformer3DModel"}, example=_IMAGE_EXAMPLE)
    takes_image = True

    def __init__(self, weights: str | None, device: torch.device):
        super().__init__(weights, device)
        network = self.folder.config("transformer")
        if network.get("in_channels", 16) == network.get("out_channels", 16):
            raise ConfigError(
                f"--image-to-video: the network of {weights} takes no channels of a first frame. Name a pipeline of "
                f"image to video, such as {_IMAGE_EXAMPLE}, or leave --image-to-video out."
            )
        self.clip = PipelineFolder(weights, _VISION) if network.get("image_dim") else None
        parts = f"{self.fingerprint} first frame {self.clip.fingerprint('float32') if self.clip else ''}"
        self.fingerprint = hashlib.sha256(parts.encode()).hexdigest()
        self._image_pipeline: Any = None

    def first_frame(self, frame: Tensor, frames: int) -> dict[str, Tensor]:
        """See ``Encoder``. ``image``: four channels of a mask, and the latents of the frame with gray ones after it."""
        pipeline, (_, height, width) = self._of_images(), frame.shape
        pixels = frame.unsqueeze(0).to(self.device) / 127.5 - 1
        drawn, channels = torch.empty(0), pipeline.vae.config.z_dim  # the noise that it would draw is of no use here
        with torch.no_grad():
            _, image = pipeline.prepare_latents(
                pixels, 1, channels, height, width, frames, torch.float32, self.device, latents=drawn
            )
            told = {"image": image[0].cpu()}
            if self.clip is not None:
                picture = Image.fromarray(frame.permute(1, 2, 0).cpu().numpy())
                told["vision"] = pipeline.encode_image(picture, self.device)[0].cpu()
        return told

    def _of_images(self) -> Any:
        """WanImageToVideoPipeline with the autoencoder, and CLIP where the network is told what it sees."""
        if self._image_pipeline is None:
            # It imports the processor of CLIP, which warns of torchvision where Pillow does its work, as here.
            verbosity = logging.get_verbosity()
            logging.set_verbosity_error()
            try:
                from diffusers import WanImageToVideoPipeline
            finally:
                logging.set_verbosity(verbosity)
            absent: Any = None
            seeing: dict[str, Any] = {}
            if self.clip is not None:
                model = self.clip.load(CLIPVisionModel, "image_encoder", self.device, dtype=torch.float32)
                seeing = {"image_encoder": model, "image_processor": self.clip.processor("image_processor")}
            self._image_pipeline = WanImageToVideoPipeline(
                absent, absent, vae=self._only_autoencoder(), scheduler=absent, **seeing
            )
        return self._image_pipeline


ENCODER = WanEncoder
IMAGE_ENCODER = WanImageEncoder
