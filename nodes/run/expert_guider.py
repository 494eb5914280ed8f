"""The guider of a MODEL with two experts: the host's own, with a cfg for the steps of each."""

from __future__ import annotations

from collections.abc import Callable

from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider
from torch import Tensor

from ...dcm_core.schedule.experts import ExpertSchedule
from ..backbone.host import with_own_options
from ..experts.lora import RUN_SCHEDULE
from .notes import CallWatch


class ExpertGuider(CFGGuider):
    """Who acts is asked for the cfg only, and only where it differs: the MODEL's experts switch themselves.

    ``on_run`` is called with the sigmas of each run before it begins.
    """

    def __init__(self, model: ModelPatcher, schedule: ExpertSchedule, semantic_cfg: float, detail_cfg: float):
        super().__init__(model)
        self.schedule = schedule
        self.cfgs = {"semantic": semantic_cfg, "detail": detail_cfg}
        self.set_cfg(semantic_cfg)
        # For LoRAs, which take the run's switch where the MODEL has none of its own.
        with_own_options(self).setdefault("transformer_options", {})[RUN_SCHEDULE] = schedule
        self.watch = CallWatch()
        self.on_run: Callable[[Tensor], None] = lambda sigmas: None

    def begin(self, sigmas: Tensor) -> None:
        self.watch.begin(sigmas)
        if len(sigmas) > 1:  # less is no run, and the host's samplers let it pass
            self.on_run(sigmas)

    def sample(self, noise, latent_image, sampler, sigmas, *args, **kwargs):
        self.begin(sigmas)
        return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)

    def outer_predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 - the host's signature
        # Here and not in predict_noise, which the MODEL's wrappers surround: one that sets a cfg has the last word.
        self.watch.call(timestep)
        if self.cfgs["semantic"] != self.cfgs["detail"]:
            self.set_cfg(self.cfgs[self.schedule.acting(timestep)])
        return super().outer_predict_noise(x, timestep, model_options, seed)
