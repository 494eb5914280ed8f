"""Step caches of the host (EasyCache, LazyCache) beside two experts: a cache never answers for the other expert."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...dcm_core.schedule.experts import EXPERTS, ExpertSchedule
from ..backbone.host import STEP_CACHE

_BY_EXPERT = "dcm_step_caches"


class CachePerExpert:
    """A PREDICT_NOISE wrapper: the host's step cache has a state for each expert instead of one for the run.

    Such a cache skips a call when the input has changed little, and answers with the change that the last call made.
    At the first call of the detail expert that would be the semantic expert's: so the cache begins there anew.
    """

    def __init__(self, schedule: ExpertSchedule):
        self.schedule = schedule

    def expert(self, guider: Any, sigma: Tensor, options: Mapping[str, Any]) -> str:
        """Whose call this is, at noise level ``sigma`` [B]."""
        return self.schedule.acting(sigma)

    def __call__(self, executor, x, timestep, model_options={}, seed=None):  # noqa: B006 - the host's signature
        """x [B, C, T, H, W] at timestep [B] (sigma in 0..1)."""
        options = model_options.get("transformer_options", {})  # of this run alone
        if STEP_CACHE in options:
            expert = self.expert(executor.class_obj, timestep, options)
            caches = options.setdefault(_BY_EXPERT, {})
            if not caches:
                caches |= {each: copy.deepcopy(options[STEP_CACHE]) for each in EXPERTS if each != expert}
                caches[expert] = options[STEP_CACHE]
            options[STEP_CACHE] = caches[expert]
        return executor(x, timestep, model_options, seed)
