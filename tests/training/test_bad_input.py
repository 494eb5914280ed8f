"""What is wrong with what a command was given: one sentence, an exit that is no success, and an output as it was."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from harness.clips import moving, write_animation
from harness.fake_encoder import FakeEncoder

import training.registry
from training import analyze, distill, evaluate, paths, prepare
from training.config import to_yaml
from training.data.cache import read_index
from training.trainer import build_trainer

CLIPS = ["--backbone", "fake", "--frames", "5", "--resolution", "48x32", "--workers", "0"]
VIDEOS = {"data": {"name": "videos", "batch_size": 2, "text_dropout": 0.0}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of encoders that are nobody's, with two clips; ``videos`` beside it."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "videos").mkdir()
    for name in (b"one.webp", b"caf\xe9.webp"):
        path = folder / "videos" / os.fsdecode(name)
        write_animation(path, moving(9, 32, 48, seed=len(name)))
        path.with_suffix(".txt").write_text("a kite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.registry, "build_encoder", lambda *_: FakeEncoder())
        prepare.main(["--data", str(folder / "videos"), "--output", str(folder / "cache"), *CLIPS])
    return folder / "cache"


@pytest.fixture
def place(tmp_path, cache, trained, tiny, monkeypatch):
    """Where a command is tried: a copy of the cache, and configurations over the tiny teacher."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(cache.parent, tmp_path / "prepared")

    def config(stage, options=None, **settings):
        options = {"teacher": str(trained / "teacher" / "teacher.safetensors"), **(options or {})}
        options = {} if stage == "teacher" else options
        written = to_yaml(tiny(tmp_path / "output", stage, options, **settings).of_stage(""))
        (tmp_path / "config.yaml").write_text(written)
        return ["--config", str(tmp_path / "config.yaml")]

    return SimpleNamespace(
        folder=tmp_path,
        output=tmp_path / "output",
        cache=tmp_path / "prepared" / "cache",
        videos=tmp_path / "prepared" / "videos",
        trained=trained,
        config=config,
        tiny=tiny,
        monkeypatch=monkeypatch,
    )


def of_cache(place, options=None, **changes):
    """Training on the cache, whose index is changed so."""
    path = place.cache / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    data = {**VIDEOS["data"], "options": {"cache": str(place.cache), **(options or {})}}
    return place.config("teacher", data=data)


def of_two_shapes(place):
    write_animation(place.videos / "one.webp", moving(9, 48, 32))
    place.monkeypatch.setattr(training.registry, "build_encoder", lambda *_: FakeEncoder())
    prepare.main(["--data", str(place.videos), "--output", str(place.cache), *CLIPS])
    clips = json.loads((place.cache / "index.json").read_text())["clips"]
    return of_cache(place, clips=[clip | {"size": [5, 32, 48]} for clip in clips])


def with_other_channels(place):
    place.monkeypatch.setattr(training.registry, "_check_texts", lambda method: None)
    return of_cache(place, backbone="shapes")


def with_another_kappa(place):
    options = {"teacher": str(place.trained / "teacher" / "teacher.safetensors")}
    build_trainer(place.tiny(place.output, "semantic", options, iterations=1)).run()
    return place.config("semantic", schedule={"shift": 3.0, "points": 50, "kappa_index": 30})


def on_a_full_disk(place):
    place.monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    return place.config("teacher")


def on_a_full_gpu(place):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    place.monkeypatch.setattr("training.methods.teacher.Teacher.build", full)
    return place.config("teacher")


def by_five(place):
    place.monkeypatch.setenv("WORLD_SIZE", "5")
    return place.config("teacher")


def in_the_way(place, name="output"):
    (place.folder / name).write_text("a file in the way")
    place.monkeypatch.setattr("training.registry.build_backbone", lambda *_: pytest.fail("a network was built"))
    return place.config("semantic")


def unreadable_config(place):
    (place.folder / "config.yaml").write_bytes(b"output: caf\xe9\n")
    return ["--config", str(place.folder / "config.yaml")]


