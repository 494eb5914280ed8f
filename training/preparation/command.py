"""The command that makes the cache of a configuration, as far as that knows it."""

from __future__ import annotations

import shlex

from ..config import Config


def command(config: Config, image: bool) -> str:
    """How the selected stage's cache is made. ``image``: of image to video. In capitals stands what nobody has said."""
    data = config.stage_data()
    from_prompts = data.source == "teacher"
    words = [] if from_prompts else ["--data", "VIDEOS"]
    words += ["--image-to-video"] if image else []
    words += ["--backbone", config.backbone.name]
    if encoders := data.options.get("encoders"):
        words += ["--weights", encoders]
    if from_prompts:
        words += ["--prompts", config.paths.prompts or "PROMPTS"]
    elif config.validation.prompts:
        words += ["--prompts", "VALIDATION_PROMPTS"]
    if data.options.get("negative_prompt"):
        words += ["--negative-prompt", "NEGATIVE_PROMPT"]
    return shlex.join(["python", "training/prepare.py", *words, "--output", data.options["cache"]])
