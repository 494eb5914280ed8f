"""VBench's scores of finished videos: Total, Quality and Semantic beside the published rows.

python training/vbench.py --manifest videos.jsonl --prompts VBench_full_info.json      what to sample
python training/vbench.py --check                                                      what is missing
python training/vbench.py --videos FOLDER --output runs/vbench/mine                    all sixteen dimensions
python training/vbench.py --videos FOLDER --output runs/vbench/mine --custom           six, of videos of your own

The package vbench runs in an environment of its own, which is made by the commands that --check prints: nothing is
installed here. The same command goes on with the dimensions that have no score yet.
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.evaluation.vbench.environment import Environment
    from training.evaluation.vbench.suite import Suite


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="the folder of the videos")
    parser.add_argument("--output", type=Path, default=Path("runs/vbench"), help="folder of the scores (%(default)s)")
    parser.add_argument(
        "--python", type=Path, default=Path("runs/vbench_env/bin/python"), help="of VBench's environment (%(default)s)"
    )
    parser.add_argument("--prompts", type=Path, help="VBench_full_info.json (the one that the package comes with)")
    parser.add_argument("--texts", type=Path, help="what was sampled in place of each prompt, a line each")
    parser.add_argument("--custom", action="store_true", help="videos of your own: the six dimensions without prompts")
    parser.add_argument("--dimensions", nargs="+", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--name", default="these videos", help="of the row in the table")
    parser.add_argument("--calls", default="?", help="network calls a video, for the table")
    parser.add_argument("--check", action="store_true", help="say what is missing, and run nothing")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="write the list of videos to sample, and end")
    parser.add_argument("--seed", type=int, default=0, help="of the manifest's noise")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except (ConfigError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on with the next dimension")


def run(options: argparse.Namespace) -> None:
    """What was asked for. Raises ConfigError naming all that is missing."""
    from training.evaluation.vbench.environment import Environment, chosen
    from training.evaluation.vbench.run import Job, manifest
    from training.evaluation.vbench.scores import DIMENSIONS
    from training.evaluation.vbench.suite import SOURCE
    from training.output import require_writable

    dimensions = chosen(options.dimensions, options.custom)
    environment = Environment.of(options.python)
    suite = _suite(options, environment)
    no_suite = f"the set of prompts comes with the package. Till then download {SOURCE} and name it in --prompts."
    if options.manifest:
        if suite is None:
            raise ConfigError(f"There is no list to write: {no_suite}")
        count = manifest(options.manifest, suite, dimensions, options.seed)
        print(f"{count} videos to sample, in {options.manifest}: a line each with file, text and seed.")
        return
    if options.videos is None and not options.check:
        raise ConfigError("Name the folder of the videos in --videos, or with --manifest a list to write.")
    problems = environment.lacks(dimensions)
    if options.custom:
        suite = None
    elif suite is None:
        problems.append(f"Which videos are asked for cannot be told: {no_suite}")
    if options.videos is None:
        before = "" if options.custom else "sample those that --manifest lists, and "
        raise ConfigError(_told([*problems, f"There are no videos yet: {before}name their folder in --videos."]))
    job = Job(options.videos, options.output, dimensions, environment, suite, options.name, options.calls)
    if problems := [*problems, *job.lacks()]:
        raise ConfigError(_told(problems))
    if options.check:
        print(f"Nothing is missing for {len(dimensions)} dimensions on {environment.gpu}.")
        return
    require_writable(options.output, "--output")
    scores = job.run()
    text = (options.output / "summary.md").read_text(encoding="utf-8")
    print(f"{text}\nsummary.md and summary.json are in {options.output}.")
    if lacking := [name for name in DIMENSIONS if name not in scores]:
        why = "of videos of your own there is none" if options.custom else f"{', '.join(lacking)} have no score yet"
        print(f"No Total: {why}.")


def _told(problems: Sequence[str]) -> str:
    return "\n".join(["VBench cannot run yet:", *(f"* {problem}" for problem in problems)])


def _suite(options: argparse.Namespace, environment: Environment) -> Suite | None:
    """The set of prompts that was named, or the package's. Raises ConfigError where it is none."""
    from training.evaluation.vbench.suite import Suite

    path = options.prompts or environment.prompts
    return None if path is None else Suite(path, options.texts)


if __name__ == "__main__":
    main()