DISTILL = {
    "no configuration": (lambda place: ["--config", "nowhere.yaml"], "There is no configuration file nowhere.yaml"),
    "a configuration that is no text": (unreadable_config, "is not valid YAML"),
    "no weights": (
        lambda place: place.config("semantic", {"teacher": "gone.safetensors"}),
        "There is no teacher at .*gone.safetensors.* Set backbone.weights to its file",
    ),
    "no cache": (
        lambda place: place.config("teacher", data={**VIDEOS["data"], "options": {"cache": "gone"}}),
        r"There is no cache at .*gone\. Make one, with your own for words in capitals: python training/prepare.py ",
    ),
    "a cache for another backbone": (of_cache, "its clips were prepared for fake, and backbone.name is shapes"),
    "a cache of other encoders": (
        lambda place: of_cache(place, {"fingerprint": "mine"}),
        "was made with another autoencoder or other text encoders: its fingerprint is fake",
    ),
    "a cache of another text encoder": (
        lambda place: of_cache(place, backbone="shapes"),
        "its embedded texts are 6 wide, and this backbone takes texts of width 4096. Prepare",
    ),
    "a cache of another autoencoder": (
        with_other_channels,
        "its latents have 3 channels, and this backbone's have 16. Prepare the data with the autoencoder",
    ),
    "mixed shapes": (of_two_shapes, "Latents of one bucket are of several shapes"),
    "detail without semantic": (
        lambda place: place.config("detail", {"rank": 4}),
        "stages.detail has no semantic expert to build on: put a stage `semantic` before it",
    ),
    "another kappa than the checkpoint's": (with_another_kappa, "schedule.kappa_index was 29 and is 30 now"),
    "too little disk": (on_a_full_disk, "The checkpoints need .* GB, and only 1e-06 GB are free"),
    "too little memory": (on_a_full_gpu, "the GPU has too little memory: .* take compute.micro_batch=1"),
    "a world size that does not divide": (by_five, "data.batch_size=4 of stage teacher cannot be shared equally by 5"),
    "an output that takes no files": (in_the_way, r"Nothing can be written into .*output/semantic \(Not a directory\)"),
    "the hub out of reach": (
        lambda place: place.config("semantic", {"teacher": "some/model"}),
        "no file or folder some/model, .* By hand: download the folder transformer of https://huggingface.co/some",
    ),
}


@pytest.mark.parametrize("case", DISTILL)
def test_the_trainer_refuses_in_a_sentence(place, case):
    make, message = DISTILL[case]
    assert_refused(place, distill.main, make(place), message)


def spoilt(place):
    place.monkeypatch.setattr(training.registry, "build_encoder", lambda *_: FakeEncoder("other"))
    shutil.copytree(place.cache, place.output)
    return ["--data", str(place.videos)]


def with_few_bytes(place):
    place.monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    return ["--data", str(place.videos)]


def prepared_in_the_way(place):
    place.output.write_text("a file in the way")
    place.monkeypatch.setattr(training.registry, "build_encoder", lambda *_: pytest.fail("encoders were looked for"))
    return ["--data", str(place.videos)]


def with_prompts_that_are_no_text(place):
    (place.folder / "prompts.txt").write_bytes(b"caf\xe9\n")
    return ["--prompts", str(place.folder / "prompts.txt")]


def with_a_cut_caption(place):
    (place.videos / "list.csv").write_text("path,caption\none.webp,a kite, red\n")
    return ["--data", str(place.videos / "list.csv")]


