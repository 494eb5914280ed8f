"""What is missing is named, dimensions are judged once each, and a summary is made of them. A Python that stands in for
that of VBench's environment answers as it does."""

import json
import sys
from types import SimpleNamespace

import pytest

from training import vbench
from training.evaluation.vbench.scores import CUSTOM, DIMENSIONS, QUALITY, SEMANTIC
from training.evaluation.vbench.suite import Suite

PROMPTS = [
    {"prompt_en": "a dog", "dimension": ["subject_consistency", "motion_smoothness"]},
    {"prompt_en": "a still street", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a dog", "dimension": ["dynamic_degree"]},
]
STAND_IN = """#!{python}
import json, pathlib, sys
code, arguments = sys.argv[2], sys.argv[3:]
if "find_spec" in code:
    print(json.dumps(dict(vbench=True, detectron2={detectron2}, torch=True, package={package!r}, gpu={gpu!r})))
elif "static_filter" in arguments:
    still = pathlib.Path(arguments[4]) / "filtered_videos"
    still.mkdir(parents=True, exist_ok=True)
    for number in range({still}):
        (still / f"a still street-{{number}}.mp4").touch()
else:
    videos, prompts, output, dimension, mode = arguments
    with open({log!r}, "a") as file:
        print(dimension, mode, pathlib.Path(videos).name, file=file)
    if dimension == {fails!r}:
        sys.exit(3)
    scores = json.loads({scores!r})
    result = json.dumps({{dimension: [scores[dimension], []]}})
    pathlib.Path(output, dimension + "_eval_results.json").write_text(result)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes such a Python: ``stand_in(gpu=..., fails=...)``. Its log has a line for each dimension."""
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "networks"))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=20e9))

    def made(gpu="a GPU", fails="", detectron2=True, still=5):
        python = tmp_path / "env" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        package = tmp_path / "vbench"
        package.mkdir(exist_ok=True)
        (package / "VBench_full_info.json").write_text(json.dumps(PROMPTS))
        scores = {name: each.high for name, each in (QUALITY | SEMANTIC).items()}
        python.write_text(
            STAND_IN.format(
                python=sys.executable, detectron2=detectron2, package=str(package), gpu=gpu, fails=fails, still=still,
                log=str(tmp_path / "log"), scores=json.dumps(scores),
            )
        )  # fmt: skip
        python.chmod(0o755)
        return python

    return made


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for prompt, count in (("a dog", 5), ("a still street", 25)):
        for number in range(count):
            (folder / f"{prompt}-{number}.mp4").touch()
    return folder


def command(python, videos, tmp_path, *more):
    vbench.main(["--python", str(python), "--videos", str(videos), "--output", str(tmp_path / "out"), *more])


def test_the_set_asks_for_five_videos_a_prompt_and_more_where_some_are_filtered(tmp_path):
    path, texts = tmp_path / "set.json", tmp_path / "texts.txt"
    path.write_text(json.dumps(PROMPTS))
    texts.write_text("A brown dog runs.\nA street at noon.\nunused\n")
    asked = list(Suite(path, texts).asked(DIMENSIONS))
    assert [each.stem for each in asked[:5]] == [f"a dog-{n}" for n in range(5)] and len(asked) == 30
    assert asked[0].text == "A brown dog runs." and asked[0].dimensions[-1] == "dynamic_degree"
    assert len({each.seed(0) for each in asked}) == 30 and asked[0].seed(0) != asked[0].seed(1)
    assert len(list(Suite(path).asked(["motion_smoothness"]))) == 5


def test_a_manifest_needs_no_package(tmp_path, capsys):
    prompts, out = tmp_path / "set.json", tmp_path / "videos.jsonl"
    prompts.write_text(json.dumps(PROMPTS))
    vbench.main(["--manifest", str(out), "--prompts", str(prompts), "--python", str(tmp_path / "none")])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 30 and lines[0]["file"] == "a dog-0.mp4" and lines[0]["text"] == "a dog"
    assert capsys.readouterr().out.startswith("30 videos to sample")


def test_without_an_environment_the_commands_that_make_it_are_told(tmp_path, videos):
    with pytest.raises(SystemExit) as told:
        command(tmp_path / "env" / "bin" / "python", videos, tmp_path, "--custom", "--check")
    text = str(told.value)
    assert f"python3.10 -m venv {tmp_path / 'env'}" in text and "-m pip install vbench==" in text
    assert "detectron2" not in text, "none of the six dimensions needs it"
    assert not (tmp_path / "env").exists(), "nothing is installed"


