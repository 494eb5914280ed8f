"""The videos and sheets a newcomer looks at first."""

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

import training.lettering
from training.lettering import lettered
from training.pictures import save_mp4, save_png, sheet, strip, to_pixels


def moving_square() -> torch.Tensor:
    """A clip [3, 6, 24, 24] of a red square that moves right on black."""
    clip = -torch.ones(3, 6, 24, 24)
    for frame in range(6):
        clip[0, frame, 8:16, 2 + 2 * frame : 10 + 2 * frame] = 1
    return clip


def test_an_mp4_plays_back_what_was_written(tmp_path):
    frames = to_pixels(moving_square(), scale=8)
    save_mp4(tmp_path / "clip.mp4", frames, frames_per_second=8)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert container.streams.video[0].average_rate == 8
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_frames_are_enlarged_without_blur():
    pixels = to_pixels(moving_square(), scale=3)
    assert pixels.shape == (6, 72, 72, 3)
    assert set(np.unique(pixels)) == {0, 255}


def test_a_sheet_shows_every_cell_where_it_belongs(tmp_path):
    clip = moving_square()
    cells = [strip(clip, (0, 5), scale=2), strip(-clip, (0, 5), scale=2)]
    save_png(tmp_path / "sheet.png", sheet("title", ["left", "right"], [("one", cells), ("two", cells[::-1])]))
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    for cell in cells:
        found = np.lib.stride_tricks.sliding_window_view(picture, cell.shape)[:, :, 0]
        hits = np.argwhere((found[:, :, 0, 0] == cell[0, 0]).all(-1))
        exact = [tuple(hit) for hit in hits if (found[tuple(hit)] == cell).all()]
        assert len(exact) == 2, "each cell stands once in either row"


def test_captions_of_other_languages_are_legible(monkeypatch):
    """In a font of the system that has their letters, else as near as Pillow's own comes."""
    assert lettered("a kite \u2014 it flies", 12)[0] == "a kite - it flies"
    lacking = "Ein M\u00e4dchen l\u00e4uft \u00fcber \U00016a40"
    monkeypatch.setattr(training.lettering, "_SYSTEM", ())
    text, font = lettered(lacking, 12)
    assert text == "Ein Madchen lauft uber ?" and font.getname() == ImageFont.load_default(12).getname()


def test_a_font_of_the_system_takes_over_where_it_has_the_letters(monkeypatch):
    try:
        ImageFont.truetype("DejaVuSans.ttf", 12)
    except OSError:
        pytest.skip("no DejaVu here")
    monkeypatch.setattr(training.lettering, "_SYSTEM", ("gone.ttf", "DejaVuSans.ttf"))
    text, font = lettered("\u041a\u043e\u0448\u043a\u0430 \u2014 \u00e9", 12)
    assert text == "\u041a\u043e\u0448\u043a\u0430 - \u00e9" and font.getname()[0] == "DejaVu Sans"
