"""Everything a run on a GPU does, to the exported file, where tensors of two devices cannot meet."""

import pytest
import torch
from harness.two_devices import CPU, GPU, two_devices

from dcm_core.files.format import read_header
from training.config import ConfigError
from training.run.world import usable_device

STAGES = ["teacher", "semantic", "detail", "lcm", "pcm"]
PROMPTS = ["a red striped circle moving left fast", "a blue plain square moving up slowly"]
EVERYTHING = {"device": "cuda", "ema_decay": 0.9, "validation": {"every": 1, "prompts": PROMPTS, "steps": 2}}


@pytest.fixture
def gpu(trained, monkeypatch):
    with two_devices(monkeypatch) as mode:
        yield mode


def options(stage: str) -> dict:
    return {} if stage == "teacher" else {"target_ema": 0.9} | ({"real": "data"} if stage == "detail" else {})


@pytest.mark.parametrize("stage", STAGES)
def test_a_gpu_run_reaches_the_exported_file_also_after_a_resume(trainer, gpu, stage):
    first = trainer(stage, options(stage), iterations=1, **EVERYTHING)
    assert {p.device for p in first.method.student.network.parameters()} == {GPU}
    first.run()
    second = trainer(stage, options(stage), iterations=2, **EVERYTHING)
    second.run()
    assert second.iteration == 2 and read_header(second.folder / f"{stage}.safetensors").tensors
    assert {value.device for value in second.method.averages["student"].values.values()} == {GPU}


def test_a_teacher_that_stayed_behind_is_noticed_when_the_semantic_stage_trains(trainer, gpu):
    run = trainer("semantic", iterations=1, device="cuda")
    run.method.teacher.network.to("cpu")
    with pytest.raises(RuntimeError, match="at least two devices"):
        run.run()


@pytest.mark.parametrize("mode", ["full", "adapter"])
def test_a_target_at_home_in_main_memory_follows_the_student_and_is_asked_as_it_is(trainer, gpu, monkeypatch, mode):
    """compute.offload with target_ema: what a checkpoint or the average puts into the target reaches its calls."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    compute = {"offload": True, "checkpointing": "full"}
    method = trainer("semantic", {"mode": mode, "target_ema": 0.5}, device="cuda", compute=compute).method
    batch = method.data.batch(method.draws(0)).to(method.device)
    target, sigma = method.model(method.target, batch.conditions), batch.latents.new_full((4,), 0.9)
    with torch.no_grad():
        for p in method.trainable.values():
            p.add_(0.1)
        for _ in range(60):  # until the target is the student
            method.averages["target"].update(0)
        wanted = method.student_alone(batch.conditions)(batch.latents, sigma)
        torch.testing.assert_close(target(batch.latents, sigma), wanted, rtol=1e-4, atol=1e-5)
    where = {value.device for name, value in method.averages["target"].values.items() if "blocks." in name}
    assert where == {CPU}


def test_the_pretended_gpu_refuses_what_a_real_one_refuses(gpu):
    here, there = torch.ones(3), torch.ones(3).to("cuda")
    assert (here.device, there.device, there[1:].device, (2 * there).device) == (CPU, GPU, GPU, GPU)
    layer = torch.nn.Linear(3, 2).to("cuda")
    generator = torch.Generator("cuda").manual_seed(1)
    index = torch.tensor([0])
    refused = [
        lambda: here + there,
        lambda: layer(here),
        lambda: here.lerp_(there, 0.5),
        lambda: here[index.to("cuda")],
        lambda: torch.randn(3, generator=generator),
    ]
    for each in refused:
        with pytest.raises(RuntimeError, match="device"):
            each()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    layer(there).sum().backward()
    allowed = [
        layer.weight.grad,
        there + torch.tensor(2.0),
        there[index],
        torch.randn(3, generator=generator, device="cuda"),
        there.new_full((2,), 1.0),
        here.to(there),
        torch.zeros(3).to("cuda").copy_(here),
    ]
    assert {each.device for each in allowed} == {GPU}
    assert {each.device for each in (there.cpu(), here.copy_(there), torch.zeros(3))} == {CPU}


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_named_with_what_to_do(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device='{name}': PyTorch .* finds no CUDA GPU here. Use device=cpu"):
        usable_device(name)


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "gpu"])
def test_a_device_that_the_trainer_does_not_know_is_refused(name):
    with pytest.raises(ConfigError, match=f"device='{name}' is unknown; use auto, cpu or cuda"):
        usable_device(name)
