"""Weights keep the settings they were trained with: a run that says otherwise never relabels them."""

import shutil
from pathlib import Path

import pytest
import torch

from dcm_core.expert.file import metadata_of
from dcm_core.files.format import read_header
from training.config import ConfigError
from training.run.record import CONTENT, check_unchanged, weights_digest
from training.trainer import build_trainer

KAPPA = {"schedule": {"shift": 3.0, "points": 50, "kappa_index": 30}}
SHIFT = {"schedule": {"shift": 5.0, "points": 50, "kappa_index": 29}}


def contents(folder: Path) -> dict[Path, bytes]:
    """Of checkpoints, exported file and configuration."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".yaml")}


@pytest.fixture(scope="module")
def finished(tiny, trained, tmp_path_factory):
    """The folder of a semantic stage of one iteration, which no refused run changes."""
    folder = tmp_path_factory.mktemp("finished")
    options = {"teacher": str(trained / "teacher" / "teacher.safetensors")}
    build_trainer(tiny(folder, "semantic", options, iterations=1)).run()
    return folder


@pytest.mark.parametrize(
    "options, settings, named",
    [
        ({"guidance": 5.0}, {}, "stages.semantic.options.guidance was 6.0 and is 5.0 now"),
        ({"huber_c": 0.1}, {}, "stages.semantic.options.huber_c was 0.001 and is 0.1 now"),
        ({"target_ema": 0.9}, {}, "stages.semantic.options.target_ema was not set and is 0.9 now"),
        ({}, {"seed": 3}, "seed was 0 and is 3 now"),
        ({}, {"ema_decay": 0.9}, "stages.semantic.ema_decay was not set and is 0.9 now"),
        ({}, {"optimizer": {"lr": 1e-4}}, "stages.semantic.optimizer.lr was 0.001 and is 0.0001 now"),
        ({}, {"data": {"batch_size": 2}}, "data.batch_size was 4 and is 2 now"),
        ({}, {"data": {"options": {"only": {"shape": ["circle"]}}}}, "data.options.only.shape was not set"),
        ({}, KAPPA, "schedule.kappa_index was 29 and is 30 now"),
        ({}, SHIFT, "schedule.shift was 3.0 and is 5.0 now"),
    ],
)
@pytest.mark.parametrize("iterations", [1, 2], ids=["finished", "partly finished"])
def test_a_change_that_matters_is_refused_by_name_and_no_file_is_relabelled(
    trainer, finished, options, settings, named, iterations
):
    before = contents(finished)
    assert before
    with pytest.raises(ConfigError) as refused:
        trainer("semantic", options, iterations=iterations, folder=finished, **settings).run()
    message = str(refused.value)
    assert named in message and "--restart stage=semantic" in message and "00000001" in message
    assert before == contents(finished)


def test_what_does_not_matter_may_change(trainer, trained, tmp_path):
    first = trainer("semantic", iterations=1)
    first.run()
    moved = tmp_path / "moved.safetensors"
    shutil.copyfile(trained / "teacher" / "teacher.safetensors", moved)
    others = {"export_dtype": "bfloat16", "log_every": 1, "checkpoint_every": 7}
    again = trainer("semantic", {"teacher": str(moved)}, iterations=1, **others)
    again.run()
    exported = read_header(again.folder / "semantic.safetensors")
    assert {info.dtype for info in exported.tensors.values()} == {"BF16"}


@pytest.mark.parametrize("content", ["7 clips (aa)", None])
def test_a_data_set_that_says_what_it_holds_may_have_moved(content):
    told = {"data.options.cache": "here"} | ({CONTENT: content} if content else {})
    moved = told | {"data.options.cache": "there"}
    if content:
        check_unchanged(told, moved, Path("00000001"), "semantic")
        moved[CONTENT] = "7 clips (bb)"
    with pytest.raises(ConfigError, match="aa.* and is 7 clips .bb. now" if content else "cache was here and is there"):
        check_unchanged(told, moved, Path("00000001"), "semantic")


def test_a_former_trainer_said_less_of_a_data_set():
    kept = {CONTENT: "7 clips (aa)"}
    check_unchanged(kept, {CONTENT: "7 clips (aa), files bb"}, Path("00000001"), "semantic")
    moved = {CONTENT: "7 clips (aa), files bb", "data.options.folder": "there"}
    with pytest.raises(ConfigError, match="data.options.folder was here and is there now"):
        check_unchanged(kept | {"data.options.folder": "here"}, moved, Path("00000001"), "semantic")


def test_a_run_that_took_more_paths_than_asked_for_goes_on_when_it_asks_for_them():
    kept = {CONTENT: "2048 paths (aa)", "paths.count": 1024}
    with pytest.raises(ConfigError, match="the data set was 2048 paths"):
        check_unchanged(kept, kept | {CONTENT: "1024 paths (aa)"}, Path("00000001"), "semantic")
    check_unchanged(kept, kept | {"paths.count": 2048}, Path("00000001"), "semantic")


def test_more_iterations_go_on_and_the_file_says_how_many_there_were(trainer, capsys):
    trainer("semantic", iterations=1).run()
    longer = trainer("semantic", iterations=3)
    longer.run()
    assert "continued from iteration 1" in capsys.readouterr().out
    assert ", 3 iterations of 4," in metadata_of(longer.folder / "semantic.safetensors").trained_with


def test_a_longer_cosine_is_told(trainer, caplog):
    cosine = {"optimizer": {"lr": 1e-3, "schedule": "cosine"}}
    trainer("semantic", iterations=1, **cosine).run()
    trainer("semantic", iterations=1, **cosine).run()
    assert "cosine spanned" not in caplog.text
    trainer("semantic", iterations=2, **cosine).run()
    assert "cosine spanned 1 iterations so far, from here on it is that over 2" in caplog.text


def test_fewer_iterations_than_there_were_are_refused(trainer):
    trainer("semantic", iterations=2).run()
    with pytest.raises(ConfigError, match="iterations is 1, and the weights in .* have 2 behind them"):
        trainer("semantic", iterations=1).run()


def test_a_finished_run_says_so_and_trains_nothing(trainer, capsys, monkeypatch):
    trainer("semantic", iterations=1).run()
    capsys.readouterr()
    monkeypatch.setattr("training.methods.base.Method.step", lambda *_: pytest.fail("it trained"))
    trainer("semantic", iterations=1).run()
    assert "Finished already, nothing is trained" in capsys.readouterr().out


def test_a_semantic_expert_that_was_trained_longer_since_is_noticed_by_the_detail_stage(trainer, tmp_path):
    folder = tmp_path / "run"
    semantic = {"semantic": str(folder / "semantic" / "semantic.safetensors")}
    trainer("semantic", iterations=1, folder=folder).run()
    trainer("detail", semantic, iterations=1, folder=folder).run()
    trainer("detail", semantic, iterations=2, folder=folder).run()
    trainer("semantic", iterations=2, folder=folder).run()
    with pytest.raises(ConfigError, match=r"stages.detail.options.semantic.weights was \w+ and is \w+ now"):
        trainer("detail", semantic, iterations=2, folder=folder).run()


def test_a_restart_trains_the_stage_anew(trainer):
    first = trainer("semantic", iterations=2, log_every=1)
    first.run()
    anew = trainer("semantic", {"guidance": 5.0}, iterations=1, log_every=1)
    anew.run(restart=True)
    metadata = metadata_of(anew.folder / "semantic.safetensors")
    assert metadata.guidance == 5.0 and ", 1 iterations of 4," in metadata.trained_with
    assert len((anew.folder / "log.jsonl").read_text().splitlines()) == 1


def test_the_digest_of_weights_sees_one_step_of_training(trainer):
    method = trainer("semantic").method
    before = weights_digest(method.student.network.transformer.state_dict())
    assert before == weights_digest(method.teacher.network.transformer.state_dict())
    method.step(0)
    assert weights_digest(method.student.network.transformer.state_dict()) != before
    assert weights_digest({"a": torch.zeros(1)}) != weights_digest({"b": torch.zeros(1)})
