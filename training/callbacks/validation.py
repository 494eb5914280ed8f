"""Clips sampled while training, to be looked at, and an alarm when they have collapsed."""

from __future__ import annotations

import logging

import torch
from tqdm import tqdm

from .base import Callback, TrainingRun

logger = logging.getLogger(__name__)
_STRIP_FRAMES, _SHORT_SIDE = 6, 96
_COLLAPSED = 0.1  # share of the data's contrast or motion below which a clip shows nothing
_EXPLANATION = (
    "Validation: contrast is how much the sampled clips vary over a frame, motion how much from one latent frame "
    f"to the next, both relative to the data's: 1 is like the data, below {_COLLAPSED:g} nothing is left."
)


class Validation(Callback):
    """Every so many iterations: one mp4 per prompt and one PNG with a row of frames per prompt.

    They lie in ``output/STAGE/validation/ITERATION``, made with averaged weights where they are kept.
    """

    everywhere = True

    def start(self, run: TrainingRun) -> None:
        if run.first and run.config.validation.every and run.iteration < run.stage.iterations:
            tqdm.write(_EXPLANATION)

    def after_step(self, run: TrainingRun, iteration: int, metrics: dict[str, float]) -> None:
        every = run.config.validation.every
        if every and (iteration + 1) % every == 0:
            self.validate(run, iteration + 1)

    @torch.no_grad()
    def validate(self, run: TrainingRun, iteration: int) -> None:
        """Sample, measure and write the clips."""
        config, method = run.config.validation, run.method
        generator = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(len(config.prompts), *method.data.latent_shape, generator=generator).to(method.device)
        conditions = method.data.conditions(config.prompts).to(method.device)
        with method.averaged():
            latents = method.sample(noise, conditions, config.steps)
        if not run.first:
            return
        real = method.data.batch(method.draws(0)).latents.to(latents)
        contrast, motion = _spread(latents) / _spread(real), _motion(latents) / _motion(real)
        run.report(iteration, {"validation/contrast": contrast, "validation/motion": motion})
        tqdm.write(f"iteration {iteration}: contrast {contrast:.2f}, motion {motion:.2f}")
        if min(contrast, motion) < _COLLAPSED:
            logger.warning(
                "Iteration %d: the validation clips have %.0f%% of the data's contrast and %.0f%% of its motion: "
                "training has collapsed. Train the stage anew with a lower learning rate (--restart).",
                iteration, 100 * contrast, 100 * motion,
            )  # fmt: skip
        self._write(run, iteration, method.data.decode(latents))

    def _write(self, run: TrainingRun, iteration: int, clips: torch.Tensor) -> None:
        try:
            from ..pictures import save_mp4, save_png, sheet, strip, to_pixels
        except ImportError as error:
            logger.warning("No validation pictures: %s. Install training/requirements.txt.", error)
            return
        config, folder = run.config.validation, run.folder / "validation" / f"{iteration:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        scale = max(1, _SHORT_SIDE // min(clips.shape[-2:]))
        frames = torch.linspace(0, clips.shape[2] - 1, min(_STRIP_FRAMES, clips.shape[2])).round().long().tolist()
        for number, clip in enumerate(clips):
            save_mp4(folder / f"{number:02d}.mp4", to_pixels(clip, scale), config.frames_per_second)
        rows = [(prompt, [strip(clip, frames, scale)]) for prompt, clip in zip(config.prompts, clips, strict=True)]
        picture = sheet(f"{run.config.stage}, iteration {iteration}", [""], rows)
        save_png(folder / "strips.png", picture)
        run.show(iteration, "validation/strips", picture)


def _spread(latents: torch.Tensor) -> float:
    """How much a frame varies over its area: standard deviation, mean over all else."""
    return float(latents.float().std(dim=(-2, -1)).mean())


def _motion(latents: torch.Tensor) -> float:
    """How much one latent frame differs from the next: mean absolute difference; 1 for a single frame."""
    return float(latents.float().diff(dim=2).abs().mean()) if latents.shape[2] > 1 else 1.0
