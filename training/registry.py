"""What a configuration names is the file of that name: ``methods/NAME.py``, ``backbones/NAME.py``, ``data/NAME.py``.

A backbone's autoencoder and text encoders are ``encoders/NAME.py``. There is no table to edit. Such a file says in one
constant what it brings: ``METHOD``, ``BACKBONE``, ``DATA`` or ``ENCODER``, beside which ``IMAGE_ENCODER`` may stand.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import torch

from .backbones.base import Backbone, check_first_frames
from .config import BackboneConfig, Config, MethodOptions, build
from .data.base import Data
from .data.buckets import Size
from .data.teacher_paths import TeacherPaths
from .errors import ConfigError, MissingCache, unknown
from .estimate.report import Estimate, told
from .estimate.stage import need
from .evaluation.recipe import check_paths, training_data
from .methods.base import Method, Setup
from .methods.distillation import Distillation
from .preparation.command import command
from .preparation.encoder import Encoder
from .run.checkpoint import reached


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone adapter that a configuration names. Raises ConfigError."""
    return _brought("backbones", "BACKBONE", "backbone.name", config.name)(config)


def build_data(config: Config) -> Data:
    """The data set of the selected stage. Raises ConfigError, for a cache that is missing with what makes it."""
    data = config.stage_data()
    try:
        return _brought("data", "DATA", "data.name", data.name)(data)
    except MissingCache as error:
        made_by = command(config, bool(build_backbone(config.backbone).told_of_image))
        raise MissingCache(f"{error} Make one, with your own for words in capitals: {made_by}") from None


def build_training_data(config: Config) -> Data:
    """What the selected stage is trained on: that data set's clips, or the teacher's paths. Raises ConfigError."""
    return training_data(build_data(config), config)


def build_encoder(name: str, weights: str | None, device: torch.device, image: bool = False) -> Encoder:
    """The encoders of a backbone, or of its image to video, for ``training/prepare.py``. Raises ConfigError."""
    encoder = _brought("encoders", "ENCODER", "--backbone", name)
    if image and (encoder := brought("encoders", "IMAGE_ENCODER").get(name)) is None:
        raise ConfigError(f"--image-to-video: image to video of {name} cannot be trained here. Leave the option out.")
    return encoder(weights, device)


def build_method(setup: Setup) -> Method:
    """The method of the selected stage, with its options read and its networks built. Raises ConfigError."""
    check_first_frames(setup.backbone, setup.data)
    method = _method(setup.config).build(setup, _options(setup.config))
    _check_texts(method)
    _check_latents(method)
    if isinstance(setup.data, TeacherPaths) and isinstance(method, Distillation):
        check_paths(method, setup.config)
    return method


def _check_texts(method: Method) -> None:
    """Raises ConfigError where texts are of another width than the network takes."""
    wide, taken = method.data.conditions([""]).text.shape[-1], method.student.network.text_width
    if wide != taken:
        raise ConfigError(
            f"data.name={method.config.stage_data().name}: its embedded texts are {wide} wide, and this backbone takes "
            f"texts of width {taken}. Prepare the data with the text encoder of this backbone."
        )


def _check_latents(method: Method) -> None:
    """Raises ConfigError where latents have other channels than the network makes."""
    config = method.student.network.transformer.config
    there, made = method.data.latent_shape[0], config.out_channels or config.in_channels
    if there != made:
        raise ConfigError(
            f"data.name={method.config.stage_data().name}: its latents have {there} channels, and this backbone's have "
            f"{made}. Prepare the data with the autoencoder of this backbone."
        )


def estimated(config: Config, size: Size | None, card: float | None, rate: float, gpus: int = 1) -> Estimate:
    """What the selected stage needs on so many GPUs: counted, without a weight or a clip. Raises ConfigError."""
    method, options = _method(config), _options(config)
    try:
        latents = build_data(config).latent_shape
    except (ConfigError, OSError):  # it has not been prepared yet
        latents = None
    found = need(config, method, options, build_backbone, size, latents, gpus)
    return told(config, options, found, card, rate)


def check(config: Config) -> None:
    """Raises ConfigError naming what is wrong with the methods, data sets and options of all stages, a line each."""
    problems: dict[str, None] = {}
    for stage in map(config.of_stage, config.stages):
        for checked in (_options, _data_options, _boundary):
            try:
                checked(stage)
            except ConfigError as error:
                problems[str(error)] = None
    if problems:
        raise ConfigError("\n".join(problems))


def check_below(config: Config) -> None:
    """Raises ConfigError where a run of all stages would train the semantic expert on below one that was trained over
    it: that one would be refused, after all the hours of the first."""
    below, output = config.stages.get("semantic"), Path(config.output)
    done = reached(output / "semantic")
    if config.stage or config.pair or below is None or config.watch.patience or not 0 < done < below.iterations:
        return
    for stage in map(config.of_stage, config.stages):
        options: Any = _options(stage)
        if getattr(options, "over_semantic", False) and options.semantic is None and reached(output / stage.stage):
            raise ConfigError(
                f"stages.semantic.iterations={below.iterations}: {output / stage.stage} was trained over the semantic "
                f"expert as it is after {done}. Set stages.semantic.iterations={done}, or train it on with "
                f"stage=semantic and what lies over it anew with --restart stage={stage.stage}."
            )


def brought(folder: str, constant: str) -> dict[str, Any]:
    """What the files of a folder bring, by their names: ``brought("methods", "METHOD")``."""
    package = import_module(f".{folder}", __package__)
    modules = {each.name: import_module(f".{each.name}", package.__name__) for each in iter_modules(package.__path__)}
    return {name: getattr(module, constant) for name, module in modules.items() if hasattr(module, constant)}


def _method(config: Config) -> type[Method]:
    return _brought("methods", "METHOD", f"stages.{config.stage}.method", config.selected().method)


def _options(config: Config) -> MethodOptions:
    """The options of the selected stage, which go together with all else."""
    options = build(_method(config).Options, config.selected().options, f"stages.{config.stage}.options")
    if problems := list(options.contradictions(config)):
        raise ConfigError("\n".join(problems))
    return options


def _data_options(config: Config) -> None:
    data = config.stage_data()
    build(_brought("data", "DATA", "data.name", data.name).Options, data.options, "data.options")


def _boundary(config: Config) -> None:
    """Raises ConfigError where the boundary of a pair is that of the other task: image to video has one of its own."""
    if config.pair is None or not isinstance(config.pair.boundary, str):
        return
    task, of = ("image", "an image") if build_backbone(config.backbone).told_of_image else ("text", "text")
    if config.pair.boundary != task:
        raise ConfigError(
            f"pair.boundary={config.pair.boundary}: this backbone makes videos of {of}, whose pair changes models at "
            f"another noise level. Set pair.boundary={task}, or a noise level."
        )


def _brought(folder: str, constant: str, key: str, name: str) -> Any:
    """What the file of that name in a folder brings. Raises ConfigError with the names there are."""
    package = import_module(f".{folder}", __package__)
    named = name in (found.name for found in iter_modules(package.__path__))
    found = getattr(import_module(f".{name}", package.__name__), constant, None) if named else None
    if found is None:
        raise unknown(key, name, brought(folder, constant))
    return found
