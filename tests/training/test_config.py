from pathlib import Path

import pytest
import torch
import yaml

from training import hub
from training.config import Config, ConfigError, OptimizerConfig, build, load_config, to_yaml
from training.distill import main, say_peak
from training.run.optim import build_optimizers
from training.trainer import build_trainer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "training" / "configs").glob("[!a]*.yaml"))  # an ablation is none


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"output": str(tmp_path), "stages": {"teacher": {"method": "teacher", "iterations": 3}}})
    )
    return path


def test_overrides_reach_every_depth_and_keep_their_type(file):
    config = load_config(
        file,
        ["stage=teacher", "stages.teacher.optimizer.lr=1e-5", "seed=3", "stages.teacher.options.shift=5"],
    )
    stage = config.selected()
    assert (config.seed, stage.optimizer.lr, stage.options) == (3, 1e-5, {"shift": 5})


@pytest.mark.parametrize(
    "override, message",
    [
        ("sed=1", "Unknown key 'sed'. Did you mean 'seed'"),
        ("stages.teacher.optimizer.learning_rate=1", "Unknown key 'stages.teacher.optimizer.learning_rate'"),
        ("stages.teacher.optimiser.lr=1", "Did you mean 'optimizer'"),
        ("data.batch_size=many", "data.batch_size must be of type int, not 'many'"),
        ("seed", "is no override; write it as key.subkey=value"),
        ("seed.low=1", "'seed'|seed must be"),
        ("data=3", "data must be a mapping"),
        ("seed=[1", "'seed=.1' has a value that is not valid YAML"),
        ("stages.teacher.iterations=-3", "stages.teacher.iterations=-3 must be at least 1"),
        ("stages.teacher.iterations=0", "stages.teacher.iterations=0 must be at least 1"),
        ("checkpoint_every=0", "checkpoint_every=0 must be at least 1"),
        ("log_every=0", "log_every=0 must be at least 1"),
        ("stages.teacher.optimizer.lr=-1", "stages.teacher.optimizer.lr=-1.0 must be above 0"),
        ("stages.teacher.optimizer.lr=.nan", "stages.teacher.optimizer.lr=nan must be above 0"),
        ("stages.teacher.optimizer.betas=[0.9, 1]", "betas=1.0 must be at least 0 and below 1"),
        ("stages.teacher.optimizer.betas=[0.9]", "betas must be a list of 2"),
        ("stages.teacher.optimizer.warmup=-1", "warmup=-1 must be at least 0"),
        ("stages.teacher.ema_decay=5", "stages.teacher.ema_decay=5.0 must be at least 0 and below 1"),
        ("data.text_dropout=2", "data.text_dropout=2.0 must be at least 0 and at most 1"),
        ("validation.every=-1", "validation.every=-1 must be at least 0"),
        ("validation.steps=0", "validation.steps=0 must be at least 1"),
        ("seed=-1", "seed=-1 must be at least 0"),
    ],
)
def test_wrong_keys_and_values_are_named(file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(file, [override])


@pytest.mark.parametrize(
    "override, message",
    [
        ("stage=semantics", "stage='semantics' is unknown; use teacher."),
        (
            "stages.teacher.method=student",
            "stages.teacher.method='student' is unknown; use detail, lcm, pcm, semantic, teacher or trajectory.",
        ),
        ("stages.teacher.method=base", "method='base' is unknown; use"),
        (
            "stages.teacher.options.shfit=3",
            "Unknown key 'stages.teacher.options.shfit'. Did you mean 'shift'",
        ),
        ("stages.teacher.optimizer.name=sgd", "teacher.optimizer.name='sgd' is unknown; use adamw, adamw8bit or muon"),
        ("stages.teacher.optimizer.schedule=3", "optimizer.schedule=3 is unknown; use constant or cosine"),
        ("stages.teacher.data.batchsize=2", "Did you mean 'batch_size'"),
        ("backbone.name=wam", "backbone.name='wam' is unknown; use cogvideox, hunyuan_video, shapes or wan."),
        ("backbone.family=want", "family 'want'"),
        ("data.name=shape", "data.name='shape' is unknown; use published, shapes or videos."),
        ("data.batch_size=0", "must be at least 1"),
        ("validation.steps=51", "validation.steps=51 must be at most the 50 points of the grid"),
        ("data.name=films", "data.name='films' is unknown; use published, shapes or videos."),
        ("backbone.family=hunyuan_video", "HunyuanVideo.* has another network than backbone.name=wan"),
        ("stages.teacher.options.shift=0", "stages.teacher.options.shift=0.0 must be above 0"),
        ("data.options.only={colour: [purple]}", "leaves a data set of zero clips"),
        ("data.options.only={color: [red]}", "data.options.only='color' is unknown; use colour"),
        ("export_dtype=fp16", "export_dtype='fp16' is unknown; use float32, float16 or bfloat16"),
        ("device=gpu", "device='gpu' is unknown; use auto, cpu or cuda"),
    ],
)
def test_what_does_not_exist_is_named(file, override, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        build_trainer(load_config(file, ["stage=teacher", "backbone.family=shapes", *TINY, override]))


TINY = [
    "backbone.architecture={num_attention_heads: 2, attention_head_dim: 12, ffn_dim: 32, num_layers: 2}",
    "device=cpu",
    "data.batch_size=2",
]


@pytest.mark.parametrize("stage, missing", [("semantic", "no teacher at"), ("detail", "no semantic expert at")])
def test_missing_predecessors_are_named_with_the_remedy(trainer, tmp_path, stage, missing):
    options = {"teacher": str(tmp_path / "x.safetensors")} if stage == "semantic" else {"semantic": str(tmp_path / "x")}
    with pytest.raises(ConfigError, match=missing):
        trainer(stage, options)


def test_the_schedule_can_be_moved(file):
    config = load_config(file, ["backbone.family=wan"])
    assert config.expert_schedule().kappa_index == 34
    moved = load_config(file, ["backbone.family=wan", "schedule.kappa_index=37", "schedule.shift=10"])
    assert (moved.expert_schedule().kappa_index, moved.expert_schedule().grid.shift) == (37, 10.0)
    with pytest.raises(ConfigError, match="schedule: "):
        load_config(file, ["backbone.family=wan", "schedule.kappa_index=99"]).expert_schedule()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configurations_are_valid_and_survive_a_round_trip(path):
    config = load_config(path)
    assert build(Config, yaml.safe_load(to_yaml(config))) == config
    config.expert_schedule()
    assert {"semantic", "detail"} <= set(config.stages)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configurations_find_their_weights_from_any_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(path)
    if config.backbone.weights and not hub.is_name(config.backbone.weights):
        assert config.find(config.backbone.weights, "teacher", "").is_file()


def test_the_resolved_configuration_lies_beside_the_weights(trainer, tmp_path):
    run = trainer("teacher")
    run.run()
    assert load_config(tmp_path / "teacher" / "config.yaml") == run.config


def failure(*arguments) -> str:
    """What the command says when it gives up; one line, no traceback."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


def test_command_line_errors_are_one_line(file, monkeypatch):
    assert failure("--config", str(file), "sed=1") == "error: Unknown key 'sed'. Did you mean 'seed'?"
    assert failure("--config", "nowhere.yaml") == "error: There is no configuration file nowhere.yaml."
    monkeypatch.chdir(ROOT)
    question = f"Did you mean {Path('training', 'configs', 'wan2.1_1.3b.yaml')}?"
    for name in ("wan2.1_1.3b", "wan2.1_1.3.yaml"):
        assert failure("--config", name) == f"error: There is no configuration file {name}. {question}"
    assert f"{file.parent} is a folder; name the YAML file in it" in failure("--config", str(file.parent))
    (file.parent / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not valid YAML" in failure("--config", str(file.parent / "bytes.yaml"))
    assert failure("--config", str(file), "--restart") == "error: --restart needs stage=NAME; there are teacher."


def test_an_unwritable_output_is_noticed_before_training(tmp_path, file, monkeypatch):
    (tmp_path / "taken").write_text("a file, not a folder")
    monkeypatch.setattr("training.methods.base.Method.step", lambda *_: pytest.fail("it trained before it noticed"))
    message = failure("--config", str(file), "backbone.family=shapes", *TINY, f"output={tmp_path}/taken")
    assert message.startswith("error:") and "taken" in message


@pytest.mark.parametrize("place", ["training.methods.base.Method.step", "training.run.optim.Learner.load"])
def test_a_gpu_without_room_is_no_checkpoint_that_does_not_fit(file, tmp_path, monkeypatch, place):
    run = ["--config", str(file), "backbone.family=shapes", *TINY, f"output={tmp_path}/run"]
    main([*run, "stages.teacher.iterations=1"])
    checkpoints = tmp_path / "run" / "teacher" / "checkpoints"
    before = {path: path.read_bytes() for path in checkpoints.rglob("*") if path.is_file()}
    assert before

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(place, full)
    message = failure(*run, "stages.teacher.iterations=2")
    assert message.startswith("error: the GPU has too little memory: CUDA out of memory. Tried to allocate 2.00 GiB. ")
    assert "compute.micro_batch=1" in message and "does not fit" not in message
    assert "data.batch_size" not in message, "a run that was begun refuses another one"
    assert {path: path.read_bytes() for path in checkpoints.rglob("*") if path.is_file()} == before


def test_a_trial_trains_one_iteration_and_writes_nothing(file, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    main(["--try", "--config", str(file), "backbone.family=shapes", *TINY])
    output = capsys.readouterr().out
    assert "stage teacher: teacher" in output and "flow" in output
    assert sorted(tmp_path.rglob("*")) == before


def test_a_trial_on_a_gpu_says_what_it_held_there(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _: 3 << 29)
    say_peak(torch.device("cpu"))
    say_peak(torch.device("cuda"))
    assert capsys.readouterr().out == "held on the GPU at most: 1.5 GiB\n"


def test_flags_and_settings_come_in_any_order(file, capsys):
    main(["stage=teacher", "--try", "seed=1", "--config", str(file), "backbone.family=shapes", *TINY])
    assert "stage teacher: teacher" in capsys.readouterr().out


def test_a_run_ends_with_what_to_do_next(tiny, trained, tmp_path, capsys):
    stages = {name: {"method": name, "iterations": 1} for name in ("semantic", "detail")}
    stages["detail"]["options"] = {"rank": 2, "discriminator": {"width": 8}}
    config = tmp_path / "config.yaml"
    settings = yaml.safe_load(to_yaml(tiny(tmp_path / "run", "semantic"))) | {"stages": stages, "stage": ""}
    settings["backbone"]["weights"] = str(trained / "teacher" / "teacher.safetensors")
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    main(["--config", str(config), "stage=semantic"])
    output = capsys.readouterr().out
    file = tmp_path / "run" / "semantic" / "semantic.safetensors"
    assert f"Wrote {file}: 1 iterations. Put it into ComfyUI/models/dcm and open it with DCM Load Expert." in output
    assert output.endswith("Next: the same command with stage=detail.\n")
    main(["--config", str(config)])
    output = capsys.readouterr().out
    assert "Finished already" in output and output.endswith("All stages of this configuration are done.\n")


def test_relative_weights_are_looked_for_beside_the_configuration_then_in_the_working_folder(
    tiny, trained, tmp_path, monkeypatch
):
    beside, working = tmp_path / "beside", tmp_path / "working"
    for folder in (beside, working):
        folder.mkdir()
    monkeypatch.chdir(working)
    config = beside / "config.yaml"
    config.write_text(to_yaml(tiny(tmp_path / "run", "semantic")).replace("\nfolder: ''\n", "\n"))
    overrides = ["backbone.weights=teacher.safetensors"]
    with pytest.raises(ConfigError) as missing:
        build_trainer(load_config(config, overrides))
    assert f"no teacher at {beside}/teacher.safetensors or {working}/teacher.safetensors" in str(missing.value)
    for folder in (working, beside):
        (folder / "teacher.safetensors").write_bytes((trained / "teacher" / "teacher.safetensors").read_bytes())
        assert (
            load_config(config, overrides).find("teacher.safetensors", "", "").samefile(folder / "teacher.safetensors")
        )
    build_trainer(load_config(config, overrides)).run()
    saved = load_config(tmp_path / "run" / "semantic" / "config.yaml")
    assert build_trainer(saved).iteration == 0


def test_a_diverging_discriminator_leaves_the_student_as_it_was(trainer):
    method = trainer("detail").method
    before = {name: p.detach().clone() for name, p in method.trainable.items()}
    first = next(iter(method.learners["discriminator"].parameters.values()))
    first.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError) as stopped:
        method.step(0)
    message = str(stopped.value)
    assert message.startswith("discriminator: The gradient at iteration 0 is not finite")
    assert "stages.detail.options.discriminator.lr" in message
    assert message.endswith("The weights and the last checkpoint are sound.")
    assert all(torch.equal(p, before[name]) for name, p in method.trainable.items())


def test_a_diverging_run_stops_with_sound_weights(trainer):
    method = trainer("teacher").method
    before = {name: p.detach().clone() for name, p in method.trainable.items()}
    batch = method.data.batch(method.draws(0))
    batch.latents[0, 0, 0, 0, 0] = float("nan")
    method.data.batch = lambda iteration: batch
    with pytest.raises(FloatingPointError, match="iteration 0 is not finite"):
        method.step(0)
    assert all(torch.equal(p, before[name]) for name, p in method.trainable.items())


def test_muon_on_an_older_torch_says_what_to_use(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match="PyTorch 2.9.*adamw"):
        build_optimizers({}, OptimizerConfig(name="muon"))
