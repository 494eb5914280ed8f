"""Running a measurement in the newest ComfyUI found, and writing down what it was measured on."""

import json
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]  # where the project is not installed

from harness.hosts import Host, find_hosts  # noqa: E402


def newest_host() -> Host:
    """Of those that have an environment. Leaves with a word if there is none."""
    hosts = [host for host in find_hosts() if host.python]
    if not hosts:
        raise SystemExit("no ComfyUI found that can be run: set COMFYUI_PATH and run `make hosts`")
    return max(hosts, key=lambda host: [int(number) for number in re.findall(r"\d+", host.version)])


def machine() -> str:
    """The machine in words. Asked before the measurement, for its load average."""
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{platform.machine()}, {os.cpu_count()} CPU cores{load}"


def measured_in(host: Host, script: str, *arguments: str) -> dict:
    """The JSON object that a script of this folder prints as its last line, run by the host's Python."""
    done = host.run(str(HERE / script), *arguments, timeout=7200)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def write_results(name: str, record: dict, as_markdown: Callable[[dict], str]) -> None:
    """results/<name>.json and .md; the latter is printed too."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (results / f"{name}.md").write_text(as_markdown(record), encoding="utf-8")
    print(as_markdown(record))
