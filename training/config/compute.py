"""How a run computes: precision, memory, speed, processes. Nothing here changes what is learned but for rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from .section import Count, Section

Base = Literal["fp8", "nf4"]


class ComputeConfig(Section):
    """Precision, memory and speed."""

    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="What networks compute in, and what frozen matrices are held in. What is trained, norms, and all "
        "that is made of the noise level stay float32.",
    )
    checkpointing: Literal["none", "selective", "full"] = Field(
        default="none",
        description="What the backward pass computes again, block by block, in place of keeping it: nothing, all but "
        "the attention, or everything.",
    )
    micro_batch: Count | None = Field(
        default=None,
        description="Clips that are computed at a time, whose gradients add up to those of the batch; none means all. "
        "Validation clips and held-out paths are sampled so too.",
    )
    batched_guidance: bool = Field(
        default=False, description="Ask the guided teacher once, with and without the caption as one batch."
    )
    offload: bool = Field(
        default=False,
        description="Frozen weights of a block are in main memory but while the block runs. Needs `checkpointing`.",
    )
    base: Base | None = Field(
        default=None,
        description="Hold frozen matrices of the blocks in 8 bits (`fp8`, float8_e4m3fn) or 4 (`nf4`, by "
        "bitsandbytes), which rounds them. Needs `checkpointing`, and `mode: adapter` in every stage.",
    )
    read_ahead: bool = Field(
        default=True, description="Read or render the next batch in a thread while this one is trained on."
    )

    @property
    def recomputing(self) -> bool:
        """Does the backward pass compute anything again?"""
        return self.checkpointing != "none"

    @property
    def frozen_apart(self) -> list[str]:
        """The settings by which the frozen weights of blocks are not held as they compute."""
        settings = ["compute.offload=true"] if self.offload else []
        return settings + ([f"compute.base={self.base}"] if self.base else [])

    def contradictions(self, compiled: bool) -> Iterator[str]:
        """What cannot be together, a sentence each. ``compiled``: are the blocks?"""
        for setting in self.frozen_apart:
            if not self.recomputing:
                yield (
                    f"{setting} needs compute.checkpointing=full: without it the backward pass keeps every block's "
                    "weights."
                )
        if self.offload and self.base == "nf4":
            yield "compute.base=nf4 stays on the GPU: leave compute.offload out, or use compute.base=fp8."
        if compiled and self.checkpointing == "selective":
            yield "compute.checkpointing=selective cannot see into compiled blocks: use full, or leave compile out."


class ParallelConfig(Section):
    """How several processes, as torchrun starts them, share the work."""

    shard: Count | None = Field(
        default=None,
        description="Over how many processes each network is split; where there are more, groups of so many hold "
        "copies. None means over all. Best are the GPUs of one machine.",
    )
    context: Count = Field(
        default=1,
        description="How many processes share the tokens of each clip, for clips too long for one GPU. It has to "
        "divide the attention's heads and the tokens of a clip.",
    )
