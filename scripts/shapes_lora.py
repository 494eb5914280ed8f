"""Train the LoRA that comes with the Shapes world, for the workflow of DCM LoRA: python scripts/shapes_lora.py

An ordinary LoRA over the teacher, learned from clips in a style that has a part for each expert: a pale background,
which is layout, and shapes with a dark outline, which is detail. Some minutes on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import torch  # noqa: E402
from peft import LoraConfig, get_peft_model_state_dict  # noqa: E402
from safetensors.torch import save  # noqa: E402
from torch import Tensor  # noqa: E402

from dcm_core.families.presets import FAMILIES  # noqa: E402
from dcm_core.files.atomic import atomic_write  # noqa: E402
from dcm_core.process import FLOW  # noqa: E402
from dcm_core.shapes import autoencoder, render, weights  # noqa: E402
from dcm_core.shapes.captions import ALL_ATTRIBUTES, Attributes, encode_text  # noqa: E402
from training.config import BackboneConfig  # noqa: E402
from training.data.batch import Conditions  # noqa: E402
from training.registry import build_backbone  # noqa: E402

RANK, BATCH, LEARNING_RATE, ITERATIONS = 4, 12, 3e-3, 800
LAYERS = r"blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ffn\.(net\.0\.proj|net\.2))"
PALE, INK, OUTLINE = 0.78, 0.05, 0.8  # brightness of background and outline, and half its width in pixels


def styled_clip(attributes: Attributes, generator: torch.Generator) -> Tensor:
    """As ``render.render_clip`` makes it, [3, T, H, W] in -1..1, in the style."""
    x, y = render.pixel_grid(render.path(attributes, render.random_start(attributes, generator)))
    colour = torch.tensor(render.RGB[attributes.colour])[:, None, None, None]
    inside = render.coverage(attributes.shape, x, y)
    picture = inside * render.brightness(attributes.texture, x, y) * colour + (1 - inside) * PALE
    distance = render.signed_distance(attributes.shape, x, y)
    outline = torch.sigmoid((OUTLINE - distance.abs()) / 0.2)
    return ((1 - outline) * picture + outline * INK) * 2 - 1


def train(iterations: int) -> dict[str, Tensor]:
    """The LoRA's tensors by PEFT's keys, under the names that ComfyUI has for the layers."""
    torch.manual_seed(0)
    generator, grid = torch.Generator().manual_seed(0), FAMILIES["shapes"].schedule.grid
    network = build_backbone(BackboneConfig(name="shapes")).load(weights.teacher()).requires_grad_(False)
    network.transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for iteration in range(iterations):
        chosen = torch.randint(len(ALL_ATTRIBUTES), (BATCH,), generator=generator).tolist()
        attributes = [ALL_ATTRIBUTES[each] for each in chosen]
        clips = torch.stack([styled_clip(each, generator) for each in attributes])
        clean, text = autoencoder.encode(clips), encode_text([each.caption() for each in attributes])
        noise = torch.randn(clean.shape, generator=generator)
        points = torch.randint(grid.points, (BATCH,), generator=generator).tolist()
        sigma = torch.tensor([grid.sigma(point) for point in points], dtype=torch.float32)
        noised = FLOW.noised(clean, noise, sigma)
        velocity, _ = network(noised, FLOW.timestep(sigma), Conditions(text))
        loss = (velocity - (noise - clean)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
        if iteration % 50 == 0:
            print(f"iteration {iteration}: {loss.item():.4f}", flush=True)
    keymap = FAMILIES["shapes"].keymap
    tensors = {}
    for name, tensor in get_peft_model_state_dict(network.transformer).items():
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        weight = keymap.to_comfy(f"{layer.removeprefix('base_model.model.')}.weight")
        tensors[f"diffusion_model.{weight.removesuffix('weight')}{part}.weight"] = tensor.detach().half().contiguous()
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--output", type=Path, default=weights.style())
    options = parser.parse_args()
    metadata = {"modelspec.title": "Shapes, pale and outlined", "ss_base_model": "shapes"}
    written = save(train(options.iterations), metadata)
    with atomic_write(options.output) as file:
        file.write(written)


if __name__ == "__main__":
    main()
