"""The schedules of the known backbone families."""

from dataclasses import replace

from ..schedule.experts import ExpertSchedule
from ..schedule.grid import NoiseGrid

# Boundaries of the known backbones; those of Wan 2.1 and HunyuanVideo belong to the released DCM weights.
SCHEDULES: dict[str, ExpertSchedule] = {
    "wan": ExpertSchedule(NoiseGrid(shift=17.0, points=50), kappa_index=34),
    "hunyuan_video": ExpertSchedule(NoiseGrid(shift=17.0, points=50), kappa_index=37),
    # No experts were published for CogVideoX. The boundary is this project's choice: the grid index that
    # HunyuanVideo's have, which is timestep 759. 5B (and 1.5, and image-to-video) have SNR shift 1, 2B has 3.
    "cogvideox": ExpertSchedule(NoiseGrid(shift=1.0, points=50, prediction="v_prediction"), kappa_index=37),
    "cogvideox_2b": ExpertSchedule(
        NoiseGrid(shift=3.0, points=50, prediction="v_prediction"), kappa_index=37
    ),
    # On the published grid too. A change of prompt in the middle of a teacher run shows when each attribute is
    # settled: motion between sigma 0.85 and 0.70, colour and shape between 0.60 and 0.30. Kappa is 0.764.
    "shapes": ExpertSchedule(NoiseGrid(shift=17.0, points=50), kappa_index=7),
}

# How the released weights were run: the switch as a timestep, and the sigmas by number of steps.
_PUBLISHED: dict[str, tuple[float, dict[int, tuple[float, ...]]]] = {
    "wan": (979.0, {6: (1.0, 0.992, 0.982, 0.949, 0.905, 0.810)}),
    "hunyuan_video": (982.0, {4: (1.0, 0.992, 0.9818, 0.9124)}),
}


def preset(family: str, rule: str = "aligned") -> ExpertSchedule:
    """The schedule of a backbone family, by either rule.

    Raises ValueError for an unknown family or rule, and for "official" where no weights were published.
    """
    if family not in SCHEDULES:
        raise ValueError(f"family {family!r} has no schedule: known are {', '.join(SCHEDULES)}.")
    if rule != "official":
        return replace(SCHEDULES[family], rule=rule)
    if family not in _PUBLISHED:
        raise ValueError(
            f'family {family!r} has no published weights and so no "official" schedule: use "aligned".'
        )
    threshold, lists = _PUBLISHED[family]
    return replace(SCHEDULES[family], rule=rule, official_switch_timestep=threshold, official_sigmas=lists)


def bundle_preset(family: str) -> ExpertSchedule:
    """The schedule of the experts in a bundle of this family: as published, or "aligned" where none were published.

    Raises ValueError for an unknown family.
    """
    return preset(family, "official" if family in _PUBLISHED else "aligned")
