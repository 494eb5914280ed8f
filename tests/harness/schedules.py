"""Schedules to test with, and the noise levels of the host."""

import torch
from hypothesis import strategies as st

from dcm_core.schedule import SCHEDULES, ExpertSchedule, NoiseGrid, preset

HY, WAN = preset("hunyuan_video"), preset("wan")
OFFICIAL = {family: preset(family, "official") for family in ("hunyuan_video", "wan")}
EVERY = [*SCHEDULES.values(), *OFFICIAL.values()]


@st.composite
def schedules(draw) -> ExpertSchedule:
    """Any aligned schedule, or a published one."""
    if draw(st.booleans()):
        return draw(st.sampled_from(EVERY))
    points = draw(st.integers(2, 120))
    shift = draw(st.floats(0.01, 100))
    return ExpertSchedule(NoiseGrid(shift, points), draw(st.integers(0, points - 2)))


def host_sigmas(shift: float) -> torch.Tensor:
    """The table of 1000 sigmas as ComfyUI's ModelSamplingDiscreteFlow makes it: float32, ascending."""
    u = torch.arange(1, 1001) / 1000
    return shift * u / (1 + (shift - 1) * u)
