"""What is said where values do not fit a section, whatever the section is."""

from typing import Literal

import pytest
from pydantic import Field, ValidationError

from training.config import Config, ConfigError, Count, Pair, Positive, Section, Share, build


class Inner(Section):
    width: Count
    share: Share | None = None


class Made(Section):
    """A section with a setting of every kind."""

    name: str
    inner: Inner = Field(default_factory=lambda: Inner(width=1))
    each: dict[str, Inner] = {}
    words: list[str] = []
    code: str = Field(default="a", min_length=1)
    pair: Pair = (0.5, 0.5)
    on: bool = False
    only: Literal["one"] = "one"
    limit: Positive | Literal["auto"] = "auto"
    free: float = 1.0


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "made needs name."),
        ({"inner": {}}, "made.inner needs width."),
        ({"each": {"a": {}}}, "made.each.a needs width."),
        ({"each": {"a": {"width": 0}}}, "made.each.a.width=0 must be at least 1."),
        ({"each": {"a": 3}}, "made.each.a must be a mapping, not 3."),
        ({"each": {"a": {"widht": 3, "width": 3}}}, "Unknown key 'made.each.a.widht'. Did you mean 'width'?"),
        ({"each": 3}, "made.each must be a mapping, not 3."),
        ({"inner": {"width": 1, "share": 2}}, "made.inner.share=2.0 must be at least 0 and at most 1."),
        ({"zebra": 1}, "Unknown key 'made.zebra'. Known keys: name, inner, each, words,"),
        ({1: 2}, "Unknown key 'made.1'. Known keys:"),
        ({"words": "a"}, "made.words must be a list, not 'a'."),
        ({"words": ["a", 1]}, "made.words must be of type str, not 1."),
        ({"code": ""}, "made.code='': "),
        ({"pair": [0.5]}, "made.pair must be a list of 2, not [0.5]."),
        ({"pair": [0.5, 0.5, 0.5]}, "made.pair must be a list of 2, not [0.5, 0.5, 0.5]."),
        ({"on": 1}, "made.on must be true or false, not 1."),
        ({"only": "two"}, "made.only='two' is unknown; use one."),
        ({"limit": "much"}, "made.limit must be of type float above 0 or 'auto', not 'much'."),
        ({"free": float("inf")}, "made.free=inf must be a finite number."),
        ({"free": True}, "made.free must be of type float, not True."),
        (3, "made must be a mapping, not 3."),
    ],
)
def test_every_kind_of_wrong_value_is_told_in_a_sentence(values, message):
    with pytest.raises(ConfigError) as wrong:
        build(Made, values, "made")
    assert any(line.startswith(message) for line in str(wrong.value).splitlines()), str(wrong.value)
    assert not isinstance(wrong.value, ValidationError)


def test_all_that_is_wrong_is_named_at_once_a_line_each():
    stage = {"method": "teacher", "iterations": 0, "optimizer": {"lr": -1, "betas": [1, 2]}}
    with pytest.raises(ConfigError) as wrong:
        build(Config, {"sed": 1, "stages": {"teacher": stage}, "data": {"batch_size": "many"}})
    assert sorted(str(wrong.value).splitlines()) == [
        "Unknown key 'sed'. Did you mean 'seed'?",
        "data.batch_size must be of type int, not 'many'.",
        "stages.teacher.iterations=0 must be at least 1.",
        "stages.teacher.optimizer.betas=1.0 must be at least 0 and below 1.",
        "stages.teacher.optimizer.betas=2.0 must be at least 0 and below 1.",
        "stages.teacher.optimizer.lr=-1.0 must be above 0.",
        "the configuration needs output.",
    ]


def test_contradictions_between_sections_are_named_at_once():
    stages = {"teacher": {"method": "teacher", "iterations": 1, "data": {"batchsize": 2}}}
    values = {"output": "x", "stage": "techer", "stages": stages, "validation": {"steps": 51}}
    with pytest.raises(ConfigError) as wrong:
        build(Config, values)
    assert str(wrong.value).splitlines() == [
        "stage='techer' is unknown; use teacher.",
        "Unknown key 'stages.teacher.data.batchsize'. Did you mean 'batch_size'?",
        "validation.steps=51 must be at most the 50 points of the grid.",
    ]
