"""Tells the outcomes of tests/nodes, which the host's own Python runs, all in one process per host."""

from __future__ import annotations

import ast

import pytest
from harness.hosts import Host
from harness.node_runs import NODES, OUTPUT, NodeRuns


def node_tests() -> list[str]:
    """`folder/file.py::function` of every test function, found without importing files that need the host."""
    names = []
    for file in sorted(NODES.rglob("test_*.py")):
        functions = [node.name for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
        path = file.relative_to(NODES).as_posix()
        names += [f"{path}::{name}" for name in functions if name.startswith("test_")]
    return names


@pytest.mark.parametrize("node_test", node_tests())
def test_node(node_test: str, host: Host, node_runs: NodeRuns) -> None:
    outcomes = node_runs.outcomes(host)
    cases = outcomes.get(node_test)
    assert cases, f"{node_test} did not run:\n{outcomes.get(OUTPUT, [''])[0][-4000:]}"
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    told = [f"{case.get('name')}\n{(case.findtext('failure') or case.findtext('error'))}" for case in bad]
    assert not bad, "\n\n".join(told)
    skipped = [case.find("skipped") for case in cases]
    if all(mark is not None for mark in skipped):
        pytest.skip(skipped[0].get("message"))
