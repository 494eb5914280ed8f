"""Runs tests/nodes with the host's own Python, all in one process per host, each reported here."""

from __future__ import annotations

import ast
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from harness.hosts import TESTS, Host, host_environment

NODES = TESTS / "nodes"
# Tests that compare with what diffusers and peft compute, which the host's Python does not have.
WITH_REFERENCE = ("test_published.py", "backbone/test_load.py", "backbone/test_cogvideox_reference.py")


def node_tests() -> list[str]:
    """`folder/file.py::function` of every test function, found without importing files that need the host."""
    names = []
    for file in sorted(NODES.rglob("test_*.py")):
        functions = [node.name for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
        path = file.relative_to(NODES).as_posix()
        names += [f"{path}::{name}" for name in functions if name.startswith("test_")]
    return names


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests/reference writes: bundles, and what the published code computes with them."""
    folder = tmp_path_factory.mktemp("reference")
    environment = host_environment() | {"PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "reference.write", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def outcomes(host: Host, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Runs what this session has selected. `folder/file.py::function` -> the outcome of each of its variants."""
    chosen = [
        item.callspec.params for item in request.session.items if "node_test" in getattr(item, "fixturenames", [])
    ]
    wanted = sorted({params["node_test"] for params in chosen if params["host"] == host})
    folder = tmp_path_factory.mktemp("nodes")
    for name in ("models", "custom_nodes", "input", "output", "user"):
        (folder / "base" / name).mkdir(parents=True)
    report = folder / "report.xml"
    environment = {"DCM_TEST_BASE": str(folder / "base")}
    if any(name.startswith(WITH_REFERENCE) for name in wanted):
        environment["DCM_TEST_REFERENCE"] = str(request.getfixturevalue("reference"))
    done = host.run(
        *(
            "-m",
            "pytest",
            "-c",
            str(NODES / "pytest.ini"),
            "--rootdir",
            str(NODES),
            "--confcutdir",
            str(NODES),
        ),
        *("--junitxml", str(report), *(str(NODES / name) for name in wanted)),
        timeout=1200,
        **environment,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname').replace('.', '/')}.py::{case.get('name').split('[')[0]}"
        found.setdefault(name, []).append(case)
    if not found or any(case.find("error") is not None for cases in found.values() for case in cases):
        found["output"] = [done.stdout + done.stderr]
    return found


@pytest.mark.parametrize("node_test", node_tests())
def test_node(node_test: str, outcomes: dict[str, list]) -> None:
    cases = outcomes.get(node_test)
    assert cases, f"{node_test} did not run:\n{outcomes.get('output', [''])[0][-4000:]}"
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    told = [f"{case.get('name')}\n{(case.findtext('failure') or case.findtext('error'))}" for case in bad]
    assert not bad, "\n\n".join(told)
    skipped = [case.find("skipped") for case in cases]
    if all(mark is not None for mark in skipped):
        pytest.skip(skipped[0].get("message"))
