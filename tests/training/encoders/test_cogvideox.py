"""CogVideoX's encoders give what the pipeline of diffusers computes from the same folder."""

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline
from harness.encoder_folders import WIDTH, cogvideox_folder
from transformers import AutoTokenizer, T5EncoderModel

from training.data.buckets import Size
from training.encoders.cogvideox import CogVideoXEncoder

CPU = torch.device("cpu")
CAPTIONS = ["A panda &amp; a guitar", "", "long " * 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cogvideox_folder(tmp_path_factory.mktemp("cogvideox"))


@pytest.fixture
def encoder(folder):
    return CogVideoXEncoder(str(folder), CPU)


def pipeline_of(folder):
    return CogVideoXPipeline(
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        T5EncoderModel.from_pretrained(folder / "text_encoder"),
        AutoencoderKLCogVideoX.from_pretrained(folder / "vae"),
        transformer=None,
        scheduler=None,
    )


@torch.no_grad()
def test_texts_are_those_of_the_pipeline_with_their_padding(folder, encoder):
    expected, empty = pipeline_of(folder).encode_prompt(CAPTIONS)
    found = torch.stack([each["text"] for each in encoder.texts(CAPTIONS)])
    assert found.shape == (3, 226, WIDTH) and torch.equal(found, expected)
    assert found[1].any(-1).all(), "what follows the empty caption is no zeros"
    torch.testing.assert_close(encoder.texts([""])[0]["text"], empty[0])


def test_a_caption_that_is_too_long_is_said_once(encoder, caplog, capfd):
    encoder.texts(["short", "word " * 60])
    (record,) = caplog.records
    assert record.message.endswith("' has 301 tokens, of which the network reads the first 226.")
    assert "truncated" not in capfd.readouterr().err


@pytest.mark.parametrize("factor", [1.15258426, 0.7])
@torch.no_grad()
def test_latents_are_the_mean_by_the_factor_that_comfyui_has_too(tmp_path, factor):
    """2B has the one, 5B and 1.5 the other; the config of the autoencoder says which."""
    folder = cogvideox_folder(tmp_path, vae={"scaling_factor": factor})
    encoder = CogVideoXEncoder(str(folder), CPU)
    pixels = torch.randint(0, 256, (2, 3, 9, 32, 48), dtype=torch.uint8)
    pipeline = pipeline_of(folder)
    raw = pipeline.vae.encode(pixels / 127.5 - 1).latent_dist.mode()
    latents = encoder.latents(pixels)
    torch.testing.assert_close(latents, raw * factor)
    assert latents[0].shape == encoder.size_rule.latent_shape(Size(9, 32, 48))
    torch.testing.assert_close(encoder.latents(pixels[1:]), latents[1:])
    shown = pipeline.decode_latents(latents.transpose(1, 2))  # time first, as that pipeline has it
    torch.testing.assert_close(encoder.decode(latents), shown.clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_an_even_number_of_latents_is_shown_with_as_many_frames_as_it_was_made_of(encoder):
    frames = torch.rand(1, 3, 13, 32, 48) * 2 - 1
    latents = encoder.latents(frames)
    assert latents.shape[2] == 4 and encoder.decode(latents).shape == frames.shape


def test_what_2b_and_5b_take(encoder):
    rule = encoder.size_rule
    assert (rule.usual, rule.fps, rule.channels, rule.multiple) == (Size(49, 480, 720), 8, 16, 16)
    assert rule.allows(Size(13, 48, 64)) and not rule.allows(Size(12, 48, 64))


def test_1_5_takes_even_numbers_of_latents(tmp_path):
    rule = CogVideoXEncoder(str(cogvideox_folder(tmp_path, patch_size_t=2)), CPU).size_rule
    assert rule.allows(rule.usual) and rule.latent_shape(rule.usual) == (16, 22, 96, 170) and rule.fps == 16
    assert rule.allows(Size(13, 48, 64)) and not rule.allows(Size(17, 48, 64)) and not rule.allows(Size(1, 48, 64))


def test_learned_positions_are_of_one_size(tmp_path):
    told = {"sample_frames": 9, "sample_height": 6, "sample_width": 8, "use_learned_positional_embeddings": True}
    rule = CogVideoXEncoder(str(cogvideox_folder(tmp_path, **told)), CPU).size_rule
    assert rule.only and rule.allows(Size(9, 48, 64)) and not rule.allows(Size(5, 48, 64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_runs_in_the_precision_in_which_it_is_stored(tmp_path, dtype):
    encoder = CogVideoXEncoder(str(cogvideox_folder(tmp_path, dtype=dtype)), CPU)
    assert encoder.texts(["a cat"])[0]["text"].dtype == dtype
    latents = encoder.latents(torch.zeros(1, 3, 5, 16, 16, dtype=torch.uint8))
    assert encoder._only_autoencoder().dtype == dtype and latents.dtype == torch.float32
