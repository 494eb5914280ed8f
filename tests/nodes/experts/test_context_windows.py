"""The host's context windows, and the control videos of VACE, over a MODEL with experts."""

from dataclasses import replace

import comfy.ops
import pytest
import torch
from comfy.ldm.wan.model import VaceWanModel
from comfy_extras.nodes_context_windows import ContextWindowsManualNode, WanContextWindowsManualNode
from harness.random_weights import randomise
from harness.worlds import SHAPE, World, assert_same, relative, world

LONG = {"samples": torch.zeros(1, 16, 9, 8, 8)}
WINDOWS = {
    "context_schedule": "standard_static",
    "context_stride": 1,
    "closed_loop": False,
    "fuse_method": "pyramid",
}


def windowed(node, model):
    sizes = {"context_length": 21, "context_overlap": 8}  # frames of the video
    if node is ContextWindowsManualNode:
        sizes = {"context_length": 6, "context_overlap": 2, "dim": 2}  # of the latents
    if "freenoise" in {each.id for each in node.define_schema().inputs}:
        sizes["freenoise"] = False
    return node.execute(model, **sizes, **WINDOWS).args[0]


@pytest.mark.parametrize("family", ["wan", "hunyuan_video"])
@pytest.mark.parametrize("node", [ContextWindowsManualNode, WanContextWindowsManualNode])
@pytest.mark.parametrize("order", ["before", "after"])
def test_windows(family, node, order):
    """Every window of a step is the same expert's."""
    this = world(family)
    model = this.applied(windowed(node, this.model())) if order == "before" else windowed(node, this.applied())
    result = this.sampled(model, latent=LONG)
    expected = this.in_two_runs(*(windowed(node, each) for each in this.baked()), latent=LONG)
    assert_same(result, expected, this.sampled(windowed(node, this.baked()[0]), latent=LONG), 1e-4)
    assert relative(this.sampled(this.applied(), latent=LONG), result) > 1e-2, "the windows do nothing"


class ControlledWorld(World):
    """Over VACE: a frozen Wan with blocks of its own beside it, which read a control video from the conditioning."""

    def text(self, seed: int = 0) -> list:
        frames = torch.randn(1, 32, *SHAPE[2:], generator=torch.Generator().manual_seed(1))
        control = {
            "vace_frames": [frames],
            "vace_mask": [torch.ones(1, 64, *SHAPE[2:])],
            "vace_strength": [1.0],
        }
        return [[text, options | control] for text, options in super().text(seed)]


def test_vace_takes_experts_of_its_backbone():
    plain = world("wan")
    sizes = {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2, "vace_layers": 1, "vace_in_dim": 96}
    network = VaceWanModel(**sizes, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    network = randomise(network, seed=5).requires_grad_(False)
    network.load_state_dict(plain.network.state_dict(), strict=False)
    this = ControlledWorld("wan", network, plain.semantic, plain.detail)
    experts = this.applied()
    result = this.sampled(experts)
    assert_same(result, this.in_two_runs(*this.baked(experts)), this.without_detail(), 1e-4)
    uncontrolled = World("wan", network, plain.semantic, plain.detail)
    assert relative(uncontrolled.sampled(experts), result) > 1e-2, "the control video does nothing"
    metadata = replace(this.detail.metadata, base_fingerprint="wan:0:0")
    with pytest.raises(ValueError, match="other layers"):
        replace(this, detail=replace(this.detail, metadata=metadata)).applied()
