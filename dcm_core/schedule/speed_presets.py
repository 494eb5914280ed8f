"""The noise levels that well-known speed LoRAs were trained on, as their makers or users published them.

A distilled model knows its own few noise levels and no others; on those of a generic scheduler it burns or blurs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .curves import shift_sigma


@dataclass(frozen=True)
class SpeedPreset:
    """Published noise levels by number of steps, without the final 0, and the address they were taken from.

    ``family`` is the backbone family that the LoRA is for.
    """

    sigmas: Mapping[int, tuple[float, ...]]
    source: str
    family: str = "wan"


def shifted(steps: int, shift: float) -> tuple[float, ...]:
    """Noise levels of ``steps`` equal steps of the time ``u`` from 1 to 0, shifted."""
    return tuple(shift_sigma(1 - step / steps, shift) for step in range(steps))


SPEED_PRESETS: dict[str, SpeedPreset] = {
    # Timesteps 1000, 937.5, 833.33, 625 as the authors state them there, and what they suggest for 8 steps;
    # LightX2V configs/distill/wan22 gives the same as 1000, 750, 500, 250 before shift 5, two steps to each model.
    "wan2.2 lightning": SpeedPreset(
        {4: shifted(4, 5.0), 8: shifted(8, 5.0)},
        "https://github.com/ModelTC/LightX2V-Wan2.2-Lightning/issues/3",
    ),
    # Timesteps 1000, 750, 500, 250 before shift 5: the StepDistill-CfgDistill models and LoRAs, T2V and I2V.
    "wan2.1 lightx2v": SpeedPreset(
        {4: shifted(4, 5.0)},
        "https://github.com/ModelTC/LightX2V/blob/main/configs/distill/wan21/wan_t2v_distill_lora_4step_cfg.json",
    ),
    # Timesteps of the 14B LoRA; they are final, no shift is applied to them (scheduler "flowmatch_causvid").
    "wan2.1 causvid 14B": SpeedPreset(
        {9: (0.999, 0.934, 0.862, 0.756, 0.603, 0.410, 0.250, 0.140, 0.074)},
        "https://github.com/kijai/ComfyUI-WanVideoWrapper",
    ),
    # Likewise of the 1.3B LoRA.
    "wan2.1 causvid 1.3B": SpeedPreset(
        {4: (1.0, 0.750, 0.500, 0.250)}, "https://github.com/kijai/ComfyUI-WanVideoWrapper"
    ),
}


def speed_sigmas(name: str, steps: int) -> Tensor:
    """Noise levels of a preset: float32 [steps + 1], falling, ends with 0.

    Raises ValueError for an unknown name, and for a number of steps that was not published.
    """
    if name not in SPEED_PRESETS:
        raise ValueError(f"preset {name!r} is unknown: known are {', '.join(SPEED_PRESETS)}.")
    lists = SPEED_PRESETS[name].sigmas
    if steps not in lists:
        raise ValueError(
            f"{name} was published for {' or '.join(map(str, lists))} steps, not for {steps}: change steps, or "
            "choose another preset."
        )
    return torch.tensor([*lists[steps], 0.0], dtype=torch.float32)