def test_a_check_of_nothing_tells_all_that_is_needed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "networks"))
    check = ["--check", "--python", str(tmp_path / "env" / "bin" / "python")]
    with pytest.raises(SystemExit) as told:
        vbench.main(check)
    text = str(told.value)
    assert text.startswith("error: VBench cannot run yet:\n* There is no Python at ")
    assert "detectron2.git   # for object_class" in text and "install wget, unzip." in text
    assert "comes with the package. Till then download https://" in text
    assert text.endswith("sample those that --manifest lists, and name their folder in --videos.")
    with pytest.raises(SystemExit) as told:
        vbench.main([*check, "--videos", str(tmp_path / "none")])
    assert str(told.value).endswith(f"There is no folder of videos at {tmp_path / 'none'}.")
    with pytest.raises(SystemExit, match="There is no list to write: the set of prompts comes with the package"):
        vbench.main(["--manifest", str(tmp_path / "list.jsonl"), *check[1:]])


def test_all_that_is_missing_is_named_before_anything_runs(tmp_path, videos, stand_in, monkeypatch):
    (videos / "a dog-3.mp4").unlink()
    python = stand_in(gpu="", detectron2=False)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1e9))
    monkeypatch.setattr("shutil.which", lambda name: None if name == "unzip" else name)
    with pytest.raises(SystemExit) as told:
        command(python, videos, tmp_path)
    text = str(told.value)
    assert "with wget and unzip: install unzip." in text
    assert "missing in" in text and ": 1, such as" in text and "a dog-3.mp4" in text and "finds no GPU" in text
    assert "detectron2 is missing" in text and "1.0 GB free" in text
    assert not (tmp_path / "log").exists()


def test_dimensions_are_judged_once_each_and_summed_when_all_are_there(tmp_path, videos, stand_in, capsys):
    with pytest.raises(SystemExit, match="scene: VBench ended with 3"):
        command(stand_in(fails="scene"), videos, tmp_path)
    before = (tmp_path / "log").read_text().splitlines()
    command(stand_in(), videos, tmp_path, "--name", "mine", "--calls", "4")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in before] == list(DIMENSIONS[: DIMENSIONS.index("scene") + 1])
    assert [line.split()[0] for line in lines[len(before) :]] == list(DIMENSIONS[DIMENSIONS.index("scene") :])
    assert "temporal_flickering vbench_standard filtered_videos" in lines
    assert "| mine | 4 | 100.00 | 100.00 | 100.00 |" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["row"]["total"] == pytest.approx(100)
    assert len(summary["sha256"]) == 64 and len(summary["scores"]) == 16


def test_videos_that_were_made_anew_are_judged_anew(tmp_path, videos, stand_in):
    python, still = stand_in(still=5), tmp_path / "out" / "still" / "filtered_videos"
    command(python, videos, tmp_path)
    before = (tmp_path / "log").read_text().splitlines()
    (videos / "a still street-7.mp4").touch()
    command(stand_in(still=2), videos, tmp_path)
    judged = (tmp_path / "log").read_text().splitlines()[len(before) :]
    assert [line.split()[0] for line in judged] == ["temporal_flickering"]
    assert len(list(still.iterdir())) == 2, "those that were still before are gone"


def test_what_vbench_would_stumble_over_is_named(tmp_path, videos, stand_in):
    (videos / "votes.json").touch()
    with pytest.raises(SystemExit, match="holds more than videos in .mp4, such as votes.json, .* move the rest out"):
        command(stand_in(), videos, tmp_path, "--check")
    (videos / "votes.json").unlink()
    for video in videos.iterdir():
        video.rename(video.with_suffix(".gif"))
    with pytest.raises(SystemExit, match="temporal_flickering: VBench's filter of still videos reads .mp4 alone"):
        command(stand_in(), videos, tmp_path, "--check")
    command(stand_in(), videos, tmp_path, "--check", "--dimensions", "subject_consistency")


def test_flickering_has_no_score_where_all_videos_move(tmp_path, videos, stand_in):
    with pytest.raises(SystemExit, match="temporal_flickering: VBench's filter found no still video"):
        command(stand_in(still=0), videos, tmp_path, "--dimensions", "temporal_flickering")
    assert not (tmp_path / "log").exists()


def test_networks_that_are_there_need_no_room(tmp_path, videos, stand_in, monkeypatch):
    python = stand_in()
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "one.pth").touch()
    monkeypatch.setattr("training.evaluation.vbench.environment._NETWORKS", 0.0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1e9))
    monkeypatch.setattr("shutil.which", lambda name: None)
    command(python, videos, tmp_path, "--check", "--custom")


def test_videos_of_ones_own_have_six_dimensions_and_no_total(tmp_path, videos, stand_in, capsys):
    command(stand_in(), videos, tmp_path, "--custom")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [f"{name} custom_input videos" for name in CUSTOM]
    assert "No Total" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["row"] is None
    with pytest.raises(SystemExit, match="scene is unknown for videos of your own"):
        command(stand_in(), videos, tmp_path, "--custom", "--dimensions", "scene")


def test_scores_of_other_videos_are_not_mixed_in(tmp_path, videos, stand_in):
    command(stand_in(), videos, tmp_path, "--custom", "--dimensions", "motion_smoothness")
    with pytest.raises(SystemExit, match="has scores of another set"):
        command(stand_in(), videos, tmp_path, "--dimensions", "motion_smoothness")
