"""Notes about the runs of stock sampler nodes with a MODEL that has experts: in the log, for they show no text."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ..experts.apply import applied_to
from ..ui.say import to_log
from .expert_guider import ExpertGuider
from .notes import CallWatch, warnings_for
from .plan import Run

_KEY = "dcm-run-notes"


def note_stock_runs(model: ModelPatcher) -> None:
    """Let each run of this MODEL (a clone of one's own) log who takes which steps, and what may not be meant."""
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, note_run)


def note_run(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
    """An OUTER_SAMPLE wrapper around a whole run down ``sigmas`` [N + 1]."""
    guider = executor.class_obj
    applied = applied_to(guider.model_patcher)
    # DCM's own guiders have said it already; of two baked MODELs in two samplers, neither has a share to speak of.
    if applied and not applied.baked and not isinstance(guider, ExpertGuider):
        run = Run.of(guider.model_patcher, cfg=getattr(guider, "cfg", 1.0))
        try:
            to_log(run.describe(sigmas), warnings_for(run, sigmas, given=True, is_stock=True))
        except ValueError:
            pass  # noise levels that rise, for example: whoever made them knows why
        watch_calls(guider, sigmas)
    return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


def watch_calls(guider, sigmas) -> None:
    """For this run only: within it, the guider's options are a copy."""
    watch = CallWatch()
    watch.begin(sigmas)

    def predict(executor, x, timestep, *args, **kwargs):
        watch.call(timestep)
        return executor(x, timestep, *args, **kwargs)

    add_wrapper_with_key(WrappersMP.PREDICT_NOISE, _KEY, predict, guider.model_options, is_model_options=True)
