"""The command prepares videos with the encoders of each family, and the cache holds what they make."""

import pytest
import torch
from harness.clips import write_video
from harness.encoder_folders import WIDTH, cogvideox_folder, hunyuan_video_folder, wan_2_2_folder, wan_folder

from dcm_core.shapes.captions import ALL_ATTRIBUTES
from dcm_core.shapes.render import FRAMES_PER_SECOND, render_clip
from training.data.cache import CachedTensors, read_index
from training.pictures import to_pixels
from training.prepare import main


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, attributes in enumerate(ALL_ATTRIBUTES[5::60]):
        frames = to_pixels(render_clip(attributes, torch.Generator().manual_seed(number)), scale=4)
        write_video(folder / f"{number}.mp4", frames, FRAMES_PER_SECOND)
        (folder / f"{number}.txt").write_text(attributes.caption())
    return folder


@pytest.mark.parametrize(
    ("backbone", "make", "latents", "tokens"),
    [
        ("wan", wan_folder, (16, 2, 8, 8), None),
        ("wan", wan_2_2_folder, (48, 2, 4, 4), None),
        ("hunyuan_video", hunyuan_video_folder, (16, 2, 8, 8), None),
        ("cogvideox", cogvideox_folder, (16, 2, 8, 8), 226),
    ],
)
def test_each_family_end_to_end(videos, tmp_path, backbone, make, latents, tokens):
    weights = make(tmp_path / "weights")
    main(
        f"--data {videos} --backbone {backbone} --weights {weights} --output {tmp_path / 'cache'} --workers 0 "
        "--device cpu --resolution 64x64 --frames 5 --max-enlarge 9 --fps 8".split()
        + ["--negative-prompt", "worst quality"]
    )
    index = read_index(tmp_path / "cache")
    assert len(index.clips) == 5 and set(index.texts) > {"", "worst quality"}
    tensors = CachedTensors(tmp_path / "cache", index.shards)
    for clip in index.clips:
        assert tensors.read(clip.latents)["latents"].shape == latents
        text = tensors.read(clip.text)
        assert text["text"].shape == (tokens or len(clip.caption) + 1, WIDTH)
        assert ("pooled" in text) == (backbone == "hunyuan_video")
