"""HunyuanVideo's encoders give what the pipeline of diffusers computes from the same folder."""

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from harness.encoder_folders import WIDTH, hunyuan_video_folder
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel

from training.data.buckets import Size
from training.encoders.hunyuan_video import HunyuanVideoEncoder

CPU = torch.device("cpu")
CAPTIONS = ["A cat {walks} on the grass", "", "l'été", "long " * 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return hunyuan_video_folder(tmp_path_factory.mktemp("hunyuan_video"))


@pytest.fixture
def encoder(folder):
    return HunyuanVideoEncoder(str(folder), CPU)


def pipeline_of(folder):
    return HunyuanVideoPipeline(
        LlamaModel.from_pretrained(folder / "text_encoder"),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        transformer=None,
        vae=AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae"),
        scheduler=None,
        text_encoder_2=CLIPTextModel.from_pretrained(folder / "text_encoder_2"),
        tokenizer_2=AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
    )


def template():
    """The pipeline's, and how many of this tokenizer's tokens come before the caption: a letter each, but for those
    in brackets, and the one at the beginning."""
    text = DEFAULT_PROMPT_TEMPLATE["template"]
    before = text[: text.index("{}")]
    for special in ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"):
        before = before.replace(special, "#")
    return {"template": text, "crop_start": 1 + len(before)}


@torch.no_grad()
def test_texts_are_those_of_the_pipeline_where_its_mask_has_tokens(folder, encoder):
    text, pooled, mask = pipeline_of(folder).encode_prompt(CAPTIONS, prompt_template=template())
    found = encoder.texts(CAPTIONS)
    # a letter of two bytes is two tokens here, and the template closes with one
    assert [len(each["text"]) for each in found] == [len(CAPTIONS[0]) + 1, 1, len("l'été") + 3, 256]
    for each, row, there, vector in zip(found, text, mask, pooled, strict=True):
        assert torch.equal(each["text"], row[there.bool()]) and torch.equal(each["pooled"], vector)
        assert each["text"].shape[1] == len(each["pooled"]) == WIDTH
    alone = encoder.texts(CAPTIONS[:1])[0]["text"]
    torch.testing.assert_close(alone, found[0]["text"])


@torch.no_grad()
def test_texts_begin_where_the_caption_does(folder, encoder):
    """Computed without the pipeline: two layers before the last one's output, cut behind the instruction."""
    pipeline = pipeline_of(folder)
    ids = pipeline.tokenizer(template()["template"].format("hello")).input_ids
    states = pipeline.text_encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states
    letters = [ids[-1 - len("hello") + number] for number in range(len("hello"))]
    assert pipeline.tokenizer.decode(letters) == "hello"
    found = encoder.texts(["hello"])[0]["text"]
    torch.testing.assert_close(found, states[2][0, -len(letters) - 1 :])  # of four layers, after the second


def test_only_what_llama_cuts_is_said(encoder, caplog, capfd):
    encoder.texts(["word " * 30])  # CLIP cuts it at 77
    assert not caplog.records and "truncated" not in capfd.readouterr().err
    encoder.texts(["word " * 60])
    assert [record.message[-67:] for record in caplog.records] == [
        "word ...' has 301 tokens, of which the network reads the first 256."
    ]


@torch.no_grad()
def test_latents_are_the_mean_by_the_factor_that_comfyui_has_too(folder, encoder):
    pixels = torch.randint(0, 256, (2, 3, 9, 32, 48), dtype=torch.uint8)
    vae = pipeline_of(folder).vae
    raw = vae.encode(pixels / 127.5 - 1).latent_dist.mode()
    latents = encoder.latents(pixels)
    torch.testing.assert_close(latents, raw * vae.config.scaling_factor)
    torch.testing.assert_close(latents, raw * 0.476986)
    assert latents[0].shape == encoder.size_rule.latent_shape(Size(9, 32, 48))
    torch.testing.assert_close(encoder.latents(pixels[1:]), latents[1:])
    torch.testing.assert_close(encoder.decode(latents), vae.decode(raw).sample.clamp(-1, 1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_large_clips_are_encoded_in_tiles_as_the_pipeline_is_used(folder, encoder):
    pixels = torch.rand(1, 3, 1, 16, 272) * 2 - 1
    vae = pipeline_of(folder).vae
    whole = vae.encode(pixels).latent_dist.mode() * 0.476986
    vae.enable_tiling()
    tiled = vae.encode(pixels).latent_dist.mode() * 0.476986
    assert not torch.allclose(whole, tiled)
    torch.testing.assert_close(encoder.latents(pixels), tiled)


def test_what_it_takes(encoder):
    rule = encoder.size_rule
    assert (rule.usual, rule.fps, rule.channels, rule.multiple) == (Size(129, 720, 1280), 24, 16, 16)
    assert rule.tokens(rule.usual) == 118_800
    assert rule.allows(Size(1, 48, 64)) and not rule.allows(Size(4, 48, 64)) and not rule.allows(Size(5, 40, 64))
