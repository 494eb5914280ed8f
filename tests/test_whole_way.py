"""Videos or prompts in, latents out: prepared, trained, exported, and sampled by the nodes as the trainer samples."""

import json

import pytest
import torch
from harness.hosts import Host
from harness.whole_way import Way, walk
from safetensors.torch import load_file, save_file

from dcm_core.backbone.file import BackboneFile
from dcm_core.expert.file import load_expert

TOLERANCE = 1e-4
WAYS = {
    "wan full": ("wan", "full", False),
    "wan adapter": ("wan", "adapter", False),
    "wan full from prompts": ("wan", "full", True),
    "wan adapter from prompts": ("wan", "adapter", True),
    **{
        f"{name} {mode}": (name, mode, False) for name in ("hunyuan_video", "cogvideox") for mode in ("full", "adapter")
    },
    "wan i2v full": ("wan i2v", "full", False),
    "wan i2v adapter from prompts": ("wan i2v", "adapter", True),
    "wan 2.2 i2v full": ("wan 2.2 i2v", "full", False),
    **{f"{name} full from prompts": (name, "full", True) for name in ("hunyuan_video", "cogvideox")},
    "wan pair full": ("wan pair", "full", False),
    "wan pair adapter": ("wan pair", "adapter", False),
    "wan pair adapter from prompts": ("wan pair", "adapter", True),
    **{
        f"{name} every linear whole": (name, "full", name == "wan", "whole")
        for name in ("wan", "wan pair", "hunyuan_video", "cogvideox")
    },
}
QUICK = ("wan full", "wan adapter from prompts")


@pytest.fixture(scope="module")
def walked() -> dict[str, Way]:
    """The ways that were walked already: each serves all hosts."""
    return {}


@pytest.fixture(params=[pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in WAYS])
def way(request, walked, tmp_path_factory) -> Way:
    """A walked way."""
    name = request.param
    if name not in walked:
        walked[name] = walk(tmp_path_factory.mktemp("way"), *WAYS[name])
    return walked[name]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_the_experts_fit_the_backbone_and_each_other(way):
    with BackboneFile.open(way.weights("semantic")) as file:
        report = file.check_fit(load_expert(way.expert("semantic")))
    assert not report.missing and not report.warnings
    method = way.method()
    network = method.backbone.load(way.weights("detail"))
    if not way.kind.pair:
        method.backbone.apply(network, load_expert(way.expert("semantic")))
    save_file(method.backbone.comfy_state(network), way.folder / "below.safetensors")
    with BackboneFile.open(way.folder / "below.safetensors") as file:
        report = file.check_fit(load_expert(way.expert("detail")))
    assert not report.missing and not report.warnings


def test_the_jump_error_falls_below_that_of_the_untrained_student(way):
    """For the experts that are trained on the teacher's paths; the published objective takes more than two steps."""
    if not way.prompts_alone:
        pytest.skip("not trained on paths")
    for stage in ("semantic", "detail"):
        lines = (way.folder / "run" / stage / "log.jsonl").read_text().splitlines()
        errors = [each["jump_error/mean"] for each in map(json.loads, lines) if "jump_error/mean" in each]
        assert errors[-1] < 0.98 * errors[0], errors


def test_the_nodes_sample_what_the_trainer_samples(way, host: Host):
    if way.kind.family == "cogvideox" and not (host.folder / "comfy" / "ldm" / "cogvideo").exists():
        pytest.skip(f"this ComfyUI has no {way.kind.family}")
    done = host.run("-m", "harness.sampled_by_nodes", str(way.folder), DCM_TEST_BASE=str(way.folder))
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stdout, done.stdout
    expected, found = load_file(way.folder / "expected.safetensors"), load_file(way.folder / "found.safetensors")
    assert relative(found["latents"], expected["latents"]) <= TOLERANCE
    assert relative(expected["semantic_alone"], expected["latents"]) > 100 * TOLERANCE
