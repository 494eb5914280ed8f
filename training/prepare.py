"""Make a cache of latents and text embeddings from videos and images, for data.name=videos of the trainer.

python training/prepare.py --data FOLDER|TABLE --backbone shapes --output CACHE

FOLDER holds videos, animations and images, each with its caption beside it (clip.mp4, clip.txt), or is described by a
metadata.csv, .jsonl or .parquet in it. TABLE is such a file: columns path (or file_name) and caption (or text).
Without --data it is a cache of --prompts alone, for data.source=teacher. With --image-to-video the first frame of each
clip is embedded too, and --prompts is such a TABLE, or FOLDER, of images: the first frame of each prompt.

The same command goes on where it was stopped, and after files were added encodes only those. CACHE then holds shards/,
index.json, summary.txt, summary.json and contact_sheet.jpg. Files that cannot be used are counted and listed there.
"""

from __future__ import annotations

import argparse
import os
import re
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
    from training.data.buckets import SizeRule
    from training.preparation.manifest import Entry
    from training.preparation.scan import ClipRules


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        from torch import OutOfMemoryError

        from training.errors import ConfigError
        from training.output import require_writable
        from training.preparation.run import Settings, prepare
        from training.registry import build_encoder
        from training.run.world import usable_device
    except ImportError as error:
        sys.exit(f"error: {cannot_import(error)}")
    try:
        prompts, pictures = prompts_of(options)
        device = usable_device(options.device)
        require_writable(options.output, "--output")
        encoder = build_encoder(options.backbone, options.weights, device, options.image_to_video)
        settings = Settings(
            data=options.data,
            output=options.output,
            backbone=options.backbone,
            rules=clip_rules(options, encoder.size_rule),
            caption=options.caption,
            negative=options.negative_prompt,
            prompts=prompts,
            pictures=pictures,
            black=not options.keep_black,
            static=not options.keep_static,
            workers=options.workers,
            shard_bytes=options.shard_mb << 20,
            dry_run=options.dry_run,
        )
        summary = prepare(settings, encoder)
        print(summary.text())
        if options.data and not summary.clips:
            raise ConfigError(
                f"No clip can be made of what is in {options.data}, for the reasons above. --frames makes shorter "
                "clips, --resolution others in size and shape, --max-crop lets more be cut away, and without "
                "--data it is a cache of --prompts alone."
            )
        done = "Nothing was encoded" if options.dry_run else "The cache is there"
        shown = f"contact_sheet.jpg in {options.output} shows what the clips look like."
        print(f"{done}; {shown}" if options.data else f"{done}.")
    except ImportError as error:
        sys.exit(f"error: {cannot_import(error)}")
    except OutOfMemoryError:
        sys.exit("error: the GPU's memory is full; make smaller clips (--resolution, --frames), or use --device cpu")
    except (ConfigError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except RuntimeError as error:  # of the DataLoader, wherever the news reaches this process
        if "DataLoader worker" not in str(error):
            raise
        sys.exit(
            "error: a process that decodes was ended by the system, which may lack memory, or by a broken file. What "
            "was encoded is kept: run the same command with fewer --workers."
        )
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where it stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help="a folder, or a table (.csv, .jsonl, .parquet); none for prompts alone")
    add("--backbone", required=True, help="whose autoencoder and text encoders: a file in training/encoders")
    add("--output", required=True, type=Path, help="the folder of the cache")
    add("--image-to-video", action="store_true", help="for a backbone that makes videos of a first frame")
    add("--weights", help="folder or hub name of these encoders, in the layout of diffusers")
    add("--device", default="auto", help="where they run: auto, cpu, cuda, cuda:1")
    add("--dry-run", action="store_true", help="look at everything, decode, filter and sum up, but encode nothing")
    text = parser.add_argument_group("captions").add_argument
    text("--caption", default="", help="of files that have none; without it they are left out")
    text("--negative-prompt", default="", help="embedded too, for training with it as the unconditional text")
    text("--prompts", type=Path, help="a text file, one a line: embedded too, for validation while training; with "
         "--image-to-video a table or folder of images and their prompts")  # fmt: skip
    clip = parser.add_argument_group("clips").add_argument
    clip("--resolution", type=_resolution, metavar="WxH", help="the area of a clip (what the backbone was trained at)")
    clip("--frames", type=_positive, nargs="+", help="lengths of clips; 1 is images (the usual length, and 1)")
    clip("--tokens", type=_positive, help="the most a clip may have: longer ones are made smaller (the largest clip's)")
    clip("--fps", type=_positive_number, help="frames a second of the clips (what the backbone was trained at)")
    clip("--clips", default="head", choices=["head", "chunk", "slide", "uniform"], help="of a long video: one at its "
         "start, one after the other, overlapping, or a few evenly spread")  # fmt: skip
    clip("--stride", type=_positive, help="frames from one to the next of --clips slide (half a clip)")
    clip("--count", type=_positive, default=4, help="of --clips uniform (4)")
    clip("--crop", default="cover", choices=["cover", "centre"], help="scale until it covers the clip and cut what "
         "stands over, or take the middle unscaled")  # fmt: skip
    left = parser.add_argument_group("what is left out").add_argument
    left("--max-crop", type=_share, default=0.4, help="share of a picture that may be cut away (0.4)")
    left("--max-enlarge", type=_positive_number, default=2.0, help="factor by which it may be enlarged (2)")
    left("--keep-black", action="store_true", help="clips that are nearly all black")
    left("--keep-static", action="store_true", help="clips in which nothing moves")
    run = parser.add_argument_group("running").add_argument
    run("--workers", type=_whole, default=_cores(), help="processes that decode; 0 is this one")
    run("--shard-mb", type=_positive, default=256, help="size of a shard, and what a kill can lose (256)")
    return parser


