"""Train and measure every row of an ablation, and write its table.

python training/ablate.py --config training/configs/ablation_shapes.yaml [--at-once 2] [--hours 10] [--only TEXT]

Each row is a process of its own: distill.py with the row's settings, and then the measurement. The same command goes
on where it was stopped, a row in mid-training from its checkpoint. The table, OUTPUT/table.md, is written after every
row and says of each that did not run why; results.json beside it has the raw results.

Rows may be run on several machines, by --only or --row: copy their folders into one OUTPUT, where each needs no more
than its result.json, and --hours 0 writes the table of all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
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
    from training.shapes.ablation import Ablation, Job

POLL = 0.5  # seconds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="a file of rows")
    parser.add_argument("--at-once", type=int, default=1, help="rows that run side by side (%(default)s)")
    parser.add_argument(
        "--hours",
        type=float,
        default=float("inf"),
        help="after which no further row is begun; 0 writes the table alone",
    )
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--row", nargs=2, metavar=("NAME", "SEED"), help="this one alone, in this process")
    options = parser.parse_args(arguments)
    try:
        from training.shapes.ablation import find, jobs, load_ablation
        from training.shapes.ablation_table import write_table

        ablation = load_ablation(options.config)
        if options.row:
            run_row(find(ablation, options.row[0], int(options.row[1])))
            return
        wanted = [job for job in jobs(ablation) if options.only in job.row.name and not job.row.not_run]
        write_table(ablation)
        if options.hours > 0:
            run_all(ablation, [job for job in wanted if job.result() is None], options)
        table = write_table(ablation)
        print(f"{table.read_text(encoding='utf-8')}\nIn {table}.")
    except ImportError as error:
        sys.exit(f"error: {cannot_import(error)}")
    except (ConfigError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")


def run_row(job: Job) -> None:
    """Train a row as far as it is not trained yet, and measure it. Raises ConfigError."""
    from training.shapes.ablated import measure, train

    if job.row.stages:
        train(job)
    job.write_result(measure(job))


def run_all(ablation: Ablation, pending: list[Job], options: argparse.Namespace) -> None:
    """Run rows in their order, so many side by side, each once those that it builds on are done."""
    from training.shapes.ablation_table import write_table

    until = time.monotonic() + 3600 * options.hours
    running: dict[subprocess.Popen, Job] = {}
    make_paths(pending, options)
    try:
        while pending or running:
            if time.monotonic() > until:
                pending = []
            ready = [job for job in pending if job.source not in [*pending, *running.values()]]
            for job in ready[: options.at_once - len(running)]:
                pending.remove(job)
                running[begin(job, options)] = job
            for process in [each for each in running if each.poll() is not None]:
                ended = running.pop(process)
                told = "done" if ended.result() else f"did not run: {ended.why_not()}"
                print(f"{ended.row.name}, seed {ended.seed}: {told}", flush=True)
                write_table(ablation)
            time.sleep(POLL)
    finally:
        for process in running:
            process.terminate()  # a training saves and leaves
        for process in running:
            process.wait()


def make_paths(pending: list[Job], options: argparse.Namespace) -> None:
    """Make the teacher's paths that rows learn from, the same for all seeds. Raises ConfigError."""
    needing = next((job for job in pending if job.row.paths), None)
    if needing is None:
        return
    script, config = Path(__file__).with_name("paths.py"), needing.write_config()
    command = [sys.executable, str(script), "--config", str(config), "seed=0"]
    parts = [[*command, "--part", f"{part + 1}/{options.at_once}"] for part in range(options.at_once)]
    processes = [subprocess.Popen(part, env=_environment(options.at_once)) for part in parts]
    if any([process.wait() for process in processes]):
        raise ConfigError("The teacher's paths could not be made; the reason stands above.")


def begin(job: Job, options: argparse.Namespace) -> subprocess.Popen:
    """A process that runs a row, and writes what it says into the row's log."""
    from training.shapes.ablation import LOG

    job.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__)), "--config", str(options.config)]
    with (job.folder / LOG).open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            [*command, "--row", job.row.name, str(job.seed)],
            stdout=log, stderr=subprocess.STDOUT, env=_environment(options.at_once),
        )  # fmt: skip


def _environment(at_once: int) -> dict[str, str]:
    """Processes that share the cores are faster where none of them takes more threads than its share."""
    threads = max(1, (os.cpu_count() or 1) // at_once)
    return {"OMP_NUM_THREADS": str(threads), **os.environ}


if __name__ == "__main__":
    main()
