"""What a rank-128 detail expert adds to a network call, counted, for the layers it changes with low-rank pairs.

    python benchmarks/adapter.py

Operations beside the layers' products, within their weights, and as each layer and call takes the cheaper way, against
the layers' own products. Nothing is run: no machine has a part in it. Writes results/adapter.json and adapter.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy_run import write_results

from dcm_core.expert.layers import FusedLowRank, LowRank
from dcm_core.expert.terms import TERMS, LayerTerm

RANK = 128  # that of the published detail experts


@dataclass(frozen=True)
class Shape:
    """A backbone, a video's size, and the layers by (inputs, outputs, fused projections, tokens, how many)."""

    backbone: str
    video: str
    layers: tuple[tuple[int, int, int, int, int], ...]


def wan(name: str, width: int, blocks: int, video: str, tokens: int, text: int = 512) -> Shape:
    """Self-attention's four and cross-attention's q and o read the video, its k and v the text."""
    return Shape(name, video, ((width, width, 1, tokens, 6 * blocks), (width, width, 1, text, 2 * blocks)))


def hunyuan_video(video: str, tokens: int, text: int = 256, width: int = 3072) -> Shape:
    double, single, refiner, both = 20, 40, 2, tokens + text
    layers = (
        *((width, 3 * width, 3, length, double) for length in (tokens, text)),
        *((width, width, 1, length, double) for length in (tokens, text)),
        (width, 7 * width, 3, both, single),
        (5 * width, width, 1, both, single),
        (width, 3 * width, 3, text, refiner),
        (width, width, 1, text, refiner),
    )
    return Shape("HunyuanVideo 13B", video, layers)


def cogvideox(video: str, tokens: int, text: int = 226, width: int = 3072, blocks: int = 42) -> Shape:
    return Shape("CogVideoX 5B", video, ((width, width, 1, tokens + text, 4 * blocks),))


SHAPES = (
    wan("Wan 1.3B", 1536, 30, "480x832x81", 32760),
    wan("Wan 14B", 5120, 40, "480x832x81", 32760),
    hunyuan_video("544x960x61", 32640),
    hunyuan_video("720x1280x129", 118800),
    cogvideox("480x720x49", 17550),
)


def term(width: int, out: int, parts: int) -> LayerTerm:
    with torch.device("meta"):
        down = torch.empty(parts * RANK, width)
        if parts == 1:
            layer = LowRank(down, torch.empty(out, RANK), float(RANK))
        else:
            layer = FusedLowRank(down, torch.empty(parts * width, RANK), float(RANK), out)
    return TERMS[type(layer)]("layer", layer)


def counted(shape: Shape) -> dict:
    totals = dict.fromkeys(("product", "beside", "within", "taken", "merged", "layers"), 0)
    for width, out, parts, rows, number in shape.layers:
        this = term(width, out, parts)
        cheaper = this.merging_is_cheaper(rows)
        beside, within = this.beside(rows).flops, this.within().flops
        each = (2 * rows * width * out, beside, within, within if cheaper else beside, cheaper, 1)
        for name, value in zip(totals, each, strict=True):
            totals[name] += number * value
    return {"backbone": shape.backbone, "video": shape.video} | totals


def as_markdown(record: dict) -> str:
    head = ("backbone", "video", "the layers' products", "beside them", "within their weights", "as taken", "merged")
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in record["rows"]:
        costs = [f"{row[way] / 1e12:.3g} ({row[way] / row['product']:.2%})" for way in ("beside", "within", "taken")]
        merged = f"{row['merged']} of {row['layers']} layers"
        cells = (row["backbone"], row["video"], f"{row['product'] / 1e12:.4g}", *costs, merged)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"TFLOP a call, rank {RANK}, counted by `{record['command']}`."]) + "\n"


if __name__ == "__main__":
    rows = [counted(shape) for shape in SHAPES]
    write_results("adapter", {"command": "python benchmarks/adapter.py", "rank": RANK, "rows": rows}, as_markdown)