def clip_rules(options: argparse.Namespace, rule: SizeRule) -> ClipRules:
    """Which clips the options ask for. Raises ConfigError for sizes that the backbone does not take."""
    from training.data.buckets import Size, buckets
    from training.errors import ConfigError
    from training.preparation.scan import ClipRules

    usual = rule.usual
    width, height = options.resolution or (usual.width, usual.height)
    single = rule.frames(1) == 1 and not options.image_to_video  # a video of one frame is its first frame
    frames = options.frames or [usual.frames, *([1] if single else [])]
    wanted = [Size(count, height, width) for count in frames]
    for size in wanted:
        if rule.allows(size):
            continue
        if rule.only:
            raise ConfigError(f"{options.backbone} takes clips of {usual} alone: leave --frames and --resolution out.")
        if rule.frames(size.frames) != size.frames:
            near = " or ".join(str(n) for n in (rule.frames(size.frames), _next(rule, size.frames)) if n)
            raise ConfigError(f"{options.backbone} takes no clips of {size.frames} frames: use {near}.")
        raise ConfigError(f"--resolution {width}x{height}: {options.backbone} takes multiples of {rule.multiple}.")
    most = options.tokens or max(rule.tokens(size) for size in wanted)
    sizes = buckets(rule, frames, height, width, most)
    if not sizes:
        raise ConfigError(f"--tokens {most} is less than the smallest clip has.")
    return ClipRules(
        sizes=sizes,
        fps=options.fps or rule.fps,
        mode=options.clips,
        stride=options.stride,
        count=options.count,
        crop=options.crop,
        max_crop=options.max_crop,
        max_enlarge=options.max_enlarge,
    )


def _next(rule: SizeRule, frames: int) -> int:
    """The next larger number of frames that the backbone takes."""
    return next(n for n in range(frames, frames + 2 * rule.stride * rule.group + 1) if rule.frames(n) == n)


def prompts_of(options: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Entry, ...]]:
    """The lines of --prompts, or for image to video its pictures with their captions. Raises ConfigError."""
    from training.errors import ConfigError
    from training.preparation.manifest import TABLES, read_collection

    path: Path | None = options.prompts
    if path is None:
        return (), ()
    pictures = path.is_dir() or path.suffix.lower() in TABLES
    if options.image_to_video and not pictures:
        raise ConfigError(
            f"--prompts {path}: image to video needs a first frame for each prompt. Name a table ({', '.join(TABLES)}) "
            "with the columns path and caption, or a folder of images with their captions beside."
        )
    if pictures and not options.image_to_video:
        raise ConfigError(
            f"--prompts {path} is for prompts with first frames: add --image-to-video, or name a text file, one a line."
        )
    if not pictures:
        return _lines(path), ()
    entries, dropped = read_collection(path)
    if dropped:
        raise ConfigError(f"--prompts {path}: {dropped[0].source} cannot be used, {dropped[0].detail}.")
    return (), tuple(entries)


def _lines(path: Path) -> tuple[str, ...]:
    """The lines of a text file. Raises ConfigError where it is none."""
    from training.errors import ConfigError

    try:
        return tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {path} cannot be read as UTF-8 text: {error}") from None


def _cores() -> int:
    """That this process may use, and no more than one disk can feed."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, mine)


def _resolution(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"([1-9]\d*)[x*]([1-9]\d*)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 832x480")
    return int(found[1]), int(found[2])


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _positive(text: str) -> int:
    if not _whole(text):
        raise argparse.ArgumentTypeError("it must be at least 1")
    return int(text)


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value


if __name__ == "__main__":
    main()
