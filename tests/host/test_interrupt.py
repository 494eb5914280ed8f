"""The Stop button in the middle of either expert's step leaves the loaded backbone as it was."""

import pytest
from safetensors.torch import load

STEPS = 4
SEMANTIC_STEP, DETAIL_STEP = 1, 4


def prompt_of(checkpoints: dict[str, str], run: int, pause_at: int | None) -> dict:
    """Samples a tiny Wan: with both experts up to a pause in one step, or, without a pause, the plain backbone."""
    pair = {"semantic_expert": ["semantic", 0], "detail_expert": ["detail", 0]}
    sampling = {"seed": 3, "steps": STEPS, "cfg": 1.0, "positive": ["text", 0], "negative": ["text", 0]}
    sampling["latent_image"] = ["again", 0]
    nodes = {
        "backbone": ("DCMLoadBackbone", {"backbone_name": checkpoints["wan"], "weight_dtype": "default"}),
        "text": ("DCMTestConditioning", {"seed": 1, "channels": 4096}),
        "empty": ("EmptyHunyuanLatentVideo", {"width": 64, "height": 64, "length": 5, "batch_size": 1}),
        "again": ("DCMTestAgain", {"latent": ["empty", 0], "run": run}),
    }
    if pause_at is None:
        plain = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "model": ["backbone", 0]}
        nodes["sampler"] = ("KSampler", sampling | plain)
    else:
        nodes["semantic"] = ("DCMLoadExpert", {"expert_name": checkpoints["wan_semantic"]})
        nodes["detail"] = ("DCMLoadExpert", {"expert_name": checkpoints["wan_detail"]})
        nodes["experts"] = ("DCMApplyExperts", {"model": ["backbone", 0], **pair})
        nodes["pause"] = ("DCMTestPause", {"model": ["experts", 0], "step": pause_at})
        nodes["sampler"] = ("DCMKSampler", sampling | {"model": ["pause", 0]})
    nodes["file"] = ("SaveLatent", {"samples": ["sampler", 0], "filename_prefix": "interrupt"})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


@pytest.mark.parametrize("step", [SEMANTIC_STEP, DETAIL_STEP], ids=["semantic", "detail"])
def test_interrupt_leaves_the_backbone_as_it_was(step, client, checkpoints):
    paused = []

    def stop(kind: str, data: dict) -> None:
        if kind == "dcm_test_pause":
            paused.append(data["step"])
            client.interrupt()

    def plain(run: int):
        done = client.run(prompt_of(checkpoints, run, None))
        assert done.status == "success", done.error
        assert done.progress("sampler"), "the host did not sample again"
        (file,) = done.files("file")
        return load(client.view(file))["latent_tensor"]

    before = plain(10 * step)
    stopped = client.run(prompt_of(checkpoints, 10 * step + 1, step), on_event=stop)
    assert paused == [step]
    assert stopped.status == "interrupted"
    assert plain(10 * step + 2).equal(before)
