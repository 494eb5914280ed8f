"""Wan's encoders give what the pipeline of diffusers computes from the same folder."""

import weakref

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from harness.encoder_folders import WIDTH, wan_2_2_folder, wan_folder
from transformers import AutoTokenizer, UMT5EncoderModel

from training.data.buckets import Size
from training.encoders import wan
from training.errors import ConfigError

CPU = torch.device("cpu")
CAPTIONS = ["A cat &amp; a dog ", "", "\u201csmart\u201d  quotes\nand l\u00e2\u20ac\u2122accent", "long " * 150]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return wan_folder(tmp_path_factory.mktemp("wan"))


@pytest.fixture
def encoder(folder):
    return wan.WanEncoder(str(folder), CPU)


def pipeline_of(folder):
    model = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.bfloat16)
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    return WanPipeline(AutoTokenizer.from_pretrained(folder / "tokenizer"), model, vae, scheduler=None)


@torch.no_grad()
def test_texts_are_those_of_the_pipeline_without_the_zeros_after_them(folder, encoder):
    expected, empty = pipeline_of(folder).encode_prompt(CAPTIONS, max_sequence_length=512)
    texts = [each["text"] for each in encoder.texts(CAPTIONS)]
    # cleaned by ftfy: quotes made straight, what was decoded wrongly made good
    assert [len(text) for text in texts] == [len("A cat & a dog") + 1, 1, len("'smart' quotes and l'accent") + 1, 512]
    for text, row in zip(texts, expected, strict=True):
        assert text.dtype == torch.bfloat16 and text.shape[1] == WIDTH
        assert torch.equal(text, row[: len(text)]) and not row[len(text) :].any()
    assert torch.equal(encoder.texts([""])[0]["text"], empty[0, :1])


def test_a_caption_that_is_too_long_is_cut_and_that_is_said(encoder, caplog):
    encoder.texts(["short", "very " * 103])
    (record,) = caplog.records
    assert record.message.endswith("very ...' has 515 tokens, of which the network reads the first 512.")


def test_without_ftfy_it_refuses_since_the_pipeline_would_go_on_with_other_tokens(folder, monkeypatch):
    monkeypatch.setattr(wan, "is_ftfy_available", lambda: False)
    with pytest.raises(ConfigError, match="pip install ftfy"):
        wan.WanEncoder(str(folder), CPU)


@pytest.mark.parametrize(("make", "frames"), [(wan_folder, (9, 32, 48)), (wan_2_2_folder, (5, 64, 96))])
@torch.no_grad()
def test_latents_are_the_mean_normalised_by_channel(tmp_path, make, frames):
    folder = make(tmp_path)
    encoder = wan.WanEncoder(str(folder), CPU)
    pixels = torch.randint(0, 256, (2, 3, *frames), dtype=torch.uint8)
    vae = pipeline_of(folder).vae
    raw = vae.encode(pixels / 127.5 - 1).latent_dist.mode()
    mean, std = (torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    latents = encoder.latents(pixels)
    torch.testing.assert_close(latents, (raw - mean) / std)
    assert latents.dtype == torch.float32 and latents[0].shape == encoder.size_rule.latent_shape(Size(*frames))
    torch.testing.assert_close(encoder.latents(pixels / 127.5 - 1), latents)
    torch.testing.assert_close(encoder.latents(pixels[1:]), latents[1:])
    torch.testing.assert_close(encoder.decode(latents), vae.decode(raw).sample, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_latents_are_those_that_comfyui_samples(folder, encoder):
    """The first and last channel's numbers in its latent format ``Wan21``: (raw - mean) / std."""
    pixels = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    raw = pipeline_of(folder).vae.encode(pixels).latent_dist.mode()
    latents = encoder.latents(pixels)
    torch.testing.assert_close(latents[:, 0], (raw[:, 0] + 0.7571) / 2.8184)
    torch.testing.assert_close(latents[:, 15], (raw[:, 15] + 0.2921) / 1.9160)


def test_what_it_takes(encoder, tmp_path):
    rule = encoder.size_rule
    assert (rule.usual, rule.fps, rule.channels, rule.multiple) == (Size(81, 480, 832), 16, 16, 16)
    assert rule.allows(Size(5, 48, 64)) and not rule.allows(Size(6, 48, 64)) and not rule.allows(Size(5, 48, 72))
    of_5b = wan.WanEncoder(str(wan_2_2_folder(tmp_path)), CPU).size_rule
    assert (of_5b.usual, of_5b.fps, of_5b.channels, of_5b.multiple) == (Size(121, 704, 1280), 24, 48, 32)
    assert of_5b.allows(Size(5, 64, 96)) and not of_5b.allows(Size(5, 64, 80))


def test_the_text_encoder_is_let_go_before_the_autoencoder_is_loaded(encoder, monkeypatch):
    encoder.texts(["a cat"])
    model = weakref.ref(encoder._pipeline.text_encoder)
    alive = []
    load = encoder.autoencoder
    monkeypatch.setattr(encoder, "autoencoder", lambda: alive.append(model()) or load())
    encoder.latents(torch.zeros(1, 3, 1, 16, 16, dtype=torch.uint8))
    assert alive == [None]


def test_what_image_to_video_imports_is_not_imported_for_text_to_video():
    """Its pipeline imports the processor of CLIP, which warns of torchvision."""
    assert not hasattr(wan, "WanImageToVideoPipeline")
