"""Alarms: what goes wrong in a training, each with a sentence that says what to do, and an action."""

from __future__ import annotations

import logging
from collections import deque
from statistics import median
from typing import Any

from .base import Callback, TrainingRun
from .jump_error import MEAN, UNTRAINED
from .validation import MOTION

logger = logging.getLogger(__name__)
_STEPS_BACK, _SLOWER = 3, 0.5
_PINNED = 0.02  # how near to 0 or 2 the discriminator's loss is then
_SETTLED = 20  # losses from which a median is taken


class Alarms(Callback):
    """Says each thing once, and again when it has been over in between; the section ``alarms`` has the actions."""

    everywhere = True  # after a step back all processes go on from the same iteration

    def __init__(self) -> None:
        self.losses: deque[float] = deque()
        self.verdicts: deque[float] = deque()
        self.worse, self.steps_back = 0, 0
        self.told: set[str] = set()

    def start(self, run: TrainingRun) -> None:
        window = run.config.alarms.window
        self.losses, self.verdicts = deque(self.losses, window), deque(self.verdicts, window)
        if self.steps_back:
            self._slow_down(run)

    def after_step(self, run: TrainingRun, iteration: int, metrics: dict[str, float]) -> None:
        self._spike(run, iteration + 1, _student_loss(metrics))
        if "discriminator" in metrics:
            self._pinned(run, iteration + 1, metrics["discriminator"])

    def report(self, run: TrainingRun, iteration: int, values: dict[str, float]) -> None:
        settings = run.config.alarms
        if iteration and MEAN in values and UNTRAINED in values:
            self.worse = self.worse + 1 if values[MEAN] > values[UNTRAINED] else 0
            self._alarm(
                run, "jump_error", iteration, self.worse > 1,
                f"the jump error is {values[MEAN]:.3f}, and that of the untrained student was {values[UNTRAINED]:.3f}: "
                "this training makes it worse. Lower the learning rate, or train longer if the curve falls.",
            )  # fmt: skip
        if MOTION in values:
            self._alarm(
                run, "motion", iteration, values[MOTION] < settings.motion_share,
                f"the validation clips have {values[MOTION]:.0%} of the motion of the teacher's from the same noise. "
                "Lower the learning rate, or give the stage more iterations; a detail stage inherits it from the "
                "semantic expert.",
            )  # fmt: skip

    def failed(self, run: TrainingRun, iteration: int, error: FloatingPointError) -> bool:
        """Step back if that is asked for; False where the run has to end."""
        if run.config.alarms.non_finite == "stop" or self.steps_back == _STEPS_BACK:
            return False
        steps_back = self.steps_back + 1
        if not run.step_back():
            return False
        self.steps_back = steps_back
        self._slow_down(run)
        logger.warning(
            "Iteration %d: %s Stepped back to iteration %d, and going on with %g of the learning rate.",
            iteration + 1, error, run.iteration, _SLOWER**steps_back,
        )  # fmt: skip
        return True

    def state(self) -> dict[str, Any]:
        return {
            "losses": list(self.losses),
            "verdicts": list(self.verdicts),
            "worse": self.worse,
            "steps_back": self.steps_back,
            "told": sorted(self.told),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.losses = deque(state.get("losses", ()))
        self.verdicts = deque(state.get("verdicts", ()))
        self.worse, self.steps_back = state.get("worse", 0), state.get("steps_back", 0)
        self.told = set(state.get("told", ()))

    def _spike(self, run: TrainingRun, iteration: int, loss: float) -> None:
        settings = run.config.alarms
        usual = median(self.losses) if len(self.losses) >= min(_SETTLED, settings.window) else float("inf")
        self._alarm(
            run, "spike", iteration, loss > settings.spike_factor * usual,
            f"the loss is {loss:.3g}, and its median was {usual:.3g} before. If the jump error does not come back "
            "down, lower the learning rate or grad_clip and go on from a checkpoint.",
        )  # fmt: skip
        self.losses.append(loss)

    def _pinned(self, run: TrainingRun, iteration: int, loss: float) -> None:
        self.verdicts.append(loss)
        whole = len(self.verdicts) == run.config.alarms.window
        for at, how, remedy in ((0.0, "without fail", "Lower"), (2.0, "not at all", "Raise")):
            self._alarm(
                run, "discriminator", iteration, whole and all(abs(each - at) < _PINNED for each in self.verdicts),
                f"the discriminator's loss has been {at:g} for {len(self.verdicts)} iterations: it tells the student's "
                f"clips from real ones {how}, so that the student learns nothing from it. {remedy} "
                "options.discriminator.lr, try real=data, or set adversarial=0.",
                f"discriminator at {at:g}",
            )  # fmt: skip

    def _alarm(self, run: TrainingRun, name: str, iteration: int, wrong: bool, text: str, key: str = "") -> None:
        key, action = key or name, getattr(run.config.alarms, name)
        if not wrong:
            self.told.discard(key)
        elif action != "off" and key not in self.told:
            self.told.add(key)
            if run.first:
                logger.warning("Iteration %d: %s", iteration, text)
            if action == "stop":
                run.stop(f"alarms.{name} is stop")

    def _slow_down(self, run: TrainingRun) -> None:
        """Half the configured learning rate for each step back."""
        for learner in run.method.learners.values():
            rate = learner.configured.lr * _SLOWER**self.steps_back
            learner.config = learner.configured.model_copy(update={"lr": rate})


def _student_loss(metrics: dict[str, float]) -> float:
    return sum(value for name, value in metrics.items() if not name.startswith(("grad_norm", "discriminator")))
