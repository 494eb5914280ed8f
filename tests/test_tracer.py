"""benchmarks/tracer.py on a project of two files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from harness.hosts import ROOT

NODE = """
def node(load, apply):
    return apply([load(name) for name in ("a", "b")])
def kept(call):
    return call()
"""
CORE = """
import contextlib
def load(name):
    return checked(name)
def checked(name):
    return name
def names(numbers):
    for number in numbers:
        yield checked(number)
@contextlib.contextmanager
def acting():
    yield
def apply(numbers):
    with acting():
        return list(names(numbers))
"""


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def project(tmp_path: Path):
    for file, text in (("nodes/node.py", NODE), ("core/core.py", CORE)):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(text, "utf-8")
    tracer = module(ROOT / "benchmarks" / "tracer.py").Tracer(tmp_path, "nodes", "core")
    return tracer, module(tmp_path / "nodes/node.py"), module(tmp_path / "core/core.py")


def test_every_way_into_another_file_is_an_entry_and_once_a_turn(project):
    tracer, node, core = project
    assert tracer.run(lambda: node.node(core.load, core.apply)) == ["a", "b"]
    # node; load and checked twice; apply, acting, names, and checked twice
    assert tracer.counts() == {
        "files": 2,
        "functions": 6,
        "turns": 3,  # into node, node to load, node to apply
        "entries": 4,
        "calls": 10,
        "entered": ["core/core.py", "nodes/node.py"],
        "often": {
            "nodes/node.py node -> core/core.py load": 2,
            "the host -> nodes/node.py node": 1,
            "nodes/node.py node -> core/core.py apply": 1,
        },
    }
    assert sys.getprofile() is None


def test_what_is_not_the_projects_is_looked_through(project):
    tracer, node, core = project
    tracer.run(lambda: core.load(list(map(core.checked, "ab"))))
    assert tracer.counts()["turns"] == 2 and tracer.counts()["entries"] == 3
    tracer.run(lambda: node.kept(lambda: node.kept(str)))  # a call back into the same file is none
    assert tracer.counts()["entries"] == 4


def test_the_end_is_the_first_return_of_a_function(project):
    tracer, node, core = project
    tracer.run(lambda: node.node(core.load, core.apply), until=core.load.__code__)
    assert tracer.counts()["calls"] == 3  # node, load, checked
