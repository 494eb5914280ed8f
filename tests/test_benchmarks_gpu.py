"""benchmarks/gpu.py with tiny networks on the CPU, and what train_gpu.py makes of its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.fixtures import NO_HOST
from harness.hosts import ROOT, Host, find_hosts

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402
import gpu_goals  # noqa: E402
import gpu_in_host  # noqa: E402
import train_gpu  # noqa: E402

ABOUT = {"memory": 80.0, "comfyui": "0", "torch": "2", "driver": "1"}


@pytest.mark.skipif(not any(host.python for host in find_hosts()), reason=NO_HOST)
def test_a_part_is_measured_in_the_host_and_not_again_by_a_rerun(tmp_path):
    assert "wan1.3b experts" in small(tmp_path)
    written = (tmp_path / "gpu_small.json").read_text("utf-8")
    row = json.loads(written)["parts"]["wan1.3b"]["experts"]
    assert row["complete"]
    assert {"semantic", "detail", "ratio", "run", "stock", "overhead", "load_cold", "load_warm"} <= row.keys()
    assert "wan1.3b experts" not in small(tmp_path)
    assert (tmp_path / "gpu_small.json").read_text("utf-8") == written
    assert "| wan1.3b | experts | " in (tmp_path / "gpu_small.md").read_text("utf-8")


def small(folder: Path) -> str:
    arguments = ["--small", "--parts", "wan1.3b", "--variants", "experts", "--results", str(folder)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_part_that_fails_is_recorded_and_tried_again(tmp_path):
    nothing = Host(tmp_path, "0", Path(sys.executable))  # no ComfyUI there
    results = gpu.Results(tmp_path, "small", ABOUT)
    part = gpu.small(gpu.PARTS["wan1.3b"])
    gpu.measure({"wan1.3b": part}, ["experts", "merged"], nothing, results, time.monotonic() + 100, on_cpu=True)
    rows = json.loads(results.path.read_text("utf-8"))["parts"]["wan1.3b"]
    assert [*rows] == ["experts", "merged"]
    assert all("No module named 'comfy'" in row["failed"] for row in rows.values())
    assert not gpu.Results(tmp_path, "small", ABOUT).settled("wan1.3b", "experts")
    assert "No module named 'comfy'" in gpu_goals.as_markdown(results.record)


def test_after_a_variant_that_failed_the_next_one_loads_anew(tmp_path, monkeypatch, capsys):
    class Part:
        experts = "loaded"

        def __init__(self, *_):
            print("loaded")

        def unload(self):
            pass

    def fails(part):
        part.experts = None
        raise ValueError("half of it is gone")

    def runs(part):
        assert part.experts

    monkeypatch.setattr(gpu_in_host, "start_host", lambda options: None)
    monkeypatch.setattr(gpu_in_host, "Part", Part)
    monkeypatch.setattr(gpu_in_host, "VARIANTS", {"experts": fails, "merged": runs, "guided": runs})
    gpu_in_host.main("experts,merged,guided", "{}", str(tmp_path))
    said = capsys.readouterr().out
    assert said.count("half of it is gone") == 1 and said.count('"complete": true') == 2
    assert said.count("loaded") == 2, "what did not fail is not loaded anew"


def test_what_does_not_fit_stays_for_these_versions_alone(tmp_path):
    results = gpu.Results(tmp_path, "NVIDIA H100 80GB HBM3", ABOUT)
    results.begin("wan14b", "merged")
    results.add("wan14b", "merged", {"failed": "does not fit: CUDA out of memory"})
    assert results.path.name == "gpu_NVIDIA_H100_80GB_HBM3.json"
    assert gpu.Results(tmp_path, "NVIDIA H100 80GB HBM3", ABOUT).settled("wan14b", "merged")
    newer = gpu.Results(tmp_path, "NVIDIA H100 80GB HBM3", ABOUT | {"torch": "3"})
    assert not newer.settled("wan14b", "merged")


def test_goals_are_met_missed_or_not_measured():
    rows = {"experts": {"versions": {}, "ratio": 1.005, "overhead": 1.2, "complete": True}}
    text = gpu_goals.as_markdown({"card": "NVIDIA H200", "parts": {"wan1.3b": rows}})
    assert "| detail / semantic step | wan1.3b | <= 1.01 | 1.005 | met |" in text
    assert "| DCM KSampler / SamplerCustom | wan1.3b | <= 1.005 | 1.2 | missed |" in text
    assert "| detail / semantic step | wan14b | <= 1.01 |  | not measured |" in text
    assert "note" not in text and "* wan1.3b, experts: by hand" in gpu_goals.as_markdown(
        {"card": "NVIDIA H200", "parts": {"wan1.3b": {"experts": rows["experts"] | {"note": "by hand"}}}}
    )
    other = gpu_goals.as_markdown({"card": "NVIDIA L4", "parts": {"wan1.3b": rows}})
    assert "| met |" not in other and "| missed |" not in other


def test_a_smaller_card_is_what_is_kept_away_from_the_host():
    assert gpu.host_options("12 GB", 80.0, on_cpu=False) == ["--reserve-vram", "68.00"]
    assert gpu.host_options("experts", 80.0, on_cpu=True) == ["--cpu"]
    assert gpu.host_options("no VRAM", 80.0, on_cpu=False) == ["--novram", "--disable-dynamic-vram"]


def test_iterations_that_another_pytorch_measured_are_not_said_to_be_this_ones(tmp_path):
    file, row = tmp_path / "train.json", {"wan1.3b_full": {"failed": "no"}}
    file.write_text(json.dumps({"card": "NVIDIA H200", "torch": "2", "rows": row}))
    assert train_gpu.record_at(file, {"card": "NVIDIA H200", "torch": "2"})["rows"] == row
    assert train_gpu.record_at(file, {"card": "NVIDIA H200", "torch": "3"}) == {
        "card": "NVIDIA H200",
        "torch": "3",
        "rows": {},
    }


@pytest.mark.parametrize(("card", "share"), [("NVIDIA H200", "50%"), ("NVIDIA L4", "not known")])
def test_the_share_of_a_peak_is_that_cards(card, share):
    found = {"iteration": 2.0, "flop": 989e12, "peak": 2**30, "estimate": 2**30}
    rows = {"wan1.3b_full": {"semantic": found, "detail": found}}
    text = "\n".join(train_gpu.table({"card": card, "torch": "2", "rows": rows}))
    assert text.count(f"| 494 | {share} | >= 50% |") == 2
