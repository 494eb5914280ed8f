"""Measure experts on the Shapes world, or folders of finished videos against a reference folder.

python training/evaluate.py                                  the table of Shapes: the rows of training/shapes/rows.yaml
python training/evaluate.py --rows MY.yaml                   other experts; rows.yaml says how rows are written
python training/evaluate.py --videos FOLDER FOLDER --reference FOLDER      files of the same names are compared

The output folder then holds report.md, report.json, plot.png and contact_sheet.png, and with --html ab.html: one page
for blind votes between two rows, which needs no network. Rows that were rendered before are not rendered again.
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

from training.installed import cannot_import  # noqa: E402

if TYPE_CHECKING:
    from training.evaluation.report import Report


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, help="a YAML file of rows (training/shapes/rows.yaml)")
    parser.add_argument("--videos", type=Path, nargs="+", metavar="FOLDER", help="folders of finished videos instead")
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="with --videos: what they are compared with")
    parser.add_argument("--clips", type=int, default=288, help="of Shapes, one a caption (%(default)s)")
    parser.add_argument("--seed", type=int, default=2025, help="of the prompts and the noise (%(default)s)")
    parser.add_argument("--shown", type=int, default=8, help="clips on the sheet and the page (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/evaluation"), metavar="FOLDER")
    parser.add_argument("--html", action="store_true", help="write ab.html too")
    parser.add_argument("--ab", nargs=2, metavar="ROW", help="the two rows to vote on (the first and the last)")
    options = parser.parse_args(arguments)
    if bool(options.videos) != bool(options.reference):
        parser.error("--videos and --reference go together")
    if options.videos and options.rows:
        parser.error("--rows are of the Shapes world; with --videos, the folders are the rows")
    if min(options.clips, options.shown) < 1:
        parser.error("--clips and --shown are at least 1")
    try:
        from training.errors import ConfigError
        from training.evaluation.page import save_page
        from training.output import require_writable
    except ImportError as error:
        sys.exit(f"error: {cannot_import(error)}")
    try:
        require_writable(options.output, "--output")
        report = of_videos(options) if options.videos else of_shapes(options)
        report.save(options.output)
        if options.html:
            save_page(options.output / "ab.html", report, options.ab)
    except (ConfigError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command takes the rows that are rendered and goes on")
    print(f"\n{report.markdown()}\n\nThe report is in {options.output}.")


def of_shapes(options: argparse.Namespace) -> Report:
    """The rows of a file, on the Shapes world."""
    from training.evaluation.measures import MEASURES
    from training.evaluation.report import Report, command, record
    from training.evaluation.store import digest
    from training.shapes import compare
    from training.shapes.entrants import ROWS, read_entrants

    entrants = read_entrants(options.rows or ROWS)
    trial = compare.Trial.of(options.clips, options.seed)
    shown = min(options.shown, options.clips)
    rows = compare.compare(entrants, trial, shown, options.output / "rows")
    settings = {"clips": options.clips, "seed": options.seed, "config": digest([each.recipe for each in entrants])}
    measures = {**compare.MEASURES, **MEASURES}
    tables = [list(compare.MEASURES), list(MEASURES)]
    return Report(rows, measures, tables, trial.captions[:shown], record(command(), **settings))


def of_videos(options: argparse.Namespace) -> Report:
    """A row a folder of finished videos."""
    from training.evaluation.measures import MEASURES
    from training.evaluation.report import Report, command, record
    from training.evaluation.videos import compare_folders

    rows, captions = compare_folders(options.videos, options.reference, options.shown)
    return Report(rows, MEASURES, [list(MEASURES)], captions, record(command()))


if __name__ == "__main__":
    main()
