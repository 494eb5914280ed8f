"""Schedules to test with, and the noise levels of the host."""

import pytest
import torch
from hypothesis import strategies as st

from dcm_core.families.presets import FAMILIES, preset
from dcm_core.schedule.experts import ExpertSchedule
from dcm_core.schedule.grid import NoiseGrid

HY, WAN = preset("hunyuan_video"), preset("wan")
OFFICIAL = {family: preset(family, "official") for family in ("hunyuan_video", "wan")}
COG, COG_2B = preset("cogvideox"), preset("cogvideox_2b")
EVERY = [*(family.schedule for family in FAMILIES.values()), *OFFICIAL.values()]
FLOW = [schedule for schedule in EVERY if schedule.grid.prediction == "flow"]


@st.composite
def schedules(draw) -> ExpertSchedule:
    """Any aligned schedule of either prediction, or a published one."""
    if draw(st.booleans()):
        return draw(st.sampled_from(EVERY))
    points = draw(st.integers(2, 120))
    shift = draw(st.floats(0.01, 100))
    grid = NoiseGrid(shift, points, draw(st.sampled_from(("flow", "v_prediction"))))
    return ExpertSchedule(grid, draw(st.integers(0, points - 2)))


def host_sigmas(shift: float) -> torch.Tensor:
    """The table of 1000 sigmas as ComfyUI's ModelSamplingDiscreteFlow makes it: float32, ascending."""
    u = torch.arange(1, 1001) / 1000
    return shift * u / (1 + (shift - 1) * u)


def diffusers_ddim(shift: float):
    """diffusers' scheduler as the CogVideoX releases configure it."""
    diffusers = pytest.importorskip("diffusers")
    return diffusers.CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, set_alpha_to_one=True, snr_shift_scale=shift, timestep_spacing="trailing",
    )  # fmt: skip
