"""Experts that were trained for the noise levels of one number of steps say so in their files."""

import json

import pytest
import torch
from harness.experts import expert, metadata
from harness.schedules import EVERY, HY, OFFICIAL

from dcm_core.expert.by_steps import by_steps
from dcm_core.expert.file import load_expert, metadata_of, save_expert
from dcm_core.expert.metadata import ExpertMetadata


@pytest.mark.parametrize("steps", [1, 2, 4, 5])
@pytest.mark.parametrize("schedule", EVERY, ids=lambda schedule: f"{schedule.switch.rule}-{schedule.kappa_index}")
def test_the_number_and_its_levels_are_written_and_read(schedule, steps):
    header = metadata(schedule=schedule, trained_steps=steps).to_header()
    assert header["dcm.trained_steps"] == str(steps)
    levels = torch.tensor([*json.loads(header[f"dcm.sigmas.{steps}"]), 0.0])
    assert torch.equal(levels, schedule.sigmas(steps))
    assert {key for key in header if key.startswith("dcm.sigmas.")} == {
        f"dcm.sigmas.{each}" for each in {steps, *schedule.lists}
    }
    again = ExpertMetadata.from_header(header)
    assert again.trained_steps == steps and torch.equal(again.trained_sigmas, levels)
    assert again.to_header() == header


def test_files_without_the_field_are_as_they_were(tmp_path):
    save_expert(tmp_path / "e.safetensors", expert(schedule=HY))
    made = metadata_of(tmp_path / "e.safetensors")
    assert made.trained_steps is None and made.trained_sigmas is None
    header = made.to_header()
    assert "dcm.trained_steps" not in header and {"dcm.sigmas.4", "dcm.sigmas.8"} <= header.keys()


@pytest.mark.parametrize("schedule", [HY, OFFICIAL["wan"]], ids=["aligned", "official"])
def test_a_reader_that_does_not_know_the_field_keeps_it(schedule):
    """It takes the field for one of a newer minor version, and the list beside it for what it computes itself."""
    header = metadata(schedule=schedule, trained_steps=2).to_header()
    unknown = {"dcm.newer" if key == "dcm.trained_steps" else key: value for key, value in header.items()}
    read = ExpertMetadata.from_header(unknown)
    assert torch.equal(read.schedule.sigmas(2), schedule.sigmas(2))
    written = read.to_header()
    assert written["dcm.newer"] == "2" and written["dcm.sigmas.2"] == header["dcm.sigmas.2"]


def test_pairs_are_found_by_their_number_of_steps(tmp_path):
    paths = []

    def put(kind, steps):
        paths.append(tmp_path / f"{len(paths)}.safetensors")
        save_expert(paths[-1], expert(expert=kind, trained_steps=steps))
        return paths[-1]

    any_semantic, any_detail = put("semantic", None), put("detail", None)
    assert by_steps(paths) == {4: {"semantic": any_semantic, "detail": any_detail}}
    two = {kind: put(kind, 2) for kind in ("detail", "semantic")}
    put("detail", 1)
    put("semantic", 8)
    assert by_steps(paths) == {2: two, 4: {"semantic": any_semantic, "detail": any_detail}}
    four = {kind: put(kind, 4) for kind in ("semantic", "detail")}
    one = put("semantic", 1)
    pairs = by_steps(paths)
    assert list(pairs) == [1, 2, 4] and pairs[4] == four and pairs[1]["semantic"] == one
    assert load_expert(pairs[2]["detail"]).metadata.trained_steps == 2
    assert by_steps([one]) == {1: {"semantic": one}}, "one step is the semantic expert's alone"
