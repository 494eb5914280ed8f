"""What leads from noise and a prompt to a path of the teacher, and what is said where a run has something else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import ConfigError

UNROUNDED = "none"
_WORDS = {
    "teacher": "another backbone, or other weights of it",
    "guidance": "guidance {kept}, and this run's is {now}",
    "embedded_guidance": "embedded guidance {kept}, and this run's is {now}",
    "unconditional": "another negative prompt",
    "grid": "the grid {kept}, and this run's is {now}",
    "solver": "the solver {kept}, and this trainer's is {now}",
    "shape": "latents of shape {kept}, and this run's are {now}",
    "frames": "other first frames of its prompts",
    "base": "compute.base={kept}, and this run's is {now}",
}


@dataclass(frozen=True)
class Recipe:
    """What leads from noise and a prompt to a path.

    ``teacher``: digest of its weights; ``unconditional``: of what the other side of its guidance is told. ``grid``: the
    schedule's, in words. ``shape`` of the latents [C, T, H, W]. ``frames``: digest of the prompts' first frames, empty
    for text to video. ``base``: what the teacher's matrices were rounded to.
    """

    teacher: str
    guidance: float
    embedded_guidance: float | None
    unconditional: str
    grid: str
    shape: list[int]
    solver: str = "euler"
    frames: str = ""
    base: str = UNROUNDED

    def check(self, now: Recipe, folder: Path, adding: bool = False) -> None:
        """Raises ConfigError naming all in which a run differs from what the paths of ``folder`` were made with.

        ``adding``: are more to be made? Those that are there may be of a teacher that is not rounded, as it should be.
        """
        kept, wanted = asdict(self), asdict(now)
        if self.base == UNROUNDED and not adding:
            wanted["base"] = UNROUNDED
        wrong = [
            words.format(kept=kept[name], now=wanted[name])
            for name, words in _WORDS.items()
            if kept[name] != wanted[name]
        ]
        if wrong:
            raise ConfigError(
                f"The paths in {folder} were made with {'; with '.join(wrong)}. Set the former, or name another folder."
            )
