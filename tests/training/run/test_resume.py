"""A run that was interrupted ends with the very bits of a run that was not."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from harness.kills import SHARD, assert_bit_equal

from training import distill
from training.config import ConfigError, to_yaml
from training.registry import check_below
from training.run.checkpoint import Checkpoints
from training.run.world import World


def iterations(run) -> list[int]:
    """Of the checkpoints there are, the newest first."""
    return [int(path.name) for path in run.checkpoints.all()]


def contents(run) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.checkpoints.folder.rglob("*") if path.is_file()}


AVERAGED = {"target_ema": 0.9}
SETTINGS = {
    "teacher": ({}, {"ema_decay": 0.9, "optimizer": {"name": "muon", "lr": 1e-3, "schedule": "cosine"}}),
    "semantic": (AVERAGED, {"ema_decay": 0.9}),
    "detail": (AVERAGED | {"real": "data"}, {}),
}


@pytest.mark.parametrize(
    "stage, mode", [*((stage, {}) for stage in SETTINGS), *((s, {"mode": "adapter"}) for s in ("semantic", "detail"))]
)
def test_a_resumed_run_is_bit_equal(trainer, tmp_path, stage, mode):
    options, settings = SETTINGS[stage]
    options = options | mode
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    trainer(stage, options, iterations=4, folder=whole, **settings).run()
    first = trainer(stage, options, iterations=4, folder=halves, checkpoint_every=2, **settings)

    class Killed(Exception): ...

    step = first.method.step

    def killed_in_the_fourth(iteration):
        if iteration == 3:
            raise Killed  # one iteration after the checkpoint: that one has to be repeated
        return step(iteration)

    first.method.step = killed_in_the_fourth
    with pytest.raises(Killed):
        first.run()
    second = trainer(stage, options, iterations=4, folder=halves, checkpoint_every=2, **settings)
    second.run()
    assert_bit_equal(whole, halves, stage)


def test_that_comparison_notices_one_iteration_more(trainer, tmp_path):
    for iterations in (1, 2):
        trainer("teacher", iterations=iterations, folder=tmp_path / str(iterations)).run()
    with pytest.raises(AssertionError):
        assert_bit_equal(tmp_path / "1", tmp_path / "2", "teacher")


def test_disk_full_while_saving_keeps_the_former_checkpoints(trainer, monkeypatch):
    run = trainer("teacher", iterations=2, checkpoint_every=1)
    run.run()
    before = contents(run)
    run.method.step(2)
    run.iteration = 3

    def full(tensors, storage_writer, **_):
        (Path(storage_writer.path) / SHARD).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.run.checkpoint.dcp.save", full)
    with pytest.raises(OSError, match="disk is full.*former checkpoints are unchanged"):
        run.save()
    assert contents(run) == before


def test_an_output_that_takes_no_files_is_named_by_the_command(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "config.yaml").write_text(to_yaml(tiny(tmp_path / "file" / "run", "teacher").of_stage("")))
    with pytest.raises(SystemExit, match=r"error: Nothing can be written into .* \(Not a directory\): choose"):
        distill.main(["--config", str(tmp_path / "config.yaml")])


def test_too_little_disk_is_said_before_the_first_iteration(trainer, monkeypatch):
    settings = {"iterations": 3, "checkpoint_every": 1, "checkpoints_kept": 1}
    run = trainer("teacher", **settings)
    size = sum(4 * tensor.numel() for tensor in run.method.tensors().values())
    free = SimpleNamespace(free=2 * size - 1)  # the one that is kept, and the next one before it goes
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    run.method.step = lambda _: pytest.fail("it trained before it noticed")
    with pytest.raises(OSError, match="The checkpoints need .* GB, and only .* GB are free at .*: free some space"):
        run.run()
    assert not run.folder.exists()
    free.free += 1
    trainer("teacher", **settings).run()
    assert iterations(run) == [3]
    free.free = 0
    trainer("teacher", **settings).run()  # finished already: nothing is written


def test_a_checkpoint_is_safetensors_and_json_and_keeps_every_value(tmp_path):
    checkpoints = Checkpoints(tmp_path, World(torch.device("cpu")))
    values = {"iteration": 3, "sums": {"loss": 0.1 + 0.2}, "none": None, "list": [1, "two"]}
    tensors = {"half": torch.rand(2, 3).bfloat16(), "a/b.c": torch.rand(1, 4, 5), "nothing": torch.zeros(0)}
    checkpoints.save(3, values, tensors)
    (path,) = checkpoints.all()
    assert {file.name for file in path.iterdir()} == {SHARD, "state.json", "digests.json"}
    assert checkpoints.newest() == (path, values)
    restored = {name: torch.ones_like(tensor) for name, tensor in tensors.items()}
    checkpoints.read(path, restored)
    assert all(torch.equal(restored[name], tensor) for name, tensor in tensors.items())


def test_the_last_few_checkpoints_are_kept(trainer):
    run = trainer("teacher", iterations=5, checkpoint_every=1, checkpoints_kept=3)
    run.run()
    assert iterations(run) == [5, 4, 3]


def test_minutes_bring_a_checkpoint_too(trainer, monkeypatch):
    minutes = iter(range(100))
    monkeypatch.setattr("training.trainer.time.monotonic", lambda: 60.0 * next(minutes))
    run = trainer("teacher", iterations=4, checkpoint_minutes=1.5, checkpoints_kept=9)
    run.run()
    assert iterations(run) == [4, 2]


def test_a_damaged_checkpoint_is_named(trainer):
    run = trainer("teacher")
    run.run()
    (path,) = run.checkpoints.all()
    (path / SHARD).write_bytes((path / SHARD).read_bytes()[:-100])
    before = contents(run)
    with pytest.raises(OSError, match="Could not read the checkpoint .*00000002: .*none before it"):
        trainer("teacher").run()
    assert contents(run) == before


@pytest.mark.parametrize("asked", ["open", "dcp.load"])
@pytest.mark.parametrize(
    "error",
    [MemoryError(), PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error")],
    ids=["memory", "permission", "disk"],
)
def test_a_checkpoint_that_cannot_be_read_just_now_is_not_taken_for_damaged(trainer, monkeypatch, caplog, asked, error):
    run = trainer("teacher", iterations=2, checkpoint_every=1)
    run.run()
    before = contents(run)

    def refused(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(f"training.run.checkpoint.{asked}", refused, raising=False)
        with pytest.raises(OSError, match="Could not read the checkpoint .*00000002 just now") as told:
            trainer("teacher", iterations=3).run()
        assert (str(error) or "MemoryError") in str(told.value)
    assert "Going on from" not in caplog.text
    assert contents(run) == before


@pytest.mark.parametrize("version", ["4", "6"])
def test_a_checkpoint_of_another_version_is_refused(trainer, version):
    run = trainer("teacher")
    if version == "4":  # a single file
        run.folder.mkdir()
        (run.folder / "checkpoint.safetensors").write_bytes(b"whatever it holds")
    else:
        run.run()
        digests = run.checkpoints.all()[0] / "digests.json"
        digests.write_text(json.dumps(json.loads(digests.read_text()) | {"version": version}))
    with pytest.raises(ConfigError, match=f"of version {version}.*, this trainer reads version 5. Finish the stage"):
        trainer("teacher").run()
    trainer("teacher").run(restart=True)
    assert iterations(run) == [2] and not (run.folder / "checkpoint.safetensors").exists()


def test_a_checkpoint_without_the_average_that_is_asked_for_is_refused(trainer):
    trainer("teacher").run()
    with pytest.raises(ConfigError, match="stages.teacher.ema_decay was not set and is 0.9 now"):
        trainer("teacher", iterations=3, ema_decay=0.9).run()


def test_a_checkpoint_of_another_configuration_is_refused(trainer):
    trainer("detail").run()
    with pytest.raises(ConfigError, match="stages.detail.options.rank was 4 and is 3 now"):
        trainer("detail", {"rank": 3}).run()


def test_a_semantic_expert_below_a_detail_expert_is_not_trained_on_first_and_refused_then(tiny, tmp_path):
    """Before its first iteration, and not after all of them."""
    config = tiny(tmp_path, "detail")
    detail = config.stages["detail"]
    semantic = detail.model_copy(update={"method": "semantic", "iterations": 3})
    config = config.model_copy(update={"stage": "", "stages": {"semantic": semantic, "detail": detail}})
    for stage, iteration in (("semantic", 2), ("detail", 1)):
        check_below(config)
        (tmp_path / stage / "checkpoints" / f"{iteration:08d}").mkdir(parents=True)
    with pytest.raises(ConfigError, match="iterations=3: .*detail was trained over .* 2. Set .*iterations=2, or train"):
        check_below(config)
    check_below(config.model_copy(update={"stage": "semantic"}))
    check_below(config.model_copy(update={"watch": config.watch.model_copy(update={"patience": 2})}))
    stays = config.stages["semantic"].model_copy(update={"iterations": 2})
    check_below(config.model_copy(update={"stages": {**config.stages, "semantic": stays}}))


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "digests"])
def test_the_checkpoint_before_a_damaged_one_is_used_and_named(trainer, tmp_path, caplog, capsys, damage):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    trainer("teacher", iterations=3, checkpoint_every=1, folder=whole).run()
    first = trainer("teacher", iterations=2, checkpoint_every=1, folder=damaged)
    first.run()
    newest = first.checkpoints.all()[0]
    shard, content = newest / SHARD, bytearray((newest / SHARD).read_bytes())
    if damage == "cut":
        shard.write_bytes(content[:-100])
    elif damage == "changed":
        content[-5] ^= 1
        shard.write_bytes(content)
    elif damage == "gone":
        shard.unlink()
    else:
        (newest / "digests.json").write_text("{")
    second = trainer("teacher", iterations=3, checkpoint_every=1, folder=damaged)
    second.run()
    assert f"Could not read the checkpoint {newest}: " in caplog.text
    assert f"Going on from the one before it, {newest.with_name('00000001')}." in caplog.text
    assert "continued from iteration 1" in capsys.readouterr().out
    assert_bit_equal(whole, damaged, "teacher")
    assert iterations(second) == [3, 2] and newest.with_name("00000002.damaged").exists()


def test_a_resumed_run_logs_every_iteration_once(trainer):
    settings = {"iterations": 4, "checkpoint_every": 2, "log_every": 1}
    first = trainer("teacher", **settings)
    step = first.method.step

    def killed_in_the_fourth(iteration):
        if iteration == 3:
            raise KeyboardInterrupt
        return step(iteration)

    first.method.step = killed_in_the_fourth
    with pytest.raises(KeyboardInterrupt):
        first.run()
    log = first.folder / "log.jsonl"
    log.write_text(log.read_text() + '{"iteration": 4, "fl')  # cut off by a kill
    trainer("teacher", **settings).run()
    assert [json.loads(line)["iteration"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]
