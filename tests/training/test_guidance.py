"""The two scales of guidance: of the targets, and the one that a network is told."""

from dataclasses import replace

import pytest

from dcm_core.expert.file import load_expert
from dcm_core.families.presets import FAMILIES, find_family
from dcm_core.files.format import read_header
from training.config import ConfigError


def test_an_embedded_guidance_is_written_under_its_own_name(trainer, tmp_path, monkeypatch):
    """For networks that are told a scale: two things, the scale of the targets and the one they are told."""
    family = replace(find_family("shapes"), embedded_guidance=True)
    monkeypatch.setitem(FAMILIES, "shapes", family)
    for stage in ("semantic", "detail"):
        with pytest.raises(ConfigError, match=f"stages.{stage}.options.embedded_guidance is missing"):
            trainer(stage)
        with pytest.raises(ConfigError, match=f"stages.{stage}.options.guidance is missing: .* would be guided twice"):
            trainer(stage, {"embedded_guidance": 6.0})
        trainer(stage, {"guidance": 1.0, "embedded_guidance": 6.0}, iterations=1).run()
        metadata = load_expert(tmp_path / stage / f"{stage}.safetensors").metadata
        assert (metadata.guidance, metadata.embedded_guidance) == (1.0, 6.0)


def test_networks_that_are_told_no_guidance_refuse_one(trainer, tmp_path):
    with pytest.raises(ConfigError, match="stages.semantic.options.embedded_guidance=6: .* are told none; leave it"):
        trainer("semantic", {"embedded_guidance": 6.0})
    trainer("semantic", iterations=1).run()
    file = tmp_path / "semantic" / "semantic.safetensors"
    assert load_expert(file).metadata.embedded_guidance is None
    assert "dcm.embedded_guidance" not in read_header(file).metadata