PREPARE = {
    "no videos": (lambda place: ["--data", "gone"], "There is no folder or table at gone"),
    "prompts that are no text": (with_prompts_that_are_no_text, "cannot be read as UTF-8 text"),
    "a caption that a comma cuts": (with_a_cut_caption, "row 1: it has more cells than there are columns"),
    "a prompt without words": (
        lambda place: ["--data", str(place.videos), "--negative-prompt", "unspeakable"],
        "--negative-prompt: there is no word for it",
    ),
    "a cache of other encoders": (spoilt, "was made with another autoencoder or other encoders of texts and images"),
    "too little disk": (with_few_bytes, "The latents need up to .* GB, and only 0.00 GB are free"),
    "an output that takes no files": (prepared_in_the_way, r"Nothing can be written into .*output \(Not a directory\)"),
    "the hub out of reach": (
        lambda place: ["--data", str(place.videos), "--backbone", "wan", "--weights", "some/model"],
        "no file or folder some/model, .* By hand: download the folders vae, text_encoder, tokenizer of https://hugg",
    ),
}


@pytest.mark.parametrize("case", PREPARE)
def test_the_preparation_refuses_in_a_sentence(place, case):
    make, message = PREPARE[case]
    if "hub" not in case:
        place.monkeypatch.setattr(training.registry, "build_encoder", lambda *_: FakeEncoder())
    arguments = [*CLIPS, "--output", str(place.output), *make(place)]
    if "hub" in case:
        arguments = [each for each in arguments if each != "fake"]
        arguments.remove("--backbone")
    assert_refused(place, prepare.main, arguments, message)


def without_captions(place):
    for path in place.videos.glob("*.txt"):
        path.write_text(" \n")
    return ["--data", str(place.videos), "--output", str(place.output), *CLIPS]


def test_videos_whose_captions_are_empty_are_listed_and_give_no_clip(place, capsys):
    place.monkeypatch.setattr(training.registry, "build_encoder", lambda *_: FakeEncoder())
    with pytest.raises(SystemExit, match="No clip can be made of what is in .*, for the reasons above"):
        prepare.main(without_captions(place))
    assert "no caption: 2" in capsys.readouterr().out


def test_a_name_that_is_no_text_is_no_mistake(cache):
    assert {clip.source for clip in read_index(cache).clips} == {"one.webp", r"caf\udce9.webp"}


def without_prompts(place):
    return [*place.config("semantic", paths={"prompts": "gone.txt"}), "stage=semantic"]


def alone(place):
    return place.config("teacher")


PATHS = {
    "no prompts": (without_prompts, "There is no file of prompts at .*gone.txt.* Set paths.prompts to a text file"),
    "no teacher": (alone, "No stage has a teacher whose paths could be made: choose stage=NAME"),
    "an output that takes no files": (in_the_way, r"Nothing can be written into .*output/paths \(Not a directory\)"),
    "the hub out of reach": (DISTILL["the hub out of reach"][0], "By hand: download the folder transformer of"),
}


@pytest.mark.parametrize("case", PATHS)
def test_making_paths_is_refused_in_a_sentence(place, case):
    make, message = PATHS[case]
    assert_refused(place, paths.main, make(place), message)


def test_other_commands_ask_for_their_output_first_too(place):
    arguments = in_the_way(place)
    assert_refused(place, analyze.main, arguments, r"Nothing can be written into .*output/dynamics \(Not a directory\)")
    place.monkeypatch.setattr("training.evaluation.videos.compare_folders", lambda *_: pytest.fail("it compared"))
    folders = ["--videos", str(place.videos), "--reference", str(place.videos), "--output", str(place.output)]
    assert_refused(place, evaluate.main, folders, r"Nothing can be written into .*output \(Not a directory\)")


def assert_refused(place, main, arguments, message):
    """One sentence or a few for stderr, no traceback, and an output as it was before."""
    before = content(place.output)
    with pytest.raises(SystemExit, match=message) as stopped:
        main(arguments)
    said = stopped.value.code  # Python prints it to stderr, and the command's exit status is 1
    assert isinstance(said, str) and said.startswith("error: ") and "Traceback" not in said
    assert len(said.splitlines()) == 1 and len(said) < 700
    assert content(place.output) == before


def content(folder: Path):
    """What is there, but for the file by which a command holds a folder that was there before."""
    there = [path for path in (folder, *folder.rglob("*")) if path.exists() and path.name != ".lock"]
    return {path: path.is_file() and path.read_bytes() for path in there}
