"""Several processes train what one process trains, and read each other's checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from training.config import Config, ConfigError, to_yaml
from training.distill import run
from training.run.world import check_processes, processes

# What a test alone reads of the checkpoints of several; the trainer's own reader says that it is one process.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
ROOT = Path(__file__).resolve().parents[3]
STAGES = ("semantic", "detail")
TOLERANCE = {"moments": 1e-5, "adamw": 1e-5, "muon": 5e-4}  # sums in another order, and no more
OPTIMIZERS = {"semantic": "adamw", "detail": "muon"}


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess:
    """The real command on so many processes, a minute or two on a slow machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def config_of(tiny, trained: Path, folder: Path, iterations: int = 4, **settings) -> Config:
    """Both stages over one teacher; the detail stage over a semantic expert that does not differ between runs."""
    common = {"teacher": str(trained / "teacher" / "teacher.safetensors"), "target_ema": 0.9}
    adapter = {"rank": 4, "alpha": 8.0, "discriminator": {"lr": 1e-4, "width": 32}}
    detail = {**common, **adapter, "real": "data", "semantic": str(trained / "semantic" / "semantic.safetensors")}
    stages = [
        tiny(
            folder,
            stage,
            options,
            iterations=iterations,
            ema_decay=0.9,
            optimizer={"lr": 1e-4, "name": OPTIMIZERS[stage]},
            checkpoint_every=2,
            log_every=1,
            **settings,
        )
        for stage, options in (("semantic", common), ("detail", detail))
    ]
    both = {name: config.stages[name] for name, config in zip(STAGES, stages, strict=True)}
    return stages[0].model_copy(update={"stages": both, "stage": ""})


# One start of so many processes for all configurations. diffusers asks how many accelerators there are before it shares
# a clip, and a machine without one has 0.
COMMAND = """
import sys
import torch
from training import distill
from training.run import world

torch.accelerator.device_count = lambda: 1
leave, world.farewell = world.farewell, lambda: None
for file in sys.argv[1:]:
    distill.main(["--config", file])
leave()
"""


