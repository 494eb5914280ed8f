"""A small collection of every kind of file, and preparing it with encoders that are nobody's."""

import pytest
from harness.clips import write_collection
from harness.fake_encoder import FakeEncoder

from training.data.buckets import buckets
from training.preparation.run import Settings, prepare
from training.preparation.scan import ClipRules


@pytest.fixture
def collection(tmp_path):
    return write_collection(tmp_path / "videos")


@pytest.fixture
def run(tmp_path):
    """Prepares a collection: ``run(data, encoder, **settings)`` gives the summary; the cache is ``tmp_path/cache``."""

    def run(data, encoder=None, rules=None, **settings):
        encoder = encoder or FakeEncoder()
        rule = encoder.size_rule
        sizes = buckets(rule, [rule.usual.frames, 1], rule.usual.height, rule.usual.width, rule.tokens(rule.usual))
        rules = ClipRules(**({"sizes": sizes, "fps": rule.fps} | (rules or {})))
        values = {"output": tmp_path / "cache", "backbone": "fake", "rules": rules} | settings
        return prepare(Settings(data=data, **values), encoder)

    return run
