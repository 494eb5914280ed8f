"""Runs of tests/nodes inside the hosts' own Pythons, one host after the other, beside the other tests of a session."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from .hosts import TESTS, Host, host_environment
from .workers import in_worker, runs_in_host

NODES = TESTS / "nodes"
# Tests that compare with what diffusers and peft compute, which the host's Python does not have.
WITH_REFERENCE = ("test_published.py", "backbone/test_load.py", "backbone/test_cogvideox_reference.py")
OUTPUT = "output"  # beside the tests, where not all ran: what was printed

Outcomes = dict[str, list]  # `folder/file.py::function` -> the outcome of each of its variants


class NodeRuns:
    """Each begun when its first outcome is asked for, or before, so that a second core has it done by then."""

    def __init__(self, folder: Path, wanted: dict[Host, list[str]]):
        self.folder, self.wanted, self.process, self.stopped = folder, wanted, None, False
        self.pool = ThreadPoolExecutor(1)
        self.runs: dict[Host, Future[Outcomes]] = {}

    def begin(self, host: Host) -> Future[Outcomes]:
        if host not in self.runs:
            self.runs[host] = self.pool.submit(self._outcomes, host, self.wanted[host])
        return self.runs[host]

    def outcomes(self, host: Host) -> Outcomes:
        return self.begin(host).result()

    def stop(self) -> None:
        """Ends what still runs: the session has."""
        self.stopped = True
        if self.process is not None:
            self.process.kill()
        self.pool.shutdown(cancel_futures=True)

    def _outcomes(self, host: Host, names: list[str]) -> Outcomes:
        base, report = self.folder / host.version / "base", self.folder / host.version / "report.xml"
        for name in ("models", "custom_nodes", "input", "output", "user"):
            (base / name).mkdir(parents=True)
        environment = {"DCM_TEST_BASE": str(base)}
        if any(name.startswith(WITH_REFERENCE) for name in names):
            environment["DCM_TEST_REFERENCE"] = str(self._reference())
        pytest_in_host = ["-m", "pytest", "-c", NODES / "pytest.ini", "--rootdir", NODES, "--confcutdir", NODES]
        command = [host.python, *pytest_in_host, "--junitxml", report, *(NODES / name for name in names)]
        _, output = self._run(command, cwd=host.folder, env=host.environment() | environment)
        assert report.exists(), output
        found: Outcomes = {}
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname').replace('.', '/')}.py::{case.get('name').split('[')[0]}"
            found.setdefault(name, []).append(case)
        if not found or any(case.find("error") is not None for cases in found.values() for case in cases):
            found[OUTPUT] = [output]
        return found

    def _reference(self) -> Path:
        """What tests/reference writes, once: bundles, and what the published code computes with them."""
        folder = self.folder / "reference"
        if not folder.exists():
            command = [sys.executable, "-m", "reference.write", folder]
            code, output = self._run(command, env=host_environment() | {"PYTHONPATH": str(TESTS)})
            assert code == 0, output
        return folder

    def _run(self, command: list, **settings) -> tuple[int, str]:
        """The exit status, and what was printed."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen([str(part) for part in command], text=True, **pipes, **settings) as self.process:
            if self.stopped:
                self.process.kill()
            output, _ = self.process.communicate(timeout=1800)
        return self.process.returncode, output


@pytest.fixture(scope="session", autouse=True)
def node_runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeRuns]:
    """Of what this session has selected. One of several processes begins none ahead: another may be given it."""
    wanted: dict[Host, set[str]] = {}
    for params in (item.callspec.params for item in request.session.items if runs_in_host(item.nodeid)):
        if (host := params["host"]) and host.python:
            wanted.setdefault(host, set()).add(params["node_test"])
    runs = NodeRuns(tmp_path_factory.mktemp("nodes"), {host: sorted(names) for host, names in wanted.items()})
    for host in [] if in_worker(request.config) else wanted:
        runs.begin(host)
    yield runs
    runs.stop()
