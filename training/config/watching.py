"""The sections about the teacher's own paths, and about what is watched while a stage trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .section import Count, Section, Share, Whole

Action = Literal["off", "warn", "stop"]


class PathsConfig(Section):
    """The teacher's own guided paths from noise: training data made of prompts alone.

    `python training/paths.py` caches them, and `data.source: teacher` trains on them.
    """

    folder: str = Field(default="", description="Where they are kept; empty means `output/paths`.")
    prompts: str | None = Field(
        default=None,
        description="A text file with a prompt a line; none means the captions that the data set has, of image to "
        "video those with a first frame.",
    )
    count: Count = Field(
        default=1024,
        description="How many paths, in whole batches; the prompts take turns. More may be added later. Where "
        "there are more, the first so many are trained on.",
    )
    batch_size: Count = Field(default=16, description="Paths that are made at once; a file of the cache holds them.")
    steps: list[Count] = Field(
        default_factory=list,
        description="The numbers of steps of runs at whose noise levels states are kept, and at two more a step; empty "
        "means that of `validation.steps`.",
    )

    @property
    def whole(self) -> int:
        """``count`` in whole batches."""
        return -(-self.count // self.batch_size) * self.batch_size


class WatchConfig(Section):
    """The jump error: how far the student's jumps lead away from held-out paths of the teacher, by noise level.

    1 is as far away as without a jump.
    """

    every: Whole = Field(
        default=500, description="Measured before the first iteration, after so many each, and last; 0 is never."
    )
    folder: str | None = Field(
        default=None,
        description="A cache of held-out paths; none makes one in `output/held_out`, of `validation.prompts` or else "
        "of the captions that the data set has.",
    )
    paths: Count = Field(default=8, description="Held-out paths in it.")
    floor_paths: Whole = Field(
        default=2,
        description="How many of them are solved on a grid four times finer too: the distance is a floor of the error.",
    )
    patience: Whole = Field(
        default=0, description="The stage stops after so many measurements in a row without a better one; 0 is never."
    )
    best: bool = Field(default=True, description="Export the weights of the least error as `STAGE.best.safetensors`.")


class AlarmsConfig(Section):
    """What happens when something goes wrong: `warn` says what to do, `stop` saves and ends the stage too."""

    non_finite: Literal["stop", "step_back"] = Field(
        default="stop",
        description="A loss or gradient that is not finite: stop, or go back to the last checkpoint with half the "
        "learning rate, at most three times.",
    )
    discriminator: Action = Field(
        default="warn", description="The discriminator's loss near 0 or 2 over a whole window: it teaches nothing."
    )
    motion: Action = Field(default="warn", description="Validation clips that hardly move beside the teacher's.")
    motion_share: Share = Field(
        default=0.3, description="The share of the teacher's motion below which they hardly do."
    )
    spike: Action = Field(default="warn", description="A loss many times the median of those in the window before.")
    spike_factor: Annotated[float, Field(gt=1)] = Field(default=10.0, description="How many times.")
    jump_error: Action = Field(
        default="warn", description="A jump error above that of the untrained student, twice in a row."
    )
    window: Annotated[int, Field(ge=2)] = Field(default=200, description="Iterations that alarms look back on.")
