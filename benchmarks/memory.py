"""What sampling asks of a GPU's memory, counted, by backbone, size of video and card.

    python benchmarks/memory.py

The weights by their number, a detail expert of rank 128, and the tensors of one call at their peak, on diffusers'
networks without data. Nothing is run: no machine has a part in it. Writes results/memory.json and memory.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy_run import write_results
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.config import BackboneConfig, ComputeConfig  # noqa: E402
from training.data.buckets import Size  # noqa: E402
from training.estimate.probe import Cost, Depth, cost, counted, fewest  # noqa: E402
from training.estimate.report import GIB  # noqa: E402
from training.estimate.stage import BLOCKS, Latents, Outline, clip_of, empty_conditions  # noqa: E402
from training.networks.blocks import prepare  # noqa: E402
from training.networks.precision import lowered  # noqa: E402
from training.networks.roles import Player  # noqa: E402
from training.registry import build_backbone  # noqa: E402

RANK = 128  # that of the published detail experts
CARDS = (8, 12, 16, 24, 48, 80)
OF_USE = 0.92  # of a card's memory, as the trainer's dry run has it
COMPUTE = ComputeConfig(dtype="bfloat16")


@dataclass(frozen=True)
class Video:
    """A published backbone, and a size of video in pixels and frames."""

    title: str
    backbone: BackboneConfig
    size: Size


def wan(title: str, size: str, frames: int, height: int, width: int) -> Video:
    return Video(title, BackboneConfig(name="wan", size=size), Size(frames, height, width))


def hunyuan_video(frames: int, height: int, width: int) -> Video:
    return Video("HunyuanVideo 13B", BackboneConfig(name="hunyuan_video"), Size(frames, height, width))


VIDEOS = (
    wan("Wan 2.1 1.3B", "1.3b", 81, 480, 832),
    Video("CogVideoX 5B", BackboneConfig(name="cogvideox", size="5b"), Size(49, 480, 720)),
    hunyuan_video(61, 544, 960),
    hunyuan_video(129, 720, 1280),
    wan("Wan 14B", "14b", 81, 480, 832),
    wan("Wan 14B", "14b", 81, 720, 1280),
)


def held(video: Video) -> dict:
    """Bytes of the weights in 16 bits and in fp8, of a detail expert in 16 bits, and of a call's tensors."""
    backbone = build_backbone(video.backbone)
    outline = Outline(backbone)
    network = outline.build()
    matrices = lowered(network)
    counts = {name: p.numel() for name, p in network.named_parameters()}
    latents = clip_of(backbone, network, video.size, None).latents
    outline.add_adapter(network, "detail", RANK, RANK, 0)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    depth = {name: backbone.arguments[name] for name in BLOCKS if name in backbone.arguments}
    no_data = FakeTensorMode(allow_non_fake_inputs=True)
    return {
        "backbone": video.title,
        "video": f"{video.size.width}x{video.size.height}x{video.size.frames}",
        "weights": 2 * sum(counts.values()),
        "weights_fp8": sum(count * (1 if name in matrices else 2) for name, count in counts.items()),
        "expert": 2 * trained,
        "call": int(cost(depth, fewest(depth), lambda few: of_a_call(video.backbone, few, latents, no_data)).memory),
    }


def of_a_call(config: BackboneConfig, depth: Depth, latents: Latents, no_data: FakeTensorMode) -> Cost:
    """Of one clip, without gradients, in a network of so many blocks."""
    backbone = build_backbone(config.model_copy(update={"architecture": dict(depth)}))
    network = Outline(backbone).load(torch.bfloat16).requires_grad_(False)
    with no_data:
        network.to_empty(device="cpu")
        prepare(network, COMPUTE, None, torch.device("cpu"))
        x, timestep = torch.empty(1, *latents), torch.empty(1)
        conditions = empty_conditions(backbone, network, 1, latents)
        return counted(network, lambda: Player(network)(x, timestep, conditions)[0], trained=False)


def summed(row: dict, weights: str) -> int:
    return row[weights] + row["expert"] + row["call"]


def fitting(card: int, rows: list[dict]) -> list[str]:
    """What a card holds whole in 16 bits, what in fp8 alone, and what with weights in main memory, as cells."""
    cells: list[list[str]] = [[], [], [], []]
    for row in rows:
        needed = (summed(row, "weights"), summed(row, "weights_fp8"), row["expert"] + row["call"], 0)
        way = next(way for way, each in enumerate(needed) if each <= OF_USE * card * GIB)
        cells[way].append(f"{row['backbone']} {row['video']}")
    return ["<br>".join(cell) for cell in cells[:3]]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows)]


def as_markdown(record: dict) -> str:
    parts, rows = [], record["rows"]
    for row in rows:
        counts = [row[part] for part in ("weights", "weights_fp8", "expert", "call")]
        counts += [summed(row, weights) for weights in ("weights", "weights_fp8")]
        parts.append((row["backbone"], row["video"], *(f"{count / GIB:.1f}" for count in counts)))
    head = ("backbone", "video", "weights, 16 bits", "fp8", "detail expert", "one call", "all, 16 bits", "all, fp8")
    by_card = [(f"{card} GB", *fitting(card, rows)) for card in CARDS]
    what = f"GiB, calculated by `{record['command']}`; rank {RANK}, {OF_USE:.0%} of a card are for use."
    cards = table(("card", "whole, 16 bits", "whole, fp8", "with weights in main memory"), by_card)
    return "\n".join([*table(head, parts), "", *cards, "", what]) + "\n"


if __name__ == "__main__":
    rows = [held(video) for video in VIDEOS]
    write_results("memory", {"command": "python benchmarks/memory.py", "rank": RANK, "rows": rows}, as_markdown)
