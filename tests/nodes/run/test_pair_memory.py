"""A pair of MODELs and the memory: what is loaded when, and what an interrupt or an error leaves behind."""

import comfy.model_management
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.patcher_extension import WrappersMP
from harness.pairs import STEPS, pair, stock, with_lora
from harness.worlds import world


@pytest.fixture
def little_memory(monkeypatch):
    """A device, in truth the CPU, with room for one of the two networks; the host itself decides what has to leave."""
    management = comfy.model_management
    management.unload_all_models()
    room = 1.05 * world("wan").model().model_size()

    def free(device=None, torch_free_too=False):
        left = room - sum(model.loaded_size() for model in management.loaded_models())
        return (left, left) if torch_free_too else left

    monkeypatch.setattr(management, "get_free_memory", free)
    for nothing in ("minimum_inference_memory", "extra_reserved_memory"):
        monkeypatch.setattr(management, nothing, lambda: 0)
    yield torch.device("cpu", 0)  # the host asks no other than "cpu" for room
    management.unload_all_models()


def loads(sample, device):
    """Which of the two MODELs were loaded during each network call of `sample(high, low)`."""
    calls, models = [], {}
    for name, model in zip(("high", "low"), pair(), strict=True):
        model.load_device = device
        model.model.memory_usage_factor = 0.0

        def note(executor, *args, **kwargs):
            loaded = comfy.model_management.loaded_models()
            calls.append([name for name, each in models.items() if any(each.is_clone(one) for one in loaded)])
            return executor(*args, **kwargs)

        model.add_wrapper(WrappersMP.DIFFUSION_MODEL, note)
        models[name] = model
    sample(*models.values())
    return calls


def test_only_one_model_is_loaded_where_two_do_not_fit(little_memory):
    this = world("wan")

    def in_one(high, low, **options):
        this.sampled(high, low_noise_model=low, **options)

    one, stocks = loads(in_one, little_memory), loads(stock, little_memory)
    assert one == stocks == [["high"]] * 2 + [["low"]] * 2
    comfy.model_management.unload_all_models()
    sigmas = torch.tensor([0.8, 0.5, 0.0])
    assert loads(lambda *models: in_one(*models, sigmas=sigmas), little_memory) == [["low"]] * 2
    comfy.model_management.unload_all_models()
    assert loads(lambda *models: in_one(*models, end_at_step=2), little_memory) == [["high"]] * 2


def test_a_switch_between_experts_loads_and_frees_nothing(little_memory, monkeypatch):
    """Not even where the device has just room for the network and the detail expert beside it."""
    this, events = world("wan"), []
    model = this.applied()
    (side,) = model.get_additional_models()
    for each in (model, side):
        each.load_device = little_memory
    model.model.memory_usage_factor = 0.0
    room = comfy.model_management.get_free_memory() + side.model_size()

    def free(device=None, torch_free_too=False):
        left = room - sum(each.loaded_size() for each in comfy.model_management.loaded_models())
        return (left, left) if torch_free_too else left

    monkeypatch.setattr(comfy.model_management, "get_free_memory", free)
    for name in ("model_load", "model_unload"):
        former = getattr(comfy.model_management.LoadedModel, name)

        def noted(self, *args, former=former, name=name, **kwargs):
            events.append(name)
            return former(self, *args, **kwargs)

        monkeypatch.setattr(comfy.model_management.LoadedModel, name, noted)

    def call(executor, *args, **kwargs):
        events.append("call")
        return executor(*args, **kwargs)

    def between_calls(*models):
        """What happens from a run's first call of a network to its last."""
        events.clear()
        models = [each.clone() for each in models]
        for each in models:
            each.add_wrapper(WrappersMP.DIFFUSION_MODEL, call)
        this.sampled(models[0], low_noise_model=models[1] if models[1:] else None)
        return events[events.index("call") :]

    assert between_calls(model) == between_calls(model) == ["call"] * STEPS
    assert "model_load" in between_calls(*this.baked(model)), "two MODELs are loaded one after the other"


def test_both_models_stay_where_they_fit():
    this = world("wan")
    comfy.model_management.unload_all_models()
    calls = loads(lambda high, low: this.sampled(high, low_noise_model=low), torch.device("cpu"))
    assert calls == [["high"]] * 2 + [["high", "low"]] * 2


def weights(model):
    return {name: tensor.clone() for name, tensor in model.model.diffusion_model.state_dict().items()}


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("error", [InterruptProcessingException(), RuntimeError("out of memory")], ids=repr)
def test_an_end_in_either_phase_leaves_both_models_as_they_were(step, error):
    this = world("wan")
    plain = pair()
    models = [with_lora(model, seed) for seed, model in enumerate(plain)]
    before, expected = [weights(model) for model in plain], this.sampled(models[0], low_noise_model=models[1])
    calls = []

    def fail(executor, *args, **kwargs):
        calls.append(None)
        if len(calls) == step:
            raise error
        return executor(*args, **kwargs)

    failing = [model.clone() for model in models]
    for model in failing:
        model.add_wrapper(WrappersMP.DIFFUSION_MODEL, fail)
    with pytest.raises(type(error)):
        this.sampled(failing[0], low_noise_model=failing[1])
    assert len(calls) == step
    assert [model.model.current_patcher for model in plain] == [None, None]
    assert torch.equal(this.sampled(models[0], low_noise_model=models[1]), expected)
    comfy.model_management.unload_all_models()
    for model, state in zip(plain, before, strict=True):
        after = model.model.diffusion_model.state_dict()
        assert [name for name in state if not torch.equal(state[name], after[name])] == []
