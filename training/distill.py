"""Train the stages of a configuration, each from its last checkpoint.

python training/distill.py --config training/configs/shapes.yaml [stage=semantic] [key.subkey=value ...]

On several GPUs: torchrun --nproc-per-node GPUS training/distill.py ... (training/launch has more).
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if not __package__:
    # Run as a file: the modules of this folder are found as training.*, and never by their bare names.
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        sys.path[0] = str(here.parent)
    else:  # an isolated Python leaves the folder out
        sys.path.insert(0, str(here.parent))

from training.errors import ConfigError, MissingWeights, Stopped  # noqa: E402
from training.installed import cannot_import  # noqa: E402

if TYPE_CHECKING:
    import torch

    from training.config import Config

RANK = int(os.environ.get("RANK", 0))  # of this process, by torchrun
PATIENCE = 5  # seconds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file, such as training/configs/shapes.yaml")
    parser.add_argument("--dry-run", action="store_true", help="say what it needs of a GPU: memory, time, disk")
    parser.add_argument("--card", help="with --dry-run: the GPU's memory, such as 24GB; says whether it fits")
    parser.add_argument("--size", help="with --dry-run: of the clips, such as 832x480x81 (what the backbone is for)")
    parser.add_argument(
        "--rate", type=float, default=350.0, help="with --dry-run: TFLOP a second to assume (%(default)g, of an H200)"
    )
    parser.add_argument("--gpus", type=_count, help="with --dry-run: how many there are (one, or those of torchrun)")
    parser.add_argument(
        "--try", dest="trial", action="store_true", help="build all, train one iteration, write nothing"
    )
    parser.add_argument("--restart", action="store_true", help="with stage=NAME: forget its checkpoint and train anew")
    parser.add_argument("overrides", nargs="*", help="stage=NAME and settings such as data.batch_size=8")
    options = parser.parse_intermixed_args(arguments)
    if RANK:
        logging.disable(logging.WARNING)  # the first process says the same
    try:
        from torch.cuda import OutOfMemoryError

        from dcm_core.errors import ExpertFileError
        from training.config import load_config
        from training.output import require_writable
        from training.registry import check, check_below
        from training.run.world import another_is_gone, check_processes, farewell, processes
    except ImportError as error:
        give_up(cannot_import(error))
    try:
        config = load_config(options.config, options.overrides)
        check(config)
        gpus = options.gpus if options.dry_run and options.gpus else processes()
        check_processes(config, gpus)
        if options.restart and not config.stage:
            raise ConfigError(f"--restart needs stage=NAME; there are {', '.join(config.stages)}.")
        stages = [config.stage] if config.stage else list(config.stages)
        if options.dry_run:
            estimate(config, stages, options.size, options.card, options.rate, gpus)
            return
        if not options.trial:
            check_below(config)
        for stage in [] if options.trial else stages:
            require_writable(Path(config.output, stage))
        for stage in stages:
            try:
                run(config.of_stage(stage), options.trial, options.restart)
                gc.collect()  # its networks are gone before the next stage loads its own
            except MissingWeights as error:
                if not options.trial or stage == stages[0]:
                    raise
                say(f"stage {stage}: not tried, since it builds on a stage before it. {error}")
        if not options.trial:
            say(whats_next(config))
    except Stopped as told:
        say(str(told))
    except ImportError as error:
        give_up(cannot_import(error))
    except (ConfigError, ExpertFileError, OSError, FloatingPointError) as error:
        give_up(error)
    except OutOfMemoryError as error:
        give_up(
            f"the GPU has too little memory: {error} Close what else uses it, or take compute.micro_batch=1 and "
            "compute.checkpointing=full, which a run that was begun goes on with; training/README.md has more under "
            "'Less memory'. Checkpoints are left as they are."
        )
    except RuntimeError as error:
        if not another_is_gone(error):
            raise
        give_up("another process has ended, and this one with it; its reason stands above.")
    except KeyboardInterrupt:
        sys.exit(1 if RANK else "interrupted; the same command continues from the last checkpoint")
    farewell()


def _count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of GPUs")
    return int(text)


def estimate(config: Config, stages: list[str], size: str | None, card: str | None, rate: float, gpus: int) -> None:
    """Say what each stage needs, and of a named card whether it is enough."""
    from training.estimate.report import card_size, clip_size, conclusion
    from training.registry import estimated

    clips, memory = size and clip_size(size), card and card_size(card)
    estimates = []
    for stage in stages:
        estimates.append(estimated(config.of_stage(stage), clips or None, memory or None, rate, gpus))
        say(estimates[-1].text)
    if memory:
        say(conclusion(estimates))


def run(config: Config, trial: bool = False, restart: bool = False) -> None:
    """Train one stage, or show in one iteration that it can be trained."""
    from training.output import alone
    from training.trainer import build_trainer

    if trial:
        trainer = build_trainer(config)
        say(trainer.describe())
        losses = " ".join(f"{name} {value:.4g}" for name, value in trainer.method.step(0).items())
        say(f"one iteration was trained, and nothing written: {losses}")
        say_peak(trainer.method.device)
        return
    with alone(Path(config.output, config.stage)):
        build_trainer(config).run(restart)


def say_peak(device: torch.device) -> None:
    """What a GPU held at most: whoever tries a configuration wants to know how much room is left on it."""
    if device.type == "cuda":
        from torch.cuda import max_memory_allocated

        say(f"held on the GPU at most: {max_memory_allocated(device) / 2**30:.1f} GiB")


def say(text: str) -> None:
    """Print, once for all processes."""
    if RANK == 0:
        print(text)


def give_up(error: Exception | str) -> NoReturn:
    """End this process, and by that all of them, with the reason.

    Most reasons are those of every process: the first one tells them, and torchrun then ends the others.
    """
    reason = f"error in process {RANK}: {error}" if RANK else f"error: {error}"
    if RANK:
        time.sleep(PATIENCE)
    tell_torchrun(reason)
    sys.exit(reason)


def tell_torchrun(reason: str) -> None:
    """Have it say the reason in the report that it ends with, a screen below where this process says it."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": reason, "extraInfo": {"py_callstack": reason, "timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": told}), "ascii")


def whats_next(config: Config) -> str:
    """A line for whoever has a stage behind them."""
    stages = list(config.stages)
    later = stages[stages.index(config.stage) + 1 :] if config.stage else []
    return f"Next: the same command with stage={later[0]}." if later else "All stages of this configuration are done."


if __name__ == "__main__":
    main()
