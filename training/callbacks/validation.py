"""Clips sampled while training, to be looked at, and an alarm when they have collapsed."""

from __future__ import annotations

import logging
from functools import partial

import torch
from tqdm import tqdm

from dcm_core.motion import difference_ratio

from ..data.batch import Conditions
from ..data.paths import PathCache
from ..evaluation.clips import high_frequency_ratio
from ..evaluation.recipe import held_out
from ..methods.distillation import Distillation
from .base import Callback, TrainingRun

logger = logging.getLogger(__name__)
MOTION, HIGH_FREQUENCY = "validation/motion_ratio", "validation/high_frequency_ratio"
_STRIP_FRAMES, _SHORT_SIDE = 6, 96
_COLLAPSED = 0.1  # share of the data's contrast or motion below which a clip shows nothing
_EXPLANATION = (
    "Validation: contrast is how much the sampled clips vary over a frame, motion how much from one latent frame "
    f"to the next, both relative to the data's: 1 is like the data, below {_COLLAPSED:g} nothing is left."
)


class Validation(Callback):
    """Every so many iterations: one mp4 per prompt and one PNG with a row of frames per prompt.

    They lie in ``output/STAGE/validation/ITERATION``, made with averaged weights where they are kept. A student's clips
    stand left of its teacher's from the same noise, whose motion and high frequencies they are measured by. Of a pair,
    the high-noise model's end at kappa with one last jump of the teacher, and the low-noise model's begin there.
    """

    everywhere = True
    teacher: torch.Tensor | None = None  # its clips
    held_out: PathCache | None = None  # of a pair

    def start(self, run: TrainingRun) -> None:
        if not run.config.validation.every or run.iteration == run.stage.iterations:
            return
        if run.first:
            tqdm.write(f"{_EXPLANATION} The clips are in {run.folder / 'validation'}.")
        if run.config.pair and isinstance(run.method, Distillation):
            self.held_out = held_out(run.method, run.config)
            if self.held_out is None and run.first:
                logger.warning(
                    "No validation clips: those of a low-noise model begin where the high-noise one has led held-out "
                    "paths of validation.prompts to. Train the semantic stage first."
                )

    def after_step(self, run: TrainingRun, iteration: int, metrics: dict[str, float]) -> None:
        every = run.config.validation.every
        if every and (iteration + 1) % every == 0:
            self.validate(run, iteration + 1)

    @torch.no_grad()
    def validate(self, run: TrainingRun, iteration: int) -> None:
        """Sample, measure and write the clips."""
        config, method = run.config.validation, run.method
        start, prompts = self._start(run)
        if not prompts:
            return
        conditions = method.data.conditions(prompts).to(method.device)
        with method.averaged():
            latents = method.sampled(partial(method.sample, steps=config.steps), start, conditions)
        teacher = self._teachers(run, method, start, conditions) if isinstance(method, Distillation) else None
        if not run.first:
            return
        real = method.data.batch(method.draws(0)).latents.to(latents)
        contrast, motion = _spread(latents) / _spread(real), _motion(latents) / _motion(real)
        run.report(iteration, {"validation/contrast": contrast, "validation/motion": motion})
        tqdm.write(f"iteration {iteration}: contrast {contrast:.2f}, motion {motion:.2f}")
        # Beside a teacher an alarm looks after motion.
        if contrast < _COLLAPSED or (motion < _COLLAPSED and teacher is None):
            logger.warning(
                "Iteration %d: the validation clips have %.0f%% of the data's contrast and %.0f%% of its motion: "
                "training has collapsed. Train the stage anew with a lower learning rate (--restart).",
                iteration, 100 * contrast, 100 * motion,
            )  # fmt: skip
        clips = method.data.decode(latents)
        if teacher is not None:
            ratios = {MOTION: difference_ratio(clips, teacher), HIGH_FREQUENCY: high_frequency_ratio(clips, teacher)}
            run.report(iteration, ratios)
        self._write(run, iteration, prompts, [clips] if teacher is None else [clips, teacher])

    def _start(self, run: TrainingRun) -> tuple[torch.Tensor, list[str]]:
        """What clips begin with, and their prompts: noise, or of a low-noise model held-out paths at kappa."""
        config, method = run.config.validation, run.method
        if run.config.part == "low_noise":
            if self.held_out is None:
                return torch.empty(0), []
            numbers = range(min(len(config.prompts), len(self.held_out)))
            states = self.held_out.states(numbers, [0])[:, 0]
            return states.to(method.device), self.held_out.plan.captions(numbers)
        generator = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(len(config.prompts), *method.data.latent_shape, generator=generator)
        return noise.to(method.device), config.prompts

    def _teachers(
        self, run: TrainingRun, method: Distillation, start: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """The teacher's clips from the same start, sampled once."""
        if self.teacher is None:
            if run.first:
                tqdm.write("Sampling the teacher's clips from the same start, once")

            def sample(x: torch.Tensor, told: Conditions) -> torch.Tensor:
                return method.to_look_at(method.followed(method.guided_teacher(told), x, method.every_level()), told)

            self.teacher = method.data.decode(method.sampled(sample, start, conditions))
        return self.teacher

    def _write(self, run: TrainingRun, iteration: int, prompts: list[str], beside: list[torch.Tensor]) -> None:
        try:
            from ..pictures import save_mp4, save_png, sheet, strip, to_pixels
        except ImportError as error:
            logger.warning("No validation pictures: %s. Install training/requirements.txt.", error)
            return
        config, folder = run.config.validation, run.folder / "validation" / f"{iteration:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        shape = beside[0].shape
        scale = max(1, _SHORT_SIDE // min(shape[-2:]))
        frames = torch.linspace(0, shape[2] - 1, min(_STRIP_FRAMES, shape[2])).round().long().tolist()
        rows = []
        for number, prompt in enumerate(prompts):
            clips = [each[number] for each in beside]
            save_mp4(folder / f"{number:02d}.mp4", to_pixels(torch.cat(clips, -1), scale), config.frames_per_second)
            rows.append((prompt, [strip(clip, frames, scale) for clip in clips]))
        columns = [f"{config.steps} steps", f"teacher, {run.method.schedule.grid.points} steps"][: len(beside)]
        picture = sheet(f"{run.config.stage}, iteration {iteration}", columns if len(beside) > 1 else [""], rows)
        save_png(folder / "strips.png", picture)
        run.show(iteration, "validation/strips", picture)


def _spread(latents: torch.Tensor) -> float:
    """How much a frame varies over its area: standard deviation, mean over all else."""
    return float(latents.float().std(dim=(-2, -1)).mean())


def _motion(latents: torch.Tensor) -> float:
    """How much one latent frame differs from the next: mean absolute difference; 1 for a single frame."""
    return float(latents.float().diff(dim=2).abs().mean()) if latents.shape[2] > 1 else 1.0
