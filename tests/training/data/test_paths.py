"""Paths of the teacher from prompts alone: what is kept, what is refused, and that training on them is training."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from harness.kills import kill_9
from safetensors.torch import load_file

from dcm_core.process import process_of
from dcm_core.sampling import euler
from training import paths as command
from training.config import ConfigError, to_yaml
from training.data.paths import PathCache, fill, solved
from training.evaluation.recipe import levels, training_plan
from training.run.draws import Draws
from training.trainer import build_trainer

PATHS = {"count": 3, "batch_size": 2}
STAGES = {"semantic": {}, "detail": {}, "lcm": {}, "pcm": {}}


@pytest.fixture(scope="module")
def made(tiny, trained, tmp_path_factory):
    """A folder of 4 paths of the tiny teacher, and the method whose teacher it is."""
    folder = tmp_path_factory.mktemp("made")
    options = {"teacher": str(trained / "teacher" / "teacher.safetensors")}
    run = build_trainer(tiny(folder, "semantic", options, paths=PATHS))
    method = run.method
    cache = PathCache.begin(folder / "paths", training_plan(method, run.config))
    told: list[int] = []
    made = fill(cache, method.data, method.guided_teacher, method.process, method.world, on_step=told.append)
    assert list(made) == [0, 1]
    assert told == [cache.plan.batch] * 2 * cache.plan.steps, "a bar moves with every step"
    return cache.folder, method


@pytest.fixture
def cached(made, tmp_path):
    """A filled cache of 4 paths, which a test may damage, with the method whose teacher it is."""
    folder, method = made
    return PathCache.read(shutil.copytree(folder, tmp_path / "paths")), method


@torch.no_grad()
def test_a_path_is_what_the_teacher_samples_and_its_states_lie_on_it(cached):
    cache, method = cached
    assert len(cache) == 4, "in whole batches"
    sigmas = [*method.schedule.grid.sigmas.flip(0).tolist(), 0.0]
    start, end = cache.states([2], [0, -1])[0]
    conditions = method.data.conditions(cache.plan.captions([2]))
    x = start[None]
    torch.testing.assert_close(method.followed(method.guided_teacher(conditions), x, sigmas)[0], end)
    for place, level in enumerate(cache.plan.levels[1:], 1):
        part = [sigma for sigma in sigmas if sigma > level + 1e-6] + [level]
        arrived = method.followed(method.guided_teacher(conditions), x, part)
        torch.testing.assert_close(arrived[0], cache.states([2], [place])[0, 0])


def test_every_level_of_a_run_is_a_node_and_kept_with_two_more_a_step(cached):
    cache, method = cached
    plan = cache.plan
    run = method.sigmas(4)
    assert cache.positions(run.tolist()) == [0, 3, 6, 9, 12]
    assert len(plan.levels) == 13 and set(plan.levels) <= set(plan.nodes) and len(plan.nodes) == 51
    nodes, kept = levels(method.schedule, [[1.0, 0.5, 0.0]])  # a level that is none of the grid's
    assert 0.5 in nodes and 0.5 in kept and len(nodes) == 52
    with pytest.raises(ConfigError, match="have no states at the noise levels .* your number of steps in paths.steps"):
        cache.positions(method.sigmas(7).tolist())


def test_states_are_float32_and_noise_is_that_of_a_paths_own_number(cached, tmp_path):
    cache, method = cached
    assert load_file(cache.folder / "paths-000000.safetensors")["states"].dtype == torch.float32
    alone = PathCache.begin(tmp_path / "alone", replace(cache.plan, batch=1, count=4))
    list(fill(alone, method.data, method.guided_teacher, method.process, method.world))
    assert torch.equal(alone.states([3], [0]), cache.states([3], [0]))
    torch.testing.assert_close(alone.states([3], [-1]), cache.states([3], [-1]))
    held_out = PathCache.begin(tmp_path / "other", replace(cache.plan, stream="held-out path"))
    list(fill(held_out, method.data, method.guided_teacher, method.process, method.world))
    assert not torch.equal(held_out.states([3], [0]), cache.states([3], [0]))


def test_v_prediction_paths_turn(cached):
    """The states of another process are those of its own jumps."""
    cache, method = cached
    process = process_of(replace(method.schedule.grid, prediction="v_prediction"))
    plan = replace(cache.plan, nodes=[1.0, 0.5, 0.0], levels=[1.0, 0.5, 0.0])
    x = solved(plan, range(1), lambda x, sigma: 0.3 * x, process, torch.device("cpu"))[0]
    torch.testing.assert_close(x[-1:], euler(lambda x, sigma: 0.3 * x, x[:1], plan.nodes, process=process))


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({}, {"guidance": 2.0}, "were made with guidance 6.0, and this run's is 2.0"),
        (
            {"schedule": {"shift": 5.0, "points": 50, "kappa_index": 29}},
            {},
            "the grid flow of 50 points at shift 3",
        ),
        ({}, {"teacher": "another"}, "were made with another backbone, or other weights of it"),
    ],
)
def test_paths_of_another_backbone_guidance_or_grid_are_refused(cached, trainer, tmp_path, settings, options, said):
    if "teacher" in options:
        trainer("teacher", iterations=1, seed=5, folder=tmp_path / "another").run()
        options = {"teacher": str(tmp_path / "another" / "teacher" / "teacher.safetensors")}
    paths = {**PATHS, "folder": str(cached[0].folder)}
    with pytest.raises(ConfigError, match=said):
        trainer("semantic", options, data={"source": "teacher"}, paths=paths, **settings)


def test_paths_of_other_prompts_than_are_named_are_refused(cached, trainer, tmp_path):
    """A file of prompts may be gone, but not have become another one."""
    cache, _ = cached
    file, folder = tmp_path / "prompts.txt", {"folder": str(cache.folder), "prompts": str(tmp_path / "prompts.txt")}
    settings = {"data": {"source": "teacher", "batch_size": 2}, "paths": {**PATHS, **folder}}
    for text in ("\n".join(cache.plan.prompts), None):
        file.write_text(text) if text else file.unlink()
        trainer("semantic", **settings)
    file.write_text(cache.plan.prompts[0])
    with pytest.raises(ConfigError, match="were made of other prompts than are in this file now. Put those back"):
        trainer("semantic", **settings)


@pytest.mark.parametrize("stage", ["teacher", *STAGES])
def test_every_method_trains_on_paths(cached, trainer, stage):
    settings = {"paths": {**PATHS, "folder": str(cached[0].folder)}, "data": {"source": "teacher"}}
    run = trainer(stage, **settings)
    before = {name: p.detach().clone() for name, p in run.method.trainable.items()}
    run.run()
    assert any(not torch.equal(p, before[name]) for name, p in run.method.trainable.items())
    batch = run.method.data.batch(run.method.draws(0))
    ends = cached[0].states(range(4), [-1])[:, 0]
    assert all(any(torch.equal(each, end) for end in ends) for each in batch.latents)
    assert run.method.trained_with()["data.source"] == "teacher" and run.method.trained_with()["paths.count"] == 3


def test_paths_that_are_missing_or_damaged_are_named(cached, trainer):
    cache, _ = cached
    settings = {"paths": {**PATHS, "folder": str(cache.folder)}, "data": {"source": "teacher"}}
    (cache.folder / "paths-000001.safetensors").write_bytes(b"cut")
    with pytest.raises(OSError, match="paths-000001.safetensors cannot be read: .*Remove it and run training/paths.py"):
        PathCache.read(cache.folder).states([2], [0])
    (cache.folder / "paths-000001.safetensors").unlink()
    with pytest.raises(ConfigError, match="1 of 2 files of paths in .* are missing, such as paths-000001"):
        trainer("semantic", **settings)
    (cache.folder / "index.json").write_text("[]")
    with pytest.raises(ConfigError, match="is no index of paths"):
        trainer("semantic", **settings)
    (cache.folder / "index.json").unlink()
    with pytest.raises(ConfigError, match="There are no paths in .* Run training/paths.py first"):
        trainer("semantic", **settings)
    with pytest.raises(ConfigError, match="has files of paths and no index.json, which says what they are. Put"):
        PathCache.begin(cache.folder, cache.plan)


def test_fewer_paths_than_are_asked_for_are_named_and_more_are_a_change_of_the_data(cached, trainer):
    cache, _ = cached
    settings = {"paths": {**PATHS, "folder": str(cache.folder)}, "data": {"source": "teacher"}, "iterations": 1}
    asked = settings | {"paths": settings["paths"] | {"count": 5}}
    with pytest.raises(ConfigError, match=r"paths.count=5, and .* holds 4 paths. .* or set paths.count=4\."):
        trainer("semantic", **asked)
    trainer("semantic", **settings).run()
    for batch in (2, 3):
        shutil.copy(cache.folder / "paths-000000.safetensors", cache.folder / f"paths-00000{batch}.safetensors")
    PathCache.begin(cache.folder, replace(cache.plan, count=8))
    trainer("semantic", **settings).run()  # on the first of them, as before
    asked = settings | {"paths": settings["paths"] | {"count": 8}}
    with pytest.raises(ConfigError, match=r"the data set was 4 paths \(\w+\) and is 8 paths \(\w+\) now\."):
        trainer("semantic", **asked).run()


def test_the_first_so_many_paths_are_trained_on_as_their_count_says(cached, trainer, caplog):
    """Those behind them need not even be there."""
    cache, _ = cached
    (cache.folder / "paths-000001.safetensors").unlink()
    settings = {"paths": {**PATHS, "count": 1, "folder": str(cache.folder)}, "data": {"source": "teacher"}}
    data = trainer("semantic", **settings).method.data
    assert "Of the 4 paths in" in caplog.text and "the first 2 are trained on, as paths.count=1 says" in caplog.text
    drawn = {number for iteration in range(20) for number in data.numbers(Draws.of(0, iteration, 4))}
    assert drawn == {0, 1} and data.content.startswith("2 paths (")


@pytest.mark.parametrize("other", ["another batch", "another cache"])
def test_a_file_of_another_cache_is_refused(cached, other):
    cache, _ = cached
    first, second = (cache.folder / f"paths-00000{number}.safetensors" for number in range(2))
    if other == "another batch":
        shutil.copy(first, second)
        cache = PathCache.read(cache.folder)
    else:
        cache = PathCache(cache.folder, replace(cache.plan, seed=3))
    with pytest.raises(ConfigError, match=r"paths-000001.safetensors holds other paths than index.json beside"):
        cache.states([2], [0])


def test_paths_of_a_rounded_teacher_are_for_runs_that_round_alike(cached):
    """Those of a teacher that is not are for all, but no others are added to them."""
    cache, _ = cached
    exact = cache.plan.recipe
    rounded = replace(exact, base="nf4")
    exact.check(rounded, cache.folder)
    rounded.check(rounded, cache.folder)
    with pytest.raises(ConfigError, match="made with compute.base=nf4, and this run's is none"):
        rounded.check(exact, cache.folder)
    with pytest.raises(ConfigError, match="made with compute.base=none, and this run's is nf4"):
        PathCache.begin(cache.folder, replace(cache.plan, recipe=rounded))


def test_more_paths_may_be_added_and_nothing_else_changed(cached):
    cache, _ = cached
    assert PathCache.begin(cache.folder, replace(cache.plan, count=8)).missing() == [2, 3]
    assert len(PathCache.begin(cache.folder, cache.plan)) == 8, "they are not forgotten"
    with pytest.raises(ConfigError, match="were begun with other seed. Set the former"):
        PathCache.begin(cache.folder, replace(cache.plan, seed=3))


def test_a_full_disk_is_noticed_before_the_first_path(cached, monkeypatch):
    cache, method = cached
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    more = PathCache.begin(cache.folder, replace(cache.plan, count=8))
    with pytest.raises(OSError, match="only 0.00 GB are free"):
        next(fill(more, method.data, method.guided_teacher, method.process, method.world))


def written(trainer, tmp_path, **paths) -> Path:
    """A configuration file over the tiny teacher."""
    config = trainer("semantic", folder=tmp_path / "run", paths={**PATHS, **paths}).config
    (tmp_path / "config.yaml").write_text(to_yaml(config.of_stage("")))
    return tmp_path / "config.yaml"


def test_the_command_tells_the_costs_first_and_shares_the_work(trainer, tmp_path, capsys):
    prompts = "a red striped circle moving left fast\n\na blue plain square moving up slowly\n"
    (tmp_path / "prompts.txt").write_text(prompts)
    config = ["--config", str(written(trainer, tmp_path, prompts=str(tmp_path / "prompts.txt")))]
    command.main([*config, "--dry-run"])
    told = capsys.readouterr().out
    assert "4 paths of 2 prompts, 100 network calls each: 400 calls, " in told and " GFLOP, about " in told
    assert "13 states a path: 0.00192 GB in" in told and not (tmp_path / "run" / "paths").exists()
    command.main([*config, "--part", "2/2"])
    assert "2 paths are left to other parts." in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "run" / "paths").glob("*.safetensors")] == ["paths-000001.safetensors"]
    command.main(config)
    assert "All paths are there" in capsys.readouterr().out


def test_prompts_that_get_no_path_are_counted(trainer, tmp_path, capsys):
    lines = [f"a red plain square moving {where} fast\n" for where in ("left", "right", "up", "down")]
    lines.append("a blue dotted circle moving left slowly\n")
    (tmp_path / "prompts.txt").write_text("".join(lines))
    config = ["--config", str(written(trainer, tmp_path, prompts=str(tmp_path / "prompts.txt"))), "--dry-run"]
    command.main(config)
    assert "Of 5 prompts the last 1 get no path: paths.count=5 is one for each." in capsys.readouterr().out
    command.main([*config, "paths.count=5"])
    assert "get no path" not in capsys.readouterr().out


def test_prompts_that_cannot_be_read_are_named(trainer, tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, said in ((empty, "has no prompt; write one per line"), (binary, "cannot be read as text in UTF-8")):
        with pytest.raises(SystemExit, match=said):
            command.main(["--config", str(written(trainer, tmp_path, prompts=str(path)))])


def test_kill_9_while_paths_are_made_and_go_on_is_bit_equal(trainer, tmp_path):
    """The real command, killed by the operating system while it writes its second file."""
    config = yaml.safe_load(written(trainer, tmp_path, count=8).read_text())
    run = {}
    for name in ("whole", "killed"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**config, "output": str(tmp_path / name)}))
        run[name] = ["--config", str(file)]
    command.main(run["whole"])
    folder = tmp_path / "killed" / "paths"
    kill_9(["training/paths.py", *run["killed"]], folder / ".paths-000001", 1)
    assert [path.name for path in folder.glob("paths-*")] == ["paths-000000.safetensors"]
    command.main(run["killed"])
    for path in sorted((tmp_path / "whole" / "paths").iterdir()):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_prompt_that_the_data_set_cannot_encode_is_named_before_any_path(trainer, tmp_path):
    (tmp_path / "prompts.txt").write_text("a purple circle\n")
    with pytest.raises(SystemExit, match="paths.prompts: .*purple"):
        command.main(["--config", str(written(trainer, tmp_path, prompts=str(tmp_path / "prompts.txt")))])
