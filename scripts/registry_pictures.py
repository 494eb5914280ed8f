"""Draw docs/icon.png and docs/banner.png, which the Comfy registry shows, of clips of the Shapes world.

    python scripts/registry_pictures.py

The icon is one frame, coarse on one side of its diagonal and whole on the other. The banner is the way of one video:
noise, and after each of four steps what the experts say that the video is, sampled with the shipped weights.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

ROOT = Path(__file__).resolve().parents[1]
ICON, BANNER = (384, 384), (1680, 720)  # the registry takes icons of up to 400 x 400, and banners of 21:9
SEEN = 18  # pixels of a frame in a row of the icon
COARSE = 6  # blocks in a row of its coarse half
GROUND, INK, FAINT = (22, 24, 30), (245, 245, 242), (150, 154, 166)
SEMANTIC, DETAIL = (232, 152, 60), (84, 164, 236)


def icon() -> Image.Image:
    frame = frame_with_its_shape_in_the_middle()
    coarse = interpolate(frame, (COARSE, COARSE), mode="area")
    half = Image.new("L", ICON)
    ImageDraw.Draw(half).polygon([(0, 0), (ICON[0], 0), ICON], fill=255)
    picture = Image.composite(square(frame, ICON[0]), square(coarse, ICON[0]), half)
    ImageDraw.Draw(picture).line([(0, 0), ICON], fill=INK, width=5)
    return picture


def frame_with_its_shape_in_the_middle() -> Tensor:
    """The middle [1, 3, SEEN, SEEN] of the frame of many clips whose circle is nearest to the middle of the picture."""
    from dcm_core.shapes.captions import Attributes
    from dcm_core.shapes.render import SIZE, path, random_start, render_clips

    shown = Attributes("red", "striped", "circle", "right", "slowly")

    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    off = torch.stack([(path(shown, random_start(shown, seeded(seed))) - SIZE / 2).norm(dim=1) for seed in range(500)])
    seed, moment = divmod(int(off.argmin()), off.shape[1])
    around = (SIZE - SEEN) // 2
    return render_clips([shown], seeded(seed))[:, :, moment, around : SIZE - around, around : SIZE - around]


def banner() -> Image.Image:
    rows = [frames_of_a_run(caption, seed=7) for caption in CAPTIONS]
    picture = Image.new("RGB", BANNER, GROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((72, 250), "DCM", fill=INK, font=ImageFont.load_default(132))
    draw.text((76, 410), "video in four steps,", fill=FAINT, font=ImageFont.load_default(38))
    draw.text((76, 458), "from two experts", fill=FAINT, font=ImageFont.load_default(38))
    side, gap, left, top = 196, 12, 560, 36
    for y, frames in enumerate(rows):
        for x, frame in enumerate(frames):
            picture.paste(square(frame, side), (left + x * (side + gap), top + y * (side + gap)))
    below = top + len(rows) * (side + gap) + 2
    for x, colour in enumerate((SEMANTIC, SEMANTIC, DETAIL, DETAIL), 1):
        draw.rectangle([left + x * (side + gap), below, left + x * (side + gap) + side - 1, below + 8], fill=colour)
    return picture


CAPTIONS = (
    "a red striped circle moving left fast",
    "a yellow dotted square moving right slowly",
    "a blue plain triangle moving up fast",
)


def square(frame: Tensor, side: int) -> Image.Image:
    """A frame [1, 3, H, W] in -1..1, enlarged without blur."""
    pixels = ((frame[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def frames_of_a_run(caption: str, seed: int) -> list[Tensor]:
    """A frame [1, 3, 24, 24] of the noise, and of the estimate of the video after each of four steps."""
    from dcm_core.sampling import euler, with_experts
    from dcm_core.shapes import autoencoder
    from dcm_core.shapes.captions import encode_text
    from dcm_core.shapes.network import LATENT_SHAPE

    semantic, detail, schedule = experts(steps=4)
    text = encode_text([caption])
    model = with_experts(semantic, detail, schedule)
    noise = torch.randn(1, *LATENT_SHAPE, generator=torch.Generator().manual_seed(seed))
    seen = [noise]
    euler(lambda x, sigma: model(x, sigma, text), noise, schedule.sigmas(4), lambda _, __, clean: seen.append(clean))
    return [autoencoder.decode(latents)[:, :, 8] for latents in seen]


def experts(steps: int):
    """The semantic and the detail expert for so many steps as ``model(x, sigma, text)``, and their schedule."""
    from dcm_core.expert.by_steps import by_steps
    from dcm_core.expert.file import load_expert
    from dcm_core.process import FLOW
    from dcm_core.shapes import weights
    from training.config import BackboneConfig
    from training.data.batch import Conditions
    from training.registry import build_backbone

    pair = {kind: load_expert(file) for kind, file in by_steps(weights.experts())[steps].items()}
    backbone = build_backbone(BackboneConfig(name="shapes"))
    semantic = backbone.load(weights.teacher()).eval()
    backbone.apply(semantic, pair["semantic"])
    detail = copy.deepcopy(semantic)
    backbone.apply(detail, pair["detail"])

    def called(network):
        return lambda x, sigma, text: network(x, FLOW.timestep(sigma), Conditions(text))[0]

    return called(semantic), called(detail), pair["detail"].metadata.schedule


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    for name, draw in (("icon", icon), ("banner", banner)):
        path = ROOT / "docs" / f"{name}.png"
        draw().save(path, optimize=True)
        print(f"pictures: {path.relative_to(ROOT)}, {path.stat().st_size // 1000} kB")
