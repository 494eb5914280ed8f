"""Wan's image to video is told of a first frame what the pipeline of diffusers makes of it."""

import pytest
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline
from harness.encoder_folders import wan_2_2_folder, wan_image_folder
from PIL import Image
from transformers import AutoImageProcessor, CLIPVisionModel

from training.encoders.wan import WanEncoder, WanImageEncoder
from training.errors import ConfigError
from training.registry import build_encoder

CPU = torch.device("cpu")
FRAMES, HEIGHT, WIDTH = 9, 32, 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return wan_image_folder(tmp_path_factory.mktemp("wan"), seen=16)


def frame() -> torch.Tensor:
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.manual_seed(0))


@torch.no_grad()
def test_a_first_frame_is_told_as_the_pipeline_tells_it(folder):
    """Its ``prepare_latents`` of the picture, which is as large as the clip, and its ``encode_image``."""
    told = WanImageEncoder(str(folder), CPU).first_frame(frame(), FRAMES)
    vae = AutoencoderKLWan.from_pretrained(folder / "vae")
    model = CLIPVisionModel.from_pretrained(folder / "image_encoder")
    processor = AutoImageProcessor.from_pretrained(folder / "image_processor")
    pipeline = WanImageToVideoPipeline(None, None, vae, None, processor, model)
    picture = Image.fromarray(frame().permute(1, 2, 0).numpy())
    pixels = pipeline.video_processor.preprocess(picture, height=HEIGHT, width=WIDTH)
    _, condition = pipeline.prepare_latents(pixels, 1, 16, HEIGHT, WIDTH, FRAMES, torch.float32, CPU)
    assert told.keys() == {"image", "vision"} and told["image"].shape == (20, 3, 4, 6)
    torch.testing.assert_close(told["image"], condition[0])
    torch.testing.assert_close(told["vision"], pipeline.encode_image(picture)[0])
    assert told["vision"].shape == (257, 16) and told["image"].dtype == told["vision"].dtype == torch.float32
    mask = told["image"][:4]  # the first frame is there, the others are to be made
    assert (mask[:, 0] == 1).all() and not mask[:, 1:].any()


def test_its_latents_and_texts_are_those_of_text_to_video(folder):
    encoder, plain = WanImageEncoder(str(folder), CPU), WanEncoder(str(folder), CPU)
    pixels = frame().unsqueeze(0).unsqueeze(2)
    assert torch.equal(encoder.texts(["a cat"])[0]["text"], plain.texts(["a cat"])[0]["text"])
    assert torch.equal(encoder.latents(pixels), plain.latents(pixels))
    assert plain.first_frame(frame(), FRAMES) == {}
    assert encoder.fingerprint != plain.fingerprint


def test_that_of_2_2_is_told_no_embedding(tmp_path, folder):
    told = WanImageEncoder(str(wan_image_folder(tmp_path, seen=None)), CPU).first_frame(frame(), FRAMES)
    assert told.keys() == {"image"}
    assert torch.equal(told["image"], WanImageEncoder(str(folder), CPU).first_frame(frame(), FRAMES)["image"])


def test_the_weights_of_clip_are_a_part_of_the_fingerprint(tmp_path, folder):
    other = wan_image_folder(tmp_path, seen=16)
    clip = CLIPVisionModel.from_pretrained(other / "image_encoder")
    next(clip.parameters()).data += 1
    clip.save_pretrained(other / "image_encoder")
    assert WanImageEncoder(str(other), CPU).fingerprint != WanImageEncoder(str(folder), CPU).fingerprint


def test_what_is_missing_or_of_another_kind_is_named(tmp_path):
    text = wan_image_folder(tmp_path / "text", seen=None, in_channels=16)
    with pytest.raises(ConfigError, match="the network of .*text takes no channels of a first frame. Name a pipeline"):
        WanImageEncoder(str(text), CPU)
    with pytest.raises(ConfigError, match=r"lacks transformer/config.json"):
        WanImageEncoder(str(wan_2_2_folder(tmp_path / "5b")), CPU)
    lacking = wan_image_folder(tmp_path / "lacking", seen=16)
    (lacking / "image_processor" / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"lacks image_processor/preprocessor_config.json.* image_encoder, image_pro"):
        WanImageEncoder(str(lacking), CPU)


@pytest.mark.parametrize("name", ["hunyuan_video", "cogvideox", "shapes"])
def test_a_family_whose_image_to_video_cannot_be_trained_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"--image-to-video: image to video of {name} cannot be trained here"):
        build_encoder(name, None, CPU, image=True)
