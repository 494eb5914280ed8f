"""The embedded world through the host's own API: prompt to mp4 in 4 steps, judged by the read-out of its pixels."""

import io

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dcm_core.shapes.captions import Attributes
from dcm_core.shapes.readout import read_clip

STEPS = 4
ENLARGED = 8  # h264 halves the resolution of colour: a pixel of the clip has to be wider than that
PROMPTS = [
    Attributes("red", "striped", "circle", "left", "fast"),
    Attributes("green", "dotted", "square", "right", "slowly"),
    Attributes("blue", "plain", "triangle", "up", "fast"),
    Attributes("yellow", "striped", "square", "down", "fast"),
    Attributes("red", "dotted", "triangle", "right", "fast"),
    Attributes("green", "plain", "circle", "up", "slowly"),
    Attributes("blue", "striped", "square", "left", "slowly"),
    Attributes("yellow", "dotted", "circle", "down", "fast"),
]


def shapes_prompt(caption: str, seed: int) -> dict:
    """What the shipped Shapes workflow sends, in API format."""
    nodes = {
        "world": ("DCMShapes", {"batch_size": 1}),
        "text": ("CLIPTextEncode", {"text": caption, "clip": ["world", 3]}),
        "none": ("CLIPTextEncode", {"text": "", "clip": ["world", 3]}),
        "experts": (
            "DCMApplyExperts",
            {"model": ["world", 0], "semantic_expert": ["world", 1], "detail_expert": ["world", 2]},
        ),
        "sampler": (
            "DCMKSampler",
            {"model": ["experts", 0], "seed": seed, "steps": STEPS, "cfg": 1.0}
            | {"positive": ["text", 0], "negative": ["none", 0], "latent_image": ["world", 5]},
        ),
        "frames": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["world", 4]}),
        "large": (
            "ImageScaleBy",
            {"image": ["frames", 0], "upscale_method": "nearest-exact", "scale_by": float(ENLARGED)},
        ),
        "video": ("CreateVideo", {"images": ["large", 0], "fps": 8.0}),
        "file": (
            "SaveVideo",
            {"video": ["video", 0], "filename_prefix": "shapes", "format": "mp4", "codec": "h264"},
        ),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def decode_mp4(data: bytes) -> torch.Tensor:
    """An mp4 to a clip [3, T, 24, 24] in -1..1."""
    with av.open(io.BytesIO(data)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    clip = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1
    return torch.nn.functional.avg_pool3d(clip, (1, ENLARGED, ENLARGED))


@pytest.fixture(scope="module")
def runs(client):
    """Every prompt once: (prompted attributes, what the host said)."""
    return [(wanted, client.run(shapes_prompt(wanted.caption(), seed))) for seed, wanted in enumerate(PROMPTS)]


def test_every_prompt_ends_in_success(runs):
    assert [run.error for _, run in runs] == [""] * len(PROMPTS)


def test_one_progress_event_per_step(runs):
    for _, run in runs:
        assert run.progress("sampler") == [(step, STEPS) for step in range(1, STEPS + 1)]


def test_previews_show_something(runs):
    for _, run in runs:
        assert len(run.previews) == STEPS
        pictures = [np.asarray(Image.open(io.BytesIO(preview))).astype(float) for preview in run.previews]
        assert all(picture.std() > 2 for picture in pictures)
        assert np.abs(pictures[0] - pictures[-1]).mean() > 1


def test_video_shows_what_was_prompted(runs, client):
    found = []
    for wanted, run in runs:
        (file,) = run.files("file")
        clip = decode_mp4(client.view(file))
        assert clip.shape == (3, 16, 24, 24)
        found.append((wanted, read_clip(clip).attributes))
    told = "\n".join(f"{wanted}  read as  {read}" for wanted, read in found)
    assert all(wanted.colour == read.colour for wanted, read in found), told
    assert all(wanted.texture == read.texture for wanted, read in found), told
    assert sum(wanted.direction == read.direction for wanted, read in found) >= 7, told
