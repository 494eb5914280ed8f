"""Draw the pictures of the workflows in the page's list of templates: python scripts/thumbnails.py

Those of the Shapes world show clips that the shipped experts make now. The others say what the graph is for: nobody's
videos are pretended.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from PIL import Image, ImageDraw, ImageFont  # noqa: E402

SIZE = (640, 360)
DARK, PALE, SEMANTIC, DETAIL = "#1d2330", "#dfe5ee", "#e0913c", "#4f8fd0"

# Workflow -> its background, what it is about, and the stations on its way.
GRAPHS = {
    "wan21_released_bundle": ("#173042", "Wan 2.1 1.3B\nreleased bundle", ["one file", "3 + 3 steps", "video"]),
    "hunyuanvideo_released_bundle": ("#3a1f42", "HunyuanVideo\nreleased bundle", ["one file", "2 + 2 steps", "video"]),
    "wan21_speed_lora": ("#1d3a2a", "Wan 2.1 14B\nspeed LoRA", ["text", "4 steps", "video"]),
    "wan22_high_low_pair": ("#123a33", "Wan 2.2 A14B\nhigh + low noise", ["high", "low", "video"]),
    "wan21_t2v_dual_expert": ("#20364f", "Wan 2.1\ntwo expert files", ["text", "2 + 2 steps", "video"]),
    "wan21_i2v_dual_expert": ("#4a3216", "Wan 2.1\nimage to video", ["image", "2 + 2 steps", "video"]),
    "hunyuanvideo_dual_expert": ("#46203a", "HunyuanVideo\ntwo expert files", ["text", "2 + 2 steps", "video"]),
    "cogvideox_dual_expert": ("#2a3a17", "CogVideoX 5B\ntwo expert files", ["folder", "2 + 2 steps", "video"]),
    "baked_experts_guider": ("#402020", "Experts baked\ninto two models", ["bake", "guider", "video"]),
    "shapes_lora_per_expert": ("#1f3b2a", "An ordinary LoRA\nfor one expert", ["LoRA", "2 + 2 steps", "video"]),
    "expert_as_ordinary_lora": ("#2b2b44", "Experts as\nordinary LoRAs", ["LoRA", "LoRA", "video"]),
}
CLIPS = {
    "shapes": ["a red striped circle moving left fast"],
    "motion": ["a blue dotted square moving right slowly", "a blue dotted square moving right fast"],
}


def draw_graph(colour: str, text: str, stations: list[str]) -> Image.Image:
    picture = Image.new("RGB", SIZE, colour)
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((40, 36), text, PALE, ImageFont.load_default(48), spacing=10)
    for number, station in enumerate(stations):
        left = 40 + number * 200
        if number:
            draw.line((left - 40, 270, left, 270), PALE, 5)
        draw.rounded_rectangle((left, 225, left + 160, 315), 14, (SEMANTIC, DETAIL, DARK)[number])
        draw.text((left + 80, 270), station, "white", ImageFont.load_default(26), anchor="mm")
    return picture


def draw_clips(captions: list[str]) -> Image.Image:
    """Frames of what both experts make of each caption in 4 steps, from the same noise, a row for each."""
    import torch

    from dcm_core.shapes import autoencoder
    from dcm_core.shapes.network import LATENT_SHAPE
    from training.pictures import strip
    from training.shapes.entrants import read_entrants

    both = next(each for each in read_entrants() if each.name == "both experts, 4")
    noise = torch.randn(1, *LATENT_SHAPE, generator=torch.Generator().manual_seed(7)).repeat(len(captions), 1, 1, 1, 1)
    clips = autoencoder.decode(both.sample(noise, captions))
    picture = Image.new("RGB", SIZE, DARK)
    for row, clip in enumerate(clips):
        frames = Image.fromarray(strip(clip, [0, clip.shape[1] // 2, clip.shape[1] - 1], 4))
        width = SIZE[0] - 40
        frames = frames.resize((width, width * frames.height // frames.width), Image.Resampling.NEAREST)
        space = SIZE[1] // len(clips)
        if frames.height > space - 10:
            frames = frames.resize(((space - 10) * frames.width // frames.height, space - 10))
        picture.paste(frames, ((SIZE[0] - frames.width) // 2, row * space + (space - frames.height) // 2))
    return picture


def main() -> None:
    pictures = {name: draw_graph(*graph) for name, graph in GRAPHS.items()}
    pictures |= {name: draw_clips(captions) for name, captions in CLIPS.items()}
    for name, picture in pictures.items():
        picture.save(ROOT / "workflows" / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
