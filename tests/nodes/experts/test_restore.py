"""Whatever ends a run, the network that other MODELs share is what it was: weights bit-equal, forwards untouched."""

import comfy.cli_args
import comfy.model_management
import comfy.utils
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.patcher_extension import WrappersMP
from harness.worlds import relative, world

FAMILIES = ["wan", "hunyuan_video"]
STEPS = 4


def forwards(model):
    """Every instance-level `forward` in the network, with the object it is."""
    modules = model.model.diffusion_model.named_modules()
    return {name: module.__dict__["forward"] for name, module in modules if "forward" in module.__dict__}


def weights(model):
    return {name: tensor.clone() for name, tensor in model.model.diffusion_model.state_dict().items()}


def assert_untouched(model, before):
    """After unloading, as before anything was loaded."""
    comfy.model_management.unload_all_models()
    after = model.model.diffusion_model.state_dict()
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert forwards(model) == {}


def failing_in(model, step, error):
    """The MODEL with an error in the middle of the last block, in the call of one step."""
    network, calls = model.model.diffusion_model, []

    def count(executor, *args, **kwargs):
        calls.append(None)
        return executor(*args, **kwargs)

    def fail(module, args, kwargs):
        if len(calls) == step:
            raise error

    blocks = network.blocks if hasattr(network, "blocks") else network.single_blocks
    hook = blocks[-1].register_forward_pre_hook(fail, with_kwargs=True)
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
    return model, hook


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("error", [InterruptProcessingException, RuntimeError("out of memory")])
def test_error_in_the_middle_of_a_call(family, step, error):
    this = world(family)
    plain = this.model()
    before, output = weights(plain), this.custom_sampled(plain, this.schedule.sigmas(STEPS))
    model, hook = failing_in(this.applied(plain), step, error)
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        this.sampled(model, steps=STEPS)
    hook.remove()
    assert forwards(plain) == {}
    assert torch.equal(this.custom_sampled(plain, this.schedule.sigmas(STEPS)), output)
    assert_untouched(plain, before)
    assert relative(this.sampled(this.applied(plain)), output) > 1e-2


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_interrupt_by_the_user(step, monkeypatch):
    """As the server does it: the progress hook raises after the step in which the button was pressed."""
    this = world("wan")
    plain = this.model()
    before, output = weights(plain), this.custom_sampled(plain, this.schedule.sigmas(STEPS))

    def progress(value, total, preview, **_):
        if value == step:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    model = this.applied(plain)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", progress)
    # Newer hosts leave out progress messages that come too fast, but never one with a preview.
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Latent2RGB)
    with pytest.raises(InterruptProcessingException):
        this.sampled(model, steps=STEPS)
    monkeypatch.undo()
    assert torch.equal(this.custom_sampled(plain, this.schedule.sigmas(STEPS)), output)
    assert_untouched(plain, before)
    assert relative(this.sampled(model), output) > 1e-2


def test_a_forward_set_by_someone_else_is_called_and_left_alone():
    this = world("wan")
    model = this.applied()
    layer = model.model.diffusion_model.blocks[0].self_attn.q
    expected, calls = this.sampled(model), []

    def theirs(x):
        calls.append(None)
        return type(layer).forward(layer, x)

    layer.forward = theirs
    assert torch.equal(this.sampled(model), expected)
    assert len(calls) == STEPS
    assert layer.__dict__["forward"] is theirs


def test_clones_and_their_parents_do_not_touch_each_other():
    this = world("wan")
    plain = this.model()
    output = this.custom_sampled(plain, this.schedule.sigmas(STEPS))
    model = this.applied(plain)
    with_experts = this.sampled(model)
    assert torch.equal(this.custom_sampled(plain, this.schedule.sigmas(STEPS)), output)
    half = this.applied(plain, detail_strength=0.5)
    assert relative(this.sampled(half), with_experts) > 1e-2
    assert torch.equal(this.sampled(model), with_experts)
    assert torch.equal(this.sampled(model.clone().clone()), with_experts)


def test_experts_over_experts_replace_them():
    this = world("wan")
    plain = this.model()
    once = this.applied(plain)
    twice = this.applied(this.applied(plain, detail_strength=0.3, semantic_strength=0.7))
    assert torch.equal(this.sampled(twice), this.sampled(once))
    assert len(twice.get_additional_models()) == len(once.get_additional_models()) == 1
    assert relative(this.without_detail(), this.sampled(once)) > 1e-2


def test_the_detail_expert_is_loaded_and_counted_as_a_model():
    this = world("wan")
    model = this.applied()
    this.sampled(model)
    (side,) = model.get_additional_models()
    loaded = comfy.model_management.loaded_models()
    assert side in loaded and model in loaded
    tensors = [t for layer in this.detail.layers.values() for t in vars(layer).values() if torch.is_tensor(t)]
    assert side.model_size() == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_what_the_host_leaves_in_memory_is_pinned_there(monkeypatch):
    """With --novram all of it, so that no copy of it keeps those of the network's weights waiting."""
    pinned = []
    monkeypatch.setattr(comfy.model_management, "pin_memory", lambda tensor: pinned.append(tensor) or True, False)
    monkeypatch.setattr(comfy.model_management, "unpin_memory", lambda tensor: pinned.pop() is None, False)
    (side,) = world("wan").applied().get_additional_models()
    gpu, parameters = torch.device("meta"), list(side.model.parameters())
    side.partially_load(torch.device("cpu"), 0.1)
    assert not pinned
    side.unpatch_model(torch.device("cpu"))
    side.partially_load(gpu, 0.1)
    assert len(pinned) == (len(parameters) if hasattr(side, "pin_weight_to_device") else 0)
    side.detach()
    assert not pinned
    side.partially_load(gpu, 1e32)
    assert not pinned and all(parameter.is_meta for parameter in side.model.parameters())
