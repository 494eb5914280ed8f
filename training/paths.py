"""Cache the teacher's own guided paths from noise: training data from prompts alone, for `data.source: teacher`.

python training/paths.py --config training/configs/shapes.yaml [stage=semantic] [paths.count=4096 ...]

They are the paths of one stage's teacher with its guidance, and every stage with the same of both can be trained on
them. Of a pair of models they go through both, of which one is loaded at a time. It goes on where it was stopped; with
`--part 1/2` and `--part 2/2` two processes share the work.
"""

from __future__ import annotations

import argparse
import gc
import re
import shutil
import sys
import time
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
    from training.data.paths import Plan
    from training.methods.base import Method
    from training.methods.distillation import Distillation


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file, such as training/configs/shapes.yaml")
    parser.add_argument("--dry-run", action="store_true", help="say what it costs, from one call of the teacher")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="N/OF", help="make every OF-th file of paths")
    parser.add_argument("overrides", nargs="*", help="stage=NAME and settings such as paths.count=4096")
    options = parser.parse_intermixed_args(arguments)
    try:
        from training.config import load_config
        from training.registry import check

        config = load_config(options.config, options.overrides)
        check(config)
        run(config, options.dry_run, *options.part)
    except ImportError as error:
        sys.exit(f"error: {cannot_import(error)}")
    except (ConfigError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues from the last file of paths")


def run(config: Config, dry_run: bool, part: int = 1, parts: int = 1) -> None:
    """Make the paths of a configuration, or say what they cost. Raises ConfigError, and OSError for a full disk.

    They are those of the chosen stage, or else of the first that has a teacher. Of a pair they are those of both
    stages, which go through one model after the other.
    """
    from training.evaluation.recipe import training_paths
    from training.output import require_writable

    done, stages = False, [config.stage] if config.stage else _in_order(config)
    for stage in [] if dry_run else stages:
        require_writable(training_paths(config.of_stage(stage)), "output or paths.folder")
    for stage in stages:
        done = _run(config.of_stage(stage), dry_run, part, parts) or done
        if done and config.pair is None:
            return
        gc.collect()  # a model is gone before the next one is loaded
    if not done:
        raise ConfigError("No stage has a teacher whose paths could be made: choose stage=NAME of a distillation.")


def _in_order(config: Config) -> list[str]:
    """The stages; of a pair those over the high-noise model first."""
    return sorted(config.stages, key=lambda stage: config.of_stage(stage).part == "low_noise")


def _run(config: Config, dry_run: bool, part: int, parts: int) -> bool:
    """Make those of a stage, if it has a teacher."""
    from tqdm import tqdm

    from training.data.paths import BAR, PathCache, fill
    from training.evaluation.recipe import beginning, training_paths, training_plan
    from training.methods.distillation import Distillation
    from training.output import alone

    method = _method(config)
    if not isinstance(method, Distillation):
        return False
    folder = training_paths(config)
    if dry_run:
        print(unused_prompts(plan := training_plan(method, config)), end="")
        print(costs(method, plan, folder))
        return True
    before = beginning(config, folder)
    with alone(folder, "output or paths.folder", f".{part}of{parts}.lock"):  # the parts fill it together
        cache = PathCache.begin(folder, training_plan(method, config, before))
        mine, plan = range(part - 1, cache.plan.batches, parts), cache.plan
        print(f"{len(cache)} paths of {len(plan.levels)} states, {plan.calls} network calls each, into {folder}")
        print(unused_prompts(plan), end="")
        todo = sum(batch in mine for batch in cache.missing()) * plan.batch * plan.steps
        with tqdm(total=todo, desc="paths", disable=not todo, **BAR) as bar:
            teacher, process, world = method.guided_teacher, method.process, method.world
            list(fill(cache, method.data, teacher, process, world, mine, before, on_step=bar.update))
    left = len(cache.missing()) * plan.batch
    print(f"{left} paths are left to other parts." if left else "All paths are there: train with data.source=teacher.")
    return True


def costs(method: Distillation, plan: Plan, folder: Path) -> str:
    """What the paths cost, with one guided call of the teacher measured."""
    from torch.utils.flop_counter import FlopCounterMode

    from training.data.paths import solved
    from training.output import existing
    from training.words import digits, span, work

    one = plan.__class__(**{**vars(plan), "nodes": plan.nodes[:2], "levels": plan.nodes[:2]})
    model = method.guided_teacher(method.data.conditions(plan.captions([0])).to(method.device))
    with FlopCounterMode(display=False) as counter:
        solved(one, range(1), model, method.process, method.device)
    start = time.perf_counter()
    solved(one, range(1), model, method.process, method.device)
    seconds = time.perf_counter() - start
    steps, paths = plan.steps, plan.batches * plan.batch
    flop = counter.get_total_flops() * steps * paths
    size = plan.batches * plan.batch_bytes
    free = shutil.disk_usage(existing(folder)).free
    return (
        f"{paths} paths of {len(plan.prompts)} prompts, {plan.calls} network calls each: {paths * plan.calls} calls, "
        f"{work(flop)}, about {span(seconds * steps * paths)} on {method.device} one path at a time.\n"
        f"{len(plan.levels)} states a path: {digits(size / 1e9)} GB in {folder}, where {digits(free / 1e9)} GB are "
        "free."
        + (" That is too little: free some space, or set paths.folder or a smaller paths.count." if size > free else "")
    )


def unused_prompts(plan: Plan) -> str:
    """A line where there are more prompts than paths, or nothing."""
    prompts, paths = len(plan.prompts), plan.batches * plan.batch
    if paths >= prompts:
        return ""
    return f"Of {prompts} prompts the last {prompts - paths} get no path: paths.count={prompts} is one for each.\n"


def _method(config: Config) -> Method:
    """The method of the chosen stage, over the data set's own clips."""
    from training.methods.base import Setup
    from training.registry import build_backbone, build_data, build_method
    from training.run.world import join

    data = build_data(config)
    return build_method(Setup(config, build_backbone(config.backbone), data, join(config)))


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: write the first of two parts as 1/2")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    main()
