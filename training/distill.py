"""Train the stages of a configuration, each from its last checkpoint.

python training/distill.py --config training/configs/shapes.yaml [stage=semantic] [key.subkey=value ...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:
    # Run as a file: the modules of this folder are found as training.*, and never by their bare names.
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        sys.path[0] = str(here.parent)
    else:  # an isolated Python leaves the folder out
        sys.path.insert(0, str(here.parent))

from training.config import Config, ConfigError, load_config  # noqa: E402
from training.trainer import build_trainer  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file, such as training/configs/shapes.yaml")
    parser.add_argument("--dry-run", action="store_true", help="build everything, train one iteration, write nothing")
    parser.add_argument("overrides", nargs="*", help="stage=NAME and settings such as data.batch_size=8")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        for stage in [config.stage] if config.stage else list(config.stages):
            run(config.of_stage(stage), options.dry_run)
    except (ConfigError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues from the last checkpoint")


def run(config: Config, dry_run: bool) -> None:
    """Train one stage, or show in one iteration that it can be trained."""
    trainer = build_trainer(config)
    if dry_run:
        print(trainer.describe())
        print(" ".join(f"{name} {value:.4g}" for name, value in trainer.method.step(0).items()))
    else:
        trainer.run()


if __name__ == "__main__":
    main()
