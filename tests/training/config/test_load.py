"""Numbers and words, from a file and back."""

import pytest

from training.config import ConfigError, load_config, to_yaml

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


@pytest.mark.parametrize("twice", ["seed: 1\nseed: 2\n", "data: {batch_size: 1, batch_size: 2}\n"])
def test_a_key_that_comes_twice_is_an_error(tmp_path, twice):
    """YAML readers take the last one: a second `stages` would drop those of the first without a word."""
    (tmp_path / "config.yaml").write_text(TEXT + twice)
    with pytest.raises(ConfigError, match="'(seed|batch_size)' comes twice"):
        load_config(tmp_path / "config.yaml")


def test_what_is_merged_into_a_mapping_may_be_overridden_there(tmp_path):
    merged = "card: {<<: {licence: mit, data: mine}, licence: apache-2.0}\n"
    (tmp_path / "config.yaml").write_text(TEXT + merged)
    assert load_config(tmp_path / "config.yaml").card.licence == "apache-2.0"
