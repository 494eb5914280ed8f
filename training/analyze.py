"""How one consistency network learns at high and at low noise, and the kappa that this suggests.

python training/analyze.py --config training/configs/shapes_quick.yaml [stage=semantic] [key.subkey=value ...]

Takes the configuration of distill.py: its backbone, data, guidance and loss. One network over all noise levels is
measured before training, and after --after iterations, which are trained in memory. Figures, and the numbers
behind them in dynamics.json, are written into OUTPUT/dynamics.

With --experts HIGH LOW also the difference of two networks that were trained separately, by kind of layer: files of
whole backbones, as stages of lcm or pcm with options.expert leave them. Of a pair of models this difference is all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:
    # Run as a file: the modules of this folder are found as training.*, and never by their bare names.
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        sys.path[0] = str(here.parent)
    else:  # an isolated Python leaves the folder out
        sys.path.insert(0, str(here.parent))

from training.errors import ConfigError  # noqa: E402
from training.installed import cannot_import  # noqa: E402

if TYPE_CHECKING:
    from training.config import Config


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file, such as training/configs/shapes_quick.yaml")
    parser.add_argument("--output", type=Path, help="folder of the figures (OUTPUT/dynamics of the configuration)")
    parser.add_argument("--levels", type=int, default=10, help="noise levels, evenly over the grid (%(default)s)")
    parser.add_argument("--batches", type=int, default=2, help="batches a half at each level (%(default)s)")
    parser.add_argument("--after", type=_numbers, default=[], help="measure again after these, such as 100,300")
    parser.add_argument("--experts", type=Path, nargs=2, metavar=("HIGH", "LOW"), help="two files to compare")
    parser.add_argument("overrides", nargs="*", help="stage=NAME and settings such as data.batch_size=8")
    options = parser.parse_intermixed_args(arguments)
    try:
        from training.config import load_config
        from training.output import require_writable
        from training.registry import check

        config = load_config(options.config, options.overrides)
        check(config)
        folder = options.output or Path(config.output, "dynamics")
        require_writable(folder)
        if config.pair is None or not options.experts:
            analyse(config, folder, options.levels, options.batches, options.after)
        if options.experts:
            compare(config, folder, *options.experts)
    except ImportError as error:
        sys.exit(f"error: {cannot_import(error)}")
    except (ConfigError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")


def analyse(config: Config, folder: Path, levels: int, batches: int, after: list[int]) -> None:
    """Measure before training and after so many iterations each, and write the figures. Raises ConfigError."""
    from training.evaluation.dynamics.kappa import suggested
    from training.evaluation.dynamics.measure import measured, over_all_levels
    from training.evaluation.dynamics.report import told, write
    from training.evaluation.jump_error import HeldOut
    from training.evaluation.recipe import held_out
    from training.methods.base import Setup
    from training.methods.consistency import Consistency
    from training.registry import build_backbone, build_method, build_training_data
    from training.run.world import join

    if config.pair:
        raise ConfigError(
            "analyze.py asks where one network over all noise levels should be parted, and a pair is parted already: "
            "leave pair out and name one model in backbone.weights, or compare the two weights with --experts."
        )
    points = config.expert_schedule().grid.points
    if not 4 <= levels <= points:
        raise ConfigError(f"--levels={levels} must be between 4 and the {points} points of the grid.")
    config = over_all_levels(config.of_stage(_distillation(config)), levels)
    data, world = build_training_data(config), join(config)
    if world.size > 1:
        raise ConfigError("analyze.py is for one process: start it without torchrun.")
    method = build_method(Setup(config, build_backbone(config.backbone), data, world))
    assert isinstance(method, Consistency)
    cache = held_out(method, config)
    if cache is None:
        raise ConfigError("Give validation.prompts, or the folder of held-out paths in watch.folder.")
    found = HeldOut(method, cache, levels)
    index = [each.stop - 1 for each in _even(points, levels)]
    results, done = [], 0
    for target in sorted({0, *after}):
        for iteration in range(done, target):
            method.step(iteration)
        done = target
        results.append(measured(method, found, index, batches, done))
        print(f"measured at {levels} noise levels, {done} iterations")
    suggestion = suggested(index, results[-1])
    about = {"stage": config.stage, "clips": 2 * batches * data.batch_size, "held_out_paths": len(cache)}
    write(folder, method.schedule, index, results, suggestion, about)
    print(f"{told(method.schedule, index, results[-1], suggestion)}\nFigures and dynamics.json are in {folder}.")


def compare(config: Config, folder: Path, high: Path, low: Path) -> None:
    """How far two experts' weights lie apart. Raises ConfigError where they are no two of one network."""
    from training.evaluation.dynamics.layers import differences
    from training.evaluation.dynamics.report import write_layers
    from training.registry import build_backbone

    backbone = build_backbone(config.backbone)
    first, second = (dict(backbone.load(path).transformer.state_dict()) for path in (high, low))
    shares = differences(first, second)
    write_layers(folder, shares, {"files": [str(high), str(low)]})
    print("Weights apart: " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))


def _distillation(config: Config) -> str:
    """The chosen stage, or the first one that has a teacher. Raises ConfigError."""
    from training.methods.distillation import Distillation
    from training.registry import brought

    methods = brought("methods", "METHOD")
    for name in [config.stage] if config.stage else config.stages:
        if issubclass(methods[config.stages[name].method], Distillation):
            return name
    raise ConfigError("No stage has a teacher to learn from: choose stage=NAME of a distillation.")


def _numbers(text: str) -> list[int]:
    """Of a list such as 100,300."""
    return [int(each) for each in text.split(",")]


def _even(points: int, count: int) -> list[range]:
    from training.methods.pcm import phases

    return phases(range(points), count)


if __name__ == "__main__":
    main()
