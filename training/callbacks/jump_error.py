"""The jump error as a curve, early stopping by it, and the best weights beside the last."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..evaluation.jump_error import Errors, HeldOut
from ..evaluation.recipe import held_out
from ..methods.distillation import Distillation
from .base import Callback, TrainingRun

logger = logging.getLogger(__name__)
MEAN, UNTRAINED, DETAIL = "jump_error/mean", "jump_error/mean_untrained", "detail"
_EXPLANATION = (
    "Jump error: how far the student's jumps lead away from held-out paths of its teacher: 0 is on them, 1 as far as "
    "without a jump. Beside it the student before training, one step of the teacher, and a floor."
)


class JumpError(Callback):
    """Measures before the first iteration, every ``watch.every``, and last, with averaged weights where they are kept.

    Under ``jump_error/`` and the noise level where a jump starts: that of the student's jump to the next level of the
    run; ``_to_end``, to the end that it is trained for; ``_own``, in a run of its own from noise. Beside them
    ``_untrained``, the student before its first iteration, ``_teacher``, one guided step of the teacher, and
    ``_floor``, the teacher on a grid four times finer. Under ``detail/`` the energy of fine detail in the clean video
    that each jump aims at, over the path's: below 1 it is blurred.
    """

    everywhere = True

    def __init__(self) -> None:
        self.held_out: HeldOut | None = None
        self.beside: dict[str, float] = {}  # what does not change while the student learns
        self.best, self.best_iteration, self.waited = float("inf"), 0, 0
        self.measured_on: str | None = None  # tells held-out paths and runs from others, whose errors say nothing here

    def start(self, run: TrainingRun) -> None:
        config, method = run.config, run.method
        if not config.watch.every or not isinstance(method, Distillation) or run.iteration == run.stage.iterations:
            return
        cache = held_out(method, config)
        if cache is None:
            logger.info(
                "No jump error, since there are no held-out paths: give validation.prompts, or a folder of some in "
                "watch.folder. Those of a pair are begun by the semantic stage."
            )
            return
        found = HeldOut(method, cache, config.validation.steps)
        if not found.segments:
            logger.info("No jump error: in %d steps this stage's student has none.", config.validation.steps)
            return
        self.held_out = found
        self._forget_others(f"{cache.plan.name}, {len(cache)} paths in {config.validation.steps} steps")
        if run.first:
            tqdm.write(_EXPLANATION)
        if not run.iteration:
            if run.first:
                _path(run).unlink(missing_ok=True)
            self.beside = self._baselines(found, run)
            self._measure(run, 0)
        elif self._waited_enough(run):
            self._stop(run)

    def after_step(self, run: TrainingRun, iteration: int, metrics: dict[str, float]) -> None:
        done = iteration + 1
        if self.held_out is None or (done % run.config.watch.every and done != run.stage.iterations):
            return
        mean = self._measure(run, done)
        if not mean < self.best:  # nor where it is not finite
            self.waited += 1
            if self._waited_enough(run):
                self._stop(run)
            return
        self.best, self.best_iteration, self.waited = mean, done, 0
        if run.config.watch.best:
            with run.method.averaged():
                run.method.export(_path(run))

    def finish(self, run: TrainingRun) -> None:
        if run.first and run.config.watch.best and self.best_iteration not in (0, run.iteration):
            print(f"Best jump error {self.best:.3f} at iteration {self.best_iteration}: {_path(run)}")

    def state(self) -> dict[str, Any]:
        best = self.best if self.best_iteration else None
        return {
            "beside": self.beside,
            "best": best,
            "best_iteration": self.best_iteration,
            "waited": self.waited,
            "measured_on": self.measured_on,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.beside = state.get("beside", {})
        self.waited = state.get("waited", 0)
        best = state.get("best")
        if best is not None and best <= self.best:  # after a step back the better weights are in the file all the same
            self.best, self.best_iteration = best, state["best_iteration"]
        self.measured_on = state.get("measured_on")

    def _forget_others(self, measured_on: str) -> None:
        """What was measured before on other paths, or in a run of other steps, is no best to compare with."""
        if self.measured_on not in (None, measured_on):
            logger.warning(
                "The jump error was measured on %s, and is on %s from here on: the best weights are those from here on."
                " The untrained student cannot be measured anew.", self.measured_on, measured_on,
            )  # fmt: skip
            self.beside, self.best, self.best_iteration, self.waited = {}, float("inf"), 0, 0
        self.measured_on = measured_on

    def _baselines(self, found: HeldOut, run: TrainingRun) -> dict[str, float]:
        method, paths = found.method, min(run.config.watch.floor_paths, len(found.cache))
        if run.first and paths:
            tqdm.write(
                f"Measuring its floor, once: {paths} of the paths on a finer grid, {found.floor_calls()} calls each"
            )
        with method.averaged():
            untrained = found.jumps(found.method.student_alone)
        teacher = found.jumps(method.guided_teacher)
        values = _named(found, untrained, "_untrained") | _named(found, teacher, "_teacher")
        if paths:
            values |= _named(found, found.floor(method.guided_teacher, paths), "_floor")
        return values

    def _measure(self, run: TrainingRun, iteration: int) -> float:
        found = self.held_out
        assert found is not None
        with found.method.averaged():
            errors = found.jumps(found.method.student_alone)
            own = found.own(found.method.few_step)
        named = {f"jump_error/{label}_own": value for label, value in zip(found.labels(), own, strict=True)}
        run.report(iteration, {**_named(found, errors), **named, **self.beside})
        if not run.first:
            return errors.mean
        known = (("untrained", UNTRAINED), ("teacher", f"{MEAN}_teacher"), ("floor", f"{MEAN}_floor"))
        beside = ", ".join(f"{words} {self.beside[name]:.3f}" for words, name in known if name in self.beside)
        tqdm.write(f"iteration {iteration}: jump error {errors.mean:.3f} ({beside})")
        return errors.mean

    def _waited_enough(self, run: TrainingRun) -> bool:
        return 0 < run.config.watch.patience <= self.waited

    def _stop(self, run: TrainingRun) -> None:
        run.stop(
            f"the jump error has not fallen below {self.best:.3f} of iteration {self.best_iteration} in "
            f"{self.waited} measurements (watch.patience)"
        )


def _named(found: HeldOut, errors: Errors, what: str = "") -> dict[str, float]:
    values = {f"{MEAN}{what}": errors.mean}
    for label, following, end, detail in zip(found.labels(), errors.next, errors.end, errors.detail, strict=True):
        values |= {f"jump_error/{label}{what}": following, f"jump_error/{label}_to_end{what}": end}
        values[f"{DETAIL}/{label}{what}"] = detail
    return values


def _path(run: TrainingRun) -> Path:
    return run.folder / f"{run.config.stage}.best.safetensors"
