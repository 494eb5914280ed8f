"""Networks that other nodes have compiled in place, for as long as the MODEL is: experts act, or the run ends.

The stock node compiles for each call alone (test_neighbours.py). The right value is the same run without torch.compile.
"""

import comfy.ldm.modules.attention
import comfy.ldm.wan.model
import pytest
import torch
from harness.loras import Maker, all_of, stock
from harness.worlds import relative, world

REMEDY = "take it out, and compile with TorchCompileModel"


def compiled(part):
    return torch.compile(part, backend="eager")


def linears(network):
    return [module for module in network.modules() if isinstance(module, torch.nn.Linear)]


def calls(parts):
    """``Module.compile``: the module stays what it is."""
    for part in parts:
        part.compile(backend="eager")


def forwards(parts):
    for part in parts:
        part.forward = compiled(part.forward)


def blocks_replaced(model):
    """The network that all clones share is changed."""
    blocks = model.model.diffusion_model.blocks
    for number, block in enumerate(blocks):
        blocks[number] = compiled(block)
    return model


def blocks_as_objects(model):
    model = model.clone()
    for number, block in enumerate(model.model.diffusion_model.blocks):
        model.add_object_patch(f"diffusion_model.blocks.{number}", compiled(block))
    return model


def network_as_object(model):
    model = model.clone()
    model.add_object_patch("diffusion_model", compiled(model.get_model_object("diffusion_model")))
    return model


IN_PLACE = {
    "blocks": lambda network: calls(network.blocks),
    "layers": lambda network: calls(linears(network)),
    "forwards of layers": lambda network: forwards(linears(network)),
}
WRAPPED = [blocks_replaced, blocks_as_objects, network_as_object]
AS_OBJECTS = WRAPPED[1:]


@pytest.fixture(autouse=True)
def a_graph_holds_the_attention(monkeypatch):
    """That of a CPU asks for free memory in every call; GPUs get this one."""
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", comfy.ldm.modules.attention.attention_pytorch)
    torch.compiler.reset()


@pytest.fixture
def this():
    return world("wan")


@pytest.fixture
def untraced():
    """What is wrapped is run as it is: the names in it are all that matters."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("kind", IN_PLACE)
def test_what_was_compiled_and_run_before_the_experts_came_runs_with_them(this, kind):
    """No graph of the plain network answers for one with the detail expert, nor the other way round."""
    model, sigmas = this.model(), this.schedule.sigmas(4)
    IN_PLACE[kind](model.model.diffusion_model)
    plain = this.custom_sampled(model, sigmas)
    applied = this.applied(model)
    for seed in (0, 1):
        assert torch.equal(this.sampled(applied, seed=seed), this.sampled(this.applied(), seed=seed))
    assert torch.equal(this.custom_sampled(model, sigmas), plain)
    assert relative(this.without_detail(), this.sampled(applied)) > 1e-2


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("wrap", WRAPPED)
def test_a_detail_expert_acts_in_modules_that_were_wrapped(this, wrap, order):
    only = {"semantic_strength": 0.0}
    model = this.applied(wrap(this.model()), **only) if order == "before" else wrap(this.applied(**only))
    expected = this.sampled(this.applied(**only))
    assert torch.equal(this.sampled(model), expected)
    assert relative(this.sampled(this.applied(**only, detail_strength=0.0)), expected) > 1e-2


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("wrap", WRAPPED)
def test_patches_that_would_not_act_in_wrapped_modules_are_an_error(this, wrap, order):
    """ComfyUI leaves them out in silence: of the semantic expert, and of baked ones."""
    said = rf"the semantic expert.*blocks\.\d[^,]*, .*{REMEDY}"
    if order == "before":
        with pytest.raises(ValueError, match=said):
            this.sampled(this.applied(wrap(this.model())))
        return
    model = this.applied()
    for wrapped in (wrap(model.clone()), *((wrap(each) for each in this.baked(model)) if wrap in AS_OBJECTS else ())):
        with pytest.raises(ValueError, match=said.replace("semantic", "(semantic|detail)")):
            this.custom_sampled(wrapped, this.schedule.sigmas(4))


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("wrap", AS_OBJECTS)
def test_another_branch_over_the_same_network_is_no_concern_of_it(this, wrap, caplog):
    backbone, sigmas = this.model(), this.schedule.sigmas(4)
    model = this.applied(backbone)
    expected = this.sampled(model)
    this.custom_sampled(wrap(backbone), sigmas)  # and is left loaded so
    assert torch.equal(this.sampled(model), expected)
    assert "leaves out" not in caplog.text


@pytest.mark.usefixtures("untraced")
def test_blocks_that_another_branch_has_compiled_just_now_are_said(this):
    """Nothing can be put on the weights before ComfyUI has taken them out of there."""
    backbone = this.model()
    this.custom_sampled(blocks_as_objects(backbone), this.schedule.sigmas(4))
    with pytest.raises(ValueError, match=f"ComfyUI did not take 52 tensors of the semantic expert: .*{REMEDY}"):
        this.applied(backbone)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("wrap", AS_OBJECTS)
def test_a_lora_that_comfyui_leaves_out_is_said(this, wrap, caplog):
    only, tensors = {"semantic_strength": 0.0}, all_of(Maker(this.network).pair)
    said = "ComfyUI leaves out what LoRAs change in blocks.0.self_attn.q.weight"
    this.sampled(this.applied(wrap(stock(this.model(), tensors, 1.0)), **only))
    assert caplog.text.count(said) == 1
    caplog.clear()
    this.custom_sampled(wrap(stock(this.applied(**only), tensors, 1.0)), this.schedule.sigmas(4))
    assert caplog.text.count(said) == 1
