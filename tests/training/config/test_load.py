"""Numbers and words, from a file and back."""

import pytest

from training.config import load_config, to_yaml

TEXT = """
output: runs
backbone: {title: "1e5", architecture: {eps: 1e-6, names: 1e, patch: 2}}
stages: {teacher: {method: teacher, iterations: 3, optimizer: {lr: 1e-5}}}
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.yaml").write_text(TEXT)
    return load_config(tmp_path / "config.yaml")


def test_a_number_without_a_point_is_a_number_wherever_it_stands(config):
    assert config.stages["teacher"].optimizer.lr == 1e-5
    assert config.backbone.architecture == {"eps": 1e-6, "names": "1e", "patch": 2}


def test_a_word_that_looks_like_a_number_survives_a_round_trip(config, tmp_path):
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config
    assert config.backbone.title == "1e5"
