"""The runs of stock sampler nodes with a MODEL that has experts: notes in the log, and no expert left out unheard."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..backbone.host import (
    EMBEDDED_GUIDANCE,
    add_outermost_wrapper_of_run,
    carry_the_same_patches,
    has_lost_its_patches,
)
from ..experts.apply import applied_to
from ..experts.check import require_within_reach
from ..experts.lora import loras_on, patched_since
from ..ui.say import log, to_log
from .expert_guider import ExpertGuider
from .notes import CallWatch, warnings_for
from .plan import Run

_KEY = "dcm-run-notes"
_under_way: list[set[str]] = []  # of each run the keys of the experts and LoRAs on its MODEL


def note_stock_runs(model: ModelPatcher) -> None:
    """Let each run of this MODEL (a clone of one's own) log who takes which steps, and what may not be meant.

    A run in which the MODEL's experts would not act is refused.
    """
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, note_run)
    model.remove_callbacks_with_key(CallbacksMP.ON_PRE_RUN, _KEY)
    model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, _KEY, require_own_run)
    model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, _KEY, require_within_reach)
    model.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, _KEY)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, _KEY, note_lost_expert)


def note_run(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
    """An OUTER_SAMPLE wrapper around a whole run down ``sigmas`` [N + 1]."""
    guider = executor.class_obj
    if not isinstance(guider, ExpertGuider):  # DCM's own have said it already
        note_what_acts(guider, sigmas)
    _under_way.append(keys_of(guider.model_patcher))
    try:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        _under_way.pop()


def note_what_acts(guider, sigmas) -> None:
    """Says what experts and LoRAs do in a run down ``sigmas`` [N + 1], and warns of what is not going to act."""
    applied = applied_to(guider.model_patcher)
    if applied is None:
        for warning in patched_since(guider.model_patcher):
            log.warning("DCM: %s", warning)
        return
    if not applied.only:  # of two MODELs with an expert each in two samplers, neither has a share to speak of
        note_steps(guider, sigmas)
    note_shared_network(guider)
    note_embedded_guidance(guider, applied.metadata.embedded_guidance)


def note_steps(guider, sigmas) -> None:
    """Says who takes which steps, and warns of what may not be meant, now and while the sampler runs."""
    run = Run.of(guider.model_patcher, cfg=getattr(guider, "cfg", 1.0))
    try:
        to_log(run.describe(sigmas), warnings_for(run, sigmas, given=True, is_stock=True))
    except ValueError:
        pass  # noise levels that rise, for example: whoever made them knows why
    watch_calls(guider, sigmas)


def keys_of(model: ModelPatcher) -> set[str]:
    """Of the experts on a MODEL and the LoRAs beside it: of what acts by wrappers."""
    applied = applied_to(model)
    return {lora.key for lora in loras_on(model) if lora.beside} | ({applied.key} if applied else set())


def has_own_run(key: str) -> bool:
    return any(key in keys for keys in _under_way)


def require_own_run(model: ModelPatcher) -> None:
    """Raises ValueError where a guider is about to ask this MODEL beside its own, without the wrappers it has."""
    applied, beside = applied_to(model), [lora for lora in loras_on(model) if lora.beside]
    remedy = ""
    if applied and not applied.baked and not has_own_run(applied.key):
        remedy = "switches experts: connect a MODEL without DCM Apply Experts to it."
    elif not all(has_own_run(lora.key) for lora in beside):
        remedy = f"makes {beside[0].name} act at two strengths: give both of its strengths the same value."
    if remedy:
        raise ValueError(
            "A guider of two MODELs asks this one as its second (model_negative of DualModelGuider), and ComfyUI calls "
            f"nothing there of what {remedy}"
        )


def note_lost_expert(model: ModelPatcher) -> None:
    """Warns, after a guider asked this MODEL beside its own, of a baked expert that was not in the weights then."""
    applied = applied_to(model)
    if applied and applied.baked and not has_own_run(applied.key) and has_lost_its_patches(model):
        log.warning(
            "DCM: the second MODEL of this guider has its %s expert baked, but is one loaded network with the first, "
            "whose weights were used: its expert did not act. Load the file a second time, with another loader node, "
            "for one of the two.",
            applied.baked,
        )


def note_shared_network(guider) -> None:
    """Warns of a second MODEL that ComfyUI runs with the first one's patches and experts instead of its own."""
    model = guider.model_patcher
    others = [other for other in vars(guider).values() if isinstance(other, ModelPatcher)]
    for other in others:
        if other.model is not model.model:
            continue
        if applied_to(other) is not applied_to(model) or not carry_the_same_patches(model, other):
            log.warning(
                "DCM: both MODELs of this guider are one loaded network, which ComfyUI patches for the first: its "
                "experts and LoRAs act in the second too, and those of the second do not. Load the file a second time, "
                "with another loader node, for the second MODEL."
            )


def note_embedded_guidance(guider, trained: float | None) -> None:
    """Warns of CONDITIONING by which the network is told another guidance than its experts were trained under."""
    if trained is None:
        return
    conds = getattr(guider, "conds", {}).get("positive", [])
    told = {cond.get("guidance", EMBEDDED_GUIDANCE) for cond in conds}
    # None, by FluxDisableGuidance, tells the network nothing.
    if other := sorted(float(each) for each in told - {None} if each != trained):
        log.warning(
            "DCM: the experts were trained under an embedded guidance of %g, but the network is told %s here: put "
            "FluxGuidance with %g behind the prompts, or use DCM KSampler or DCM Guider, which set it.",
            trained,
            " and ".join(f"{each:g}" for each in other),
            trained,
        )


def watch_calls(guider, sigmas) -> None:
    """For this run only: within it, the guider's options are a copy."""
    watch = CallWatch()
    watch.begin(sigmas)

    def predict(executor, x, timestep, *args, **kwargs):
        watch.call(timestep)
        return executor(x, timestep, *args, **kwargs)

    # Outermost: a cache (LazyCache) answers some calls without asking what lies inside.
    add_outermost_wrapper_of_run(guider.model_options, WrappersMP.PREDICT_NOISE, _KEY, predict)