def train(processes: int, *configs: Config) -> str:
    """What the command says on its standard output, of one configuration after the other."""
    files = [Path(config.output).with_suffix(".yaml") for config in configs]
    for file, config in zip(files, configs, strict=True):
        file.write_text(to_yaml(config))
    command = files[0].with_suffix(".py")
    command.write_text(COMMAND)
    done = torchrun(processes, str(command), *map(str, files))
    assert done.returncode == 0, done.stderr
    return done.stdout


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All of a checkpoint, whole."""
    about = dcp.HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(each.size, dtype=each.properties.dtype) for name, each in about.items()}
    dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=True)
    return tensors


def tolerance(name: str, optimizer: str) -> float:
    """Of a tensor of a checkpoint, by its name."""
    if "discriminator" in name:
        optimizer = "adamw"
    return TOLERANCE[optimizer if "/weights/" in name or name.startswith("averages/") else "moments"]


def assert_same_checkpoint(one: Path, other: Path, stage: str, iteration: int) -> None:
    """Weights, averages and moments of two runs."""
    checkpoints = [tensors_of(folder / stage / "checkpoints" / f"{iteration:08d}") for folder in (one, other)]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    assert {name.split("/")[1] for name in checkpoints[0] if name.startswith("averages/")} == {"student", "target"}
    for name, expected in checkpoints[0].items():
        limit = tolerance(name, OPTIMIZERS[stage])
        assert (checkpoints[1][name] - expected).abs().max() <= limit, name


def assert_same_end(one: Path, other: Path, stage: str) -> None:
    """The exported files and the losses of two runs."""
    exported = [load_file(folder / stage / f"{stage}.safetensors") for folder in (one, other)]
    assert exported[0].keys() == exported[1].keys()
    for name, expected in exported[0].items():
        torch.testing.assert_close(exported[1][name], expected, rtol=0, atol=TOLERANCE[OPTIMIZERS[stage]])
    logs = [(folder / stage / "log.jsonl").read_text().splitlines() for folder in (one, other)]
    for expected, line in zip(*logs, strict=True):
        assert json.loads(line) == pytest.approx(json.loads(expected), rel=1e-3, abs=1e-6)


@pytest.fixture(scope="module")
def runs(tiny, trained, tmp_path_factory):
    """The folders of the same training by 1 and by 4 in three ways that stopped half way, and of its end by 2 and 1.

    The four have parts of each network, two copies of two parts each, and shares of the same clips.
    """
    folder = tmp_path_factory.mktemp("parallel")
    one = config_of(tiny, trained, folder / "one")
    for stage in STAGES:
        run(one.of_stage(stage))
    ways = {"four": {}, "copies": {"shard": 2}, "shared": {"context": 2}}
    four = train(
        4, *(config_of(tiny, trained, folder / name, iterations=2, parallel=way) for name, way in ways.items())
    )
    assert "on 4 x cpu" in four and four.count("Wrote ") == 6
    for name in ("four_two", "four_one"):
        shutil.copytree(folder / "four", folder / name)
    # copies of networks on each process, where the four had parts
    two = train(2, config_of(tiny, trained, folder / "four_two", parallel={"shard": 1}))
    assert two.count("continued from iteration 2") == 2
    resumed = config_of(tiny, trained, folder / "four_one")
    for stage in STAGES:
        run(resumed.of_stage(stage))
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_four_processes_train_what_one_trains(runs, stage):
    assert len(list((runs / "four" / stage / "checkpoints" / "00000002").glob("*.safetensors"))) == 4
    assert_same_checkpoint(runs / "one", runs / "four", stage, 2)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("resumed", ["four_two", "four_one"])
def test_what_four_saved_is_resumed_by_two_and_by_one(runs, stage, resumed):
    assert_same_checkpoint(runs / "one", runs / resumed, stage, 4)
    assert_same_end(runs / "one", runs / resumed, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_two_copies_that_are_split_in_two_train_what_one_trains(runs, stage):
    assert_same_checkpoint(runs / "one", runs / "copies", stage, 2)


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_share_each_clip_and_train_what_one_trains(runs, stage):
    """Two readers of two processes each: velocities, features and gradients through the teacher's features."""
    assert_same_checkpoint(runs / "one", runs / "shared", stage, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"data": {"batch_size": 6}},
            "data.batch_size=6 of stage teacher cannot be .* 4 processes: use 4 or 8,",
        ),
        ({"data": {"batch_size": 2}}, "data.batch_size=2 of stage teacher cannot be .* 4 processes: use 4,"),
        ({"parallel": {"context": 2}, "data": {"batch_size": 3}}, "cannot be .* 2 groups of processes: use 2 or 4,"),
        ({"parallel": {"context": 3}}, "parallel.context=3 does not divide the number of processes, 4"),
        ({"parallel": {"shard": 3}}, "parallel.shard=3 does not divide the 4 processes"),
        ({"compute": {"base": "fp8", "checkpointing": "full"}}, "compute.base=fp8 is for networks that are whole"),
        ({"compute": {"base": "nf4", "checkpointing": "full"}}, "compute.base=nf4 is for networks that are whole"),
        (
            {"compute": {"offload": True, "checkpointing": "full"}},
            "compute.offload=true is for networks that are whole on each process: set parallel.shard=1.",
        ),
        (
            {"optimizer": {"name": "adamw8bit"}},
            "stages.teacher.optimizer.name=adamw8bit is for networks that are whole on each .* parallel.shard=1.",
        ),
        ({"device": "cuda:1"}, "device='cuda:1' is one device, and 4 processes need one each: use device=cuda"),
    ],
)
def test_what_so_many_processes_cannot_do_is_named_at_once(tiny, tmp_path, monkeypatch, settings, message):
    config = tiny(tmp_path, "teacher", **settings)
    if "parallel" not in settings:
        check_processes(config, processes())
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=message):
        check_processes(config, processes())


# What happens to the second of two processes in the second iteration, of one run after the other.
UNLUCKY = """
import os, signal, sys
from training import distill
from training.methods.base import Method
from training.run import world

def stops(method):
    os.kill(os.getpid(), signal.SIGTERM)

def diverges(method):
    batch = method.data.batch
    method.data.batch = lambda draws: (lambda each: (each.latents.fill_(float("nan")), each)[1])(batch(draws))

def fails(method):
    raise OSError("the disk is gone")

step, happens = Method.step, None

def unlucky(self, iteration):
    if iteration == 1 and os.environ["RANK"] == "1":
        happens(self)
    return step(self, iteration)

Method.step, world.farewell = unlucky, lambda: None
for happens in (stops, diverges):
    try:
        distill.main(["--config", sys.argv[1], f"output={sys.argv[2]}/{happens.__name__}"])
    except SystemExit as ended:
        print(f"{happens.__name__}: {ended.code}", file=sys.stderr)
happens = fails
distill.main(["--config", sys.argv[1], f"output={sys.argv[2]}/fails"])
"""


def test_what_happens_to_one_process_happens_to_all(tiny, tmp_path):
    """It is asked to stop, it diverges, it fails: each is told once, and no other waits for it."""
    (tmp_path / "unlucky.py").write_text(UNLUCKY)
    (tmp_path / "config.yaml").write_text(to_yaml(tiny(tmp_path / "out", "teacher", iterations=4)))
    done = torchrun(2, *(str(path) for path in (tmp_path / "unlucky.py", tmp_path / "config.yaml", tmp_path)))
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    own, _, report = told.partition("Root Cause")
    for said in (
        "Stopped as asked after iteration 2 of 4 and saved in",
        "error: student: The gradient at iteration 1 is not finite",
        "error in process 1: the disk is gone",
    ):
        assert own.count(said) == 1, told
    assert "error in process 1: the disk is gone" in report, "torchrun's own report ends with it too"
    assert told.count("stops: ") == 0 and "[rank0]: RuntimeError" not in told
