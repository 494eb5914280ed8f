"""An ablation: rows in their order, each a process, resumed; what did not run is said."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from dcm_core.sampling import euler
from dcm_core.shapes.captions import encode_text
from dcm_core.shapes.network import LATENT_SHAPE
from training import ablate
from training.config import ConfigError, load_config
from training.registry import check
from training.shapes import ablated
from training.shapes.ablation import find, jobs, load_ablation
from training.shapes.ablation_table import write_table
from training.shapes.entrants import Entrant

SHIPPED = Path(__file__).resolve().parents[3] / "training" / "configs" / "ablation_shapes.yaml"
FILE = """
output: {output}
guidance: 3.5
clips: 2
base:
  device: cpu
  backbone: {{name: shapes, weights: {teacher}, architecture: {{num_attention_heads: 2, attention_head_dim: 12,
    ffn_dim: 32, num_layers: 3}}}}
  data: {{name: shapes, batch_size: 2, text_dropout: 0.0}}
  schedule: {{shift: 3.0, points: 8, kappa_index: 3}}
  watch: {{every: 0}}
parts:
  short: &short {{iterations: 2, optimizer: {{lr: 1e-3}}}}
blocks:
  - title: Objectives
    seeds: [0, 1]
    rows:
      - {{name: "teacher, 4 steps"}}
      - {{name: one network, stages: {{vcm: {{<<: *short, method: lcm}}}}}}
      - name: +OD
        pair: true
        stages:
          high: {{<<: *short, method: lcm, options: {{expert: semantic}}}}
          low: {{<<: *short, method: lcm, options: {{expert: detail}}}}
  - title: Others
    rows:
      - {{name: in 2 steps, steps: 2, sampler: renoised, trained: one network}}
      - {{name: unknown, stages: {{x: {{<<: *short, method: no_such}}}}}}
      - {{name: above it, trained: unknown}}
      - {{name: never, not_run: there is none}}
"""


@pytest.fixture
def file(tmp_path, trained):
    path = tmp_path / "rows.yaml"
    teacher = trained / "teacher" / "teacher.safetensors"
    path.write_text(FILE.format(output=tmp_path / "out", teacher=teacher))
    return path


@pytest.fixture
def in_process(monkeypatch):
    """Rows that run in this process when they are begun, in the order in which they are; all that ended are told."""
    begun, real = [], ablate.subprocess.Popen

    class Ended:
        def __init__(self, command, stdout=None, **settings):
            name, seed = command[-2:]
            begun.append((name, int(seed)))
            self.code = 0
            try:
                ablate.main(command[2:])
            except SystemExit as error:
                stdout.write(f"{error}\n")
                self.code = 1

        def poll(self):
            return self.code

    monkeypatch.setattr(ablate.subprocess, "Popen", Ended)
    monkeypatch.setattr(ablate, "POLL", 0)
    yield begun
    assert ablate.subprocess.Popen is not real


def row(table, name):
    return next(line for line in table.splitlines() if line.startswith(f"| {name} |"))


def test_rows_are_trained_and_measured_in_order_and_only_once(file, in_process, tmp_path):
    ablate.main(["--config", str(file)])
    order = [("teacher, 4 steps", 0), *((name, seed) for name in ("one network", "+OD") for seed in (0, 1))]
    assert in_process == [*order, ("in 2 steps", 0), ("unknown", 0), ("above it", 0)]
    table = (tmp_path / "out" / "table.md").read_text()
    assert row(table, "teacher, 4 steps").split(" | ")[1:4] == ["8", "0", "1"]
    assert row(table, "one network").split(" | ")[1:4] == ["4", "4", "2"] and " to " in row(table, "one network")
    assert row(table, "+OD").split(" | ")[1:4] == ["4", "8", "2"], "both of the pair were trained"
    assert row(table, "in 2 steps").split(" | ")[1:4] == ["2", "4", "1"]
    assert "did not run: stages.x.method='no_such' is unknown" in row(table, "unknown")
    assert row(table, "above it").endswith("did not run: 'unknown' did not run |")
    assert row(table, "never").endswith("did not run: there is none |")
    raw = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(raw) == 6 and raw[1]["asked"]["config"]["stages"]["vcm"]["iterations"] == 2
    assert (tmp_path / "out" / "with_od" / "seed1" / "low" / "low.safetensors").exists()
    kept = sorted(path.name[:16] for path in (tmp_path / "out" / "clips").iterdir())
    assert kept == ["teacher_4_steps_", "teacher_50_steps"], "rendered once for all; what is trained is never kept"

    in_process.clear()
    ablate.main(["--config", str(file)])
    assert in_process == [("unknown", 0), ("above it", 0)], "what has a result is not run again"
    file.write_text(file.read_text().replace("clips: 2", "clips: 3"))
    ablate.main(["--config", str(file), "--only", "teacher"])
    assert in_process[2:] == [("teacher, 4 steps", 0)], "another question has another answer"
    table = (tmp_path / "out" / "table.md").read_text()
    assert row(table, "+OD").endswith("did not run: its result was made with other settings |")


def test_rows_of_several_machines_make_one_table(file, in_process, tmp_path):
    """Their folders are copied; where files lie, and which device there is, is each machine's own."""
    ablate.main(["--config", str(file), "--only", "teacher"])
    here, there = tmp_path / "out", tmp_path / "there"
    shutil.copytree(here / "teacher_4_steps", there / "out" / "teacher_4_steps")
    values = yaml.safe_load(file.read_text())
    teacher = shutil.copy(values["base"]["backbone"]["weights"], there / "weights.safetensors")
    values["output"], values["base"]["backbone"]["weights"] = str(there / "out"), str(teacher)
    values["base"] |= {"device": "cuda", "paths": {"folder": str(there)}}
    copied = there / "rows.yaml"
    copied.write_text(json.dumps(values))

    in_process.clear()
    ablate.main(["--config", str(copied), "--hours", "0"])
    assert not in_process and not (there / "paths").exists(), "only the table is written"
    table = (there / "out" / "table.md").read_text()
    assert row(table, "teacher, 4 steps").split(" | ")[1:4] == ["8", "0", "1"]
    assert table.splitlines()[-1].startswith("Made on: ") and "PyTorch" in table.splitlines()[-1]
    Path(teacher).write_bytes(b"another teacher")
    ablate.main(["--config", str(copied), "--hours", "0"])
    assert "other settings" in row((there / "out" / "table.md").read_text(), "teacher, 4 steps")


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("stage vcm: lcm\n\rvcm 269/500 39:19", "it was stopped"),
        ("warned\nerror: no teacher\n", "no teacher"),
        ("Traceback\ntorch.OutOfMemoryError: too large\n", "torch.OutOfMemoryError: too large"),
    ],
)
def test_why_a_row_did_not_run_is_read_from_what_it_said_last(file, log, told):
    job = find(load_ablation(file), "one network", 0)
    job.folder.mkdir(parents=True)
    (job.folder / "log.txt").write_text(log)
    assert job.why_not() == told


