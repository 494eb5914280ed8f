"""Duck-typed CLIP, CLIP vision and VAE: right shapes and reproducible values, no files."""

import hashlib
from types import SimpleNamespace

import comfy.latent_formats
import torch
import torch.nn.functional as F
from torch import Tensor

TOKENS = 16


def random_text(seed: int, channels: int) -> list:
    """A CONDITIONING of seeded noise: [1, 16, channels], with the pooled vector HunyuanVideo asks for."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, TOKENS, channels, generator=generator)
    return [[text, {"pooled_output": torch.randn(1, 768, generator=generator)}]]


class RandomClip:
    """Every text has its own noise. The token count is constant: the host would otherwise repeat tokens."""

    def __init__(self, channels: int):
        self.channels = channels

    def tokenize(self, text: str, **_) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str, **_) -> list:
        seed = int.from_bytes(hashlib.sha256(tokens.encode()).digest()[:4], "big")
        return random_text(seed, self.channels)


class RandomVision:
    """What Wan's image-to-video network is told about a picture, noise here."""

    def encode_image(self, image: Tensor, **_) -> SimpleNamespace:
        generator = torch.Generator().manual_seed(0)
        return SimpleNamespace(penultimate_hidden_states=torch.randn(len(image), 257, 1280, generator=generator))


class PreviewVae:
    """Works with the colours that previews use: 4n + 1 frames of 8 times the latent's size, in no time."""

    def encode(self, images: Tensor) -> Tensor:
        """[4 (T - 1) + 1, 8 H, 8 W, 3] in 0..1 to [1, 16, T, H, W]."""
        factors = torch.tensor(comfy.latent_formats.Wan21().latent_rgb_factors, dtype=images.dtype)
        small = F.avg_pool2d(images[::4].movedim(-1, 1), 8)
        return torch.einsum("trhw,cr->cthw", small * 2 - 1, factors)[None]

    def decode(self, samples: Tensor) -> Tensor:
        """[B, 16, T, H, W] to [B, 4 (T - 1) + 1, 8 H, 8 W, 3] in 0..1."""
        factors = torch.tensor(comfy.latent_formats.Wan21().latent_rgb_factors, dtype=samples.dtype)
        images = torch.einsum("bcthw,cr->bthwr", samples, factors).clamp(-1, 1) / 2 + 0.5
        images = images.repeat_interleave(4, dim=1)[:, 3:]
        return images.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)

    def decode_tiled(self, samples: Tensor, **_) -> Tensor:
        return self.decode(samples)

    def temporal_compression_decode(self) -> int:
        return 4

    def spacial_compression_decode(self) -> int:
        return 8
