"""Rows of the comparison are read from a file: the shipped ones, and what is wrong with others."""

import json

import pytest
import torch

from dcm_core.shapes import weights
from dcm_core.shapes.captions import ALL_ATTRIBUTES
from dcm_core.shapes.network import LATENT_SHAPE
from training import evaluate
from training.errors import ConfigError
from training.shapes.entrants import read_entrants


def written(folder, *rows):
    path = folder / "rows.yaml"
    path.write_text("rows:\n" + "\n".join(f"  - {row}" for row in rows))
    return path


def test_the_shipped_rows_begin_with_their_reference():
    entrants = read_entrants()
    assert [(each.calls, each.guidance) for each in entrants[:2]] == [(100, 3.5), (8, 3.5)]
    assert entrants[-1].calls == 4 and set(entrants[-1].recipe["files"]) == {"teacher", "semantic", "detail"}


def test_experts_are_found_beside_the_file_and_act_where_they_are_asked_to(tmp_path):
    (tmp_path / "my.safetensors").write_bytes(weights.semantic().read_bytes())
    rows = written(
        tmp_path,
        "{name: teacher, steps: 1}",
        "{name: semantic, steps: 1, semantic: my.safetensors}",
        "{name: both, steps: 2, semantic: published, detail: published}",
        "{name: semantic alone, steps: 2, semantic: published, detail: published, alone: semantic}",
        "{name: detail alone, steps: 2, semantic: published, detail: published, alone: detail}",
    )
    noise = torch.randn(1, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0))
    caption = [ALL_ATTRIBUTES[0].caption()]
    teacher, semantic, *pairs = (each.sample(noise, caption) for each in read_entrants(rows))
    assert not torch.equal(teacher, semantic)
    assert len({tuple(each.flatten()[:8].tolist()) for each in pairs}) == 3


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["{name: a, steps: 1}", "{name: a, steps: 2}"], "two rows have the same name"),
        (["{name: a, steps: 1, detail: none.safetensors}"], "Row 'a': there is no detail expert at"),
        (["{name: a, steps: 1, semantic: published, alone: detail}"], "Row 'a': alone is detail, and no detail expert"),
        (["{name: a, steps: 7, semantic: shipped}"], "Row 'a': no semantic expert for 7 steps is shipped"),
        (["{name: a, steps: 0}"], "rows.steps=0 must be"),
        (["{name: a, steps: 1, guidence: 2.0}"], "Did you mean 'guidance'"),
    ],
)
def test_what_is_wrong_with_a_file_of_rows_is_named(tmp_path, rows, told):
    with pytest.raises(ConfigError, match=told):
        read_entrants(written(tmp_path, *rows))


def test_the_command_measures_the_rows_of_a_file(tmp_path, capsys):
    rows = written(tmp_path, "{name: two steps, steps: 2}", "{name: one step, steps: 1}")
    evaluate.main(["--rows", str(rows), "--clips", "2", "--shown", "1", "--output", str(tmp_path), "--html"])
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    first, second = report["rows"]
    assert (first["calls"], second["calls"]) == ("2", "1") and first["distance"]["value"] == 0
    assert {"motion", "diversity", "Frechet", "colour", "motion error", "sharpness"} <= first.keys()
    assert (report["clips"], report["seed"]) == (2, 2025) and len(report["config"]) == 16
    assert len(list((tmp_path / "rows").iterdir())) == 2 and (tmp_path / "ab.html").exists()
    assert "| one step" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="There is no row 'none' to vote on"):
        evaluate.main(["--rows", str(rows), "--clips", "2", "--output", str(tmp_path), "--html", "--ab", "none", "two"])