def test_networks_are_asked_where_they_are():
    seen = []

    def model(x, sigma):
        seen.extend([x.device.type, sigma.device.type])
        return torch.ones(1)

    found = ablated.at_home(model, torch.device("meta"))(torch.zeros(1), torch.zeros(1))
    assert (seen, found.device.type) == (["meta", "meta"], "cpu")


def test_no_row_is_begun_when_the_time_is_over(file, in_process, tmp_path):
    ablate.main(["--config", str(file), "--hours", "-1"])
    assert not in_process
    assert row((tmp_path / "out" / "table.md").read_text(), "+OD").endswith("did not run: no time |")


def test_what_a_row_refers_to_has_to_be_there(file):
    file.write_text(file.read_text().replace("trained: one network", "trained: another"))
    with pytest.raises(ConfigError, match="no row 'another'"):
        load_ablation(file)
    file.write_text(file.read_text().replace("trained: another", "traind: x"))
    with pytest.raises(ConfigError, match="traind"):
        load_ablation(file)


def test_the_pair_is_sampled_with_each_network_on_its_side(file, monkeypatch):
    job = find(load_ablation(file), "+OD", 0)
    ablated.train(job)
    asked, an_entrant = [], Entrant("", 1, 1.0, lambda noise, captions: noise)
    monkeypatch.setattr(ablated, "compare", lambda *_, **__: [None, None])
    monkeypatch.setattr(ablated.Entrant, "of", lambda name, model, *_, **__: asked.append(model()) or an_entrant)
    with pytest.raises(AttributeError, match="numbers"):
        ablated.measure(job)
    _, model = asked
    x, text = torch.randn(1, *LATENT_SHAPE), encode_text(["a red plain circle moving left fast"])
    trainers = {
        stage: ablated.build_trainer(load_config(job.write_config()).of_stage(stage)) for stage in ("high", "low")
    }
    for stage, level in (("high", 1.0), ("low", 0.3)):
        trainers[stage].load()
        alone = trainers[stage].method.student_alone(ablated.Conditions(text))
        with torch.no_grad():
            torch.testing.assert_close(model(x, torch.tensor([level]), text), alone(x, torch.tensor([level])))


def test_renoised_steps_land_on_fresh_noise_at_the_next_level():
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    clean, x = torch.full((1, 2), 3.0), torch.randn(1, 2)
    states = []

    def exact(x, sigma):
        return (x - clean) / sigma.view(-1, 1)

    stepping = ablated.renoised(exact, sigmas, torch.Generator().manual_seed(5))
    euler(stepping, x, sigmas, lambda step, state, _: states.append(state))
    noise = torch.randn(1, 2, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(states[0], 0.5 * clean + 0.5 * noise)
    torch.testing.assert_close(states[1], clean)


def test_the_shipped_rows_stand_in_the_order_of_the_question(tmp_path):
    ablation = load_ablation(SHIPPED)
    titles = [block.title for block in ablation.blocks]
    assert titles[0].startswith("Objectives") and titles[1].startswith("Kappa") and len(titles) == 3
    assert [len(block.seeds) for block in ablation.blocks] == [3, 1, 1]
    trained = [job for job in jobs(ablation) if job.row.stages]
    assert {job.samples() for job in trained} == {8000}, "all rows are trained on as many clips"
    for job in trained:
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps(job.config()))
        check(load_config(path))
    ablation.output = str(tmp_path)
    assert "the networks of Shapes are told no guidance" in write_table(ablation).read_text()


def test_rows_of_all_seeds_learn_from_the_same_paths(tmp_path, monkeypatch):
    """Also where those of the first seed have run: paths are refused that were begun with another seed."""
    values = yaml.safe_load(SHIPPED.read_text())
    values["output"] = str(tmp_path)
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(values))
    begun = []

    class Process:
        def __init__(self, command, **options):
            at = command.index("--config") + 1
            begun.append(load_config(command[at], [each for each in command[at + 1 :] if "=" in each]).seed)

        def wait(self):
            return 0

    monkeypatch.setattr(ablate.subprocess, "Popen", Process)
    ablation = load_ablation(tmp_path / "rows.yaml")
    for seed in (0, 2):
        ablate.make_paths([find(ablation, "trajectory, pair", seed)], SimpleNamespace(at_once=1))
    assert begun == [0, 0]
