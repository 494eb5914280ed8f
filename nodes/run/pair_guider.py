"""One run over two MODELs: each has the host's own guider, and every call goes to the one of its noise level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider
from torch import Tensor

from ...dcm_core.schedule.experts import ExpertSchedule
from ..backbone.host import MASK, make_current, with_own_options
from .expert_guider import ExpertGuider


class PairGuider(ExpertGuider):
    """Itself the guider of the high-noise MODEL, with ``low``, that of the low-noise one.

    The run of the one lies inside the run of the other, so both have their conditioning, wrappers and patches ready
    from the first step on, and the host cleans up after both however the run ends. Only the weights wait: those of
    the low-noise MODEL are loaded at its first call, as a second sampler node would, and the host then makes room for
    them as it always does.
    """

    def __init__(
        self,
        model: ModelPatcher,
        low_noise_model: ModelPatcher,
        schedule: ExpertSchedule,
        cfg: float,
        low_noise_cfg: float,
    ):
        super().__init__(model, schedule, cfg, cfg)
        self.low = ExpertGuider(low_noise_model, schedule, low_noise_cfg, low_noise_cfg)
        self.low.watch = self.watch
        self.low_is_loaded = False
        # For each, the host's own loading, kept.
        self.high_loading, self.low_loading = _Loading(self), _Loading(self.low)
        masks = {"semantic": self.model_options.get(MASK), "detail": self.low.model_options.get(MASK)}
        if any(masks.values()):
            self.model_options[MASK] = _MaskOfPart(schedule, masks)

    def sample(
        self,
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask=None,
        callback=None,
        disable_pbar=False,
        seed=None,
    ):
        rest = denoise_mask, callback, disable_pbar, seed
        self.low_is_loaded = self.low_loading.at_once = self.schedule.acting(sigmas[:1]) == "detail"
        try:
            if self.low_is_loaded:  # from the first step on
                self.begin(sigmas)
                return self.low.sample(noise, latent_image, sampler, sigmas, *rest)
            run = _InnerRun(partial(super().sample, noise, latent_image, sampler, sigmas, *rest))
            self.low.sample(noise, latent_image, run, sigmas, denoise_mask, None, True, seed)
            return run.samples
        finally:
            self.high_loading.forget()
            self.low_loading.forget()

    def outer_predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 - the host's signature
        # Here and not in predict_noise, which the wrappers of the high-noise MODEL surround.
        is_low = self.schedule.acting(timestep) == "detail"
        if is_low != self.low_is_loaded:
            (self.low_loading if is_low else self.high_loading).load()
            make_current(self.low.model_patcher if is_low else self.model_patcher)
            self.low_is_loaded = is_low
        if not is_low:
            return super().outer_predict_noise(x, timestep, model_options, seed)
        options = with_additions(self.low.model_options, self.model_options, model_options)
        return self.low.outer_predict_noise(x, timestep, options, seed)


class _MaskOfPart:
    """The mask of a step [B, C, T, H, W] as the nodes on the MODEL of its noise level make it, or as it was given."""

    def __init__(self, schedule: ExpertSchedule, masks: Mapping[str, Callable[..., Tensor] | None]):
        self.schedule, self.masks = schedule, masks

    def __call__(self, sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        make = self.masks[self.schedule.acting(sigma)]
        return make(sigma, denoise_mask, extra_options=extra_options) if make else denoise_mask


class _InnerRun:
    """In the place of a sampler: the run that lies inside a guider's own."""

    samples: Tensor

    def __init__(self, run: Callable[[], Tensor]):
        self.run = run

    def sample(self, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar):
        self.samples = self.run()
        return self.samples


class _Loading:
    """Has the host load a guider's MODEL when ``load`` is called, and if ``at_once`` when the run begins too."""

    def __init__(self, guider: CFGGuider):
        self.at_once = True
        self.forget()
        options = with_own_options(guider)
        add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "dcm-pair", self.prepare, options, is_model_options=True)

    def forget(self) -> None:
        """The run is over. What loads its MODEL holds its conditioning."""
        self.load: Callable[[], None] = lambda: None

    def prepare(self, executor, model, noise_shape, conds, *args, **kwargs):
        """The host's prepare_sampling: (network, conditioning, models to clean up after the run)."""
        beside: list[ModelPatcher] = []

        def load():
            _, _, beside[:] = executor(model, noise_shape, conds, *args, **kwargs)

        self.load = load
        if self.at_once:
            load()
        return model.model, conds, beside


def with_additions(own: dict[str, Any], base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """``own`` with what a sampler has added to ``base`` to make ``given``, as those of the cfg++ kind do."""
    merged = dict(own)
    for key, value in given.items():
        if isinstance(value, dict):
            if inner := with_additions(own.get(key, {}), base.get(key, {}), value):
                merged[key] = inner
        elif isinstance(value, list):
            before = {id(item) for item in base.get(key, [])}
            if added := [item for item in value if id(item) not in before]:
                merged[key] = [*own.get(key, []), *added]
        elif key not in base:
            merged[key] = value
    return merged
