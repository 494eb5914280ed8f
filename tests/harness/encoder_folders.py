"""Folders in the layout of diffusers: tiny autoencoders and text encoders of the real classes, and tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLHunyuanVideo, AutoencoderKLWan
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 16
_LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>")
_CLIP = ("<|startoftext|>", "<|endoftext|>")
_SMALL_VAE = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}
_WAN_2_2 = {"z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
            "decoder_base_dim": 4, "scale_factor_spatial": 16, "latents_mean": [0.01 * i for i in range(48)],
            "latents_std": [1 + 0.02 * i for i in range(48)]}  # fmt: skip

_SEEING = {
    "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_resize": True, "resample": 3, "size": {"shortest_edge": 224},
    "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


def tokenizer(specials: tuple[str, ...], before: str = "", after: str = "", **names: Any) -> Any:
    """Of letters and special tokens, of which some stand ``before`` and ``after`` each text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*specials, *alphabet])}
    letters = Tokenizer(models.BPE(vocabulary, merges=[]))
    letters.add_special_tokens(list(specials))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    single = " ".join(part for part in (before, "$A", after) if part)
    around = [(token, vocabulary[token]) for token in (before, after) if token]
    letters.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=letters, padding_side="right", **names)


def wan_folder(folder: Path, width: int = WIDTH, **changes: Any) -> Path:
    """Wan's, for texts of ``width`` channels; ``changes`` of its autoencoder."""
    vae = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1} | changes
    _save(folder / "vae", lambda: AutoencoderKLWan(**vae))
    _save_t5(folder, UMT5EncoderModel, UMT5Config, width)
    return folder


def wan_2_2_folder(folder: Path) -> Path:
    """With the kind of autoencoder that the 5B has."""
    return wan_folder(folder, **_WAN_2_2)


def wan_image_folder(folder: Path, width: int = WIDTH, seen: int | None = 1280, **transformer: Any) -> Path:
    """Of image to video, with a CLIP of ``seen`` channels, or without as the pair of 2.2 has none."""
    wan_folder(folder, width)
    told = {"_class_name": "WanTransformer3DModel", "in_channels": 36, "out_channels": 16, "image_dim": seen}
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps(told | transformer), "utf-8")
    if seen is not None:
        sizes = {"intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
        clip = CLIPVisionConfig(hidden_size=seen, image_size=224, **sizes)
        _save(folder / "image_encoder", lambda: CLIPVisionModel(clip))
        (folder / "image_processor").mkdir()
        (folder / "image_processor" / "preprocessor_config.json").write_text(json.dumps(_SEEING), "utf-8")
    return folder


def hunyuan_video_folder(folder: Path, width: int = WIDTH, pooled: int = WIDTH) -> Path:
    """HunyuanVideo's, whose LLaMA has four layers, for texts of ``width`` channels and one vector of ``pooled``."""
    _save(folder / "vae", lambda: AutoencoderKLHunyuanVideo(**_SMALL_VAE))
    words = tokenizer(_LLAMA, before=_LLAMA[0], bos_token=_LLAMA[0], eos_token=_LLAMA[3], pad_token=_LLAMA[4])
    words.save_pretrained(folder / "tokenizer")
    sizes = {"intermediate_size": 24, "num_attention_heads": 2}
    llama = LlamaConfig(vocab_size=len(words), hidden_size=width, num_hidden_layers=4, num_key_value_heads=2, **sizes)
    _save(folder / "text_encoder", lambda: LlamaModel(llama))
    pairs = tokenizer(_CLIP, *_CLIP, bos_token=_CLIP[0], eos_token=_CLIP[1], pad_token=_CLIP[1], model_max_length=77)
    pairs.save_pretrained(folder / "tokenizer_2")
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    clip = CLIPTextConfig(vocab_size=len(pairs), hidden_size=pooled, num_hidden_layers=2, **sizes, **ends)
    _save(folder / "text_encoder_2", lambda: CLIPTextModel(clip))
    return folder


def cogvideox_folder(
    folder: Path,
    width: int = WIDTH,
    vae: Mapping[str, Any] = {},
    dtype: torch.dtype = torch.float32,
    **transformer: Any,
) -> Path:
    """CogVideoX's, for texts of ``width`` channels; changes of its autoencoder, the precision of all, and what the
    config of its transformer says."""
    _save(folder / "vae", lambda: AutoencoderKLCogVideoX(**_SMALL_VAE, **vae), dtype)
    _save_t5(folder, T5EncoderModel, T5Config, width, dtype)
    (folder / "transformer").mkdir()
    told = {"_class_name": "CogVideoXTransformer3DModel", **transformer}
    (folder / "transformer" / "config.json").write_text(json.dumps(told), "utf-8")
    return folder


def _save_t5(folder: Path, kind: Any, config: Any, width: int, dtype: torch.dtype = torch.float32) -> None:
    words = tokenizer(("<pad>", "</s>", "<unk>"), after="</s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    words.save_pretrained(folder / "tokenizer")
    sizes = {"d_model": width, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": 2}
    t5 = config(vocab_size=len(words), feed_forward_proj="gated-gelu", **sizes)
    _save(folder / "text_encoder", lambda: kind(t5), dtype)


def _save(folder: Path, made: Callable[[], Any], dtype: torch.dtype = torch.float32) -> None:
    """Random weights that are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made().to(dtype).save_pretrained(folder)
