"""The fastest exact attention: tried on real inputs, kept, and nothing else than attention."""

import json
import logging
import sys
import types

import pytest
import torch
from comfy.ldm.modules import attention as host_attention
from comfy.ldm.modules.attention import attention_pytorch
from dcm_pack.nodes.backbone import attention, attention_choice
from dcm_pack.nodes.backbone.attention import HOST, Choice, agrees, fastest
from dcm_pack.nodes.backbone.attention_choice import OVERRIDE, ChosenAttention, lost_attention, with_attention
from harness.attention import exact, inputs
from harness.worlds import dcm_node, world


def inexact(q, k, v, scale):
    return exact(q.bfloat16(), k.bfloat16(), v.bfloat16(), scale).to(q)


def absent(q, k, v, scale):
    raise RuntimeError("No valid execution plans built.")


@pytest.mark.parametrize(
    ("seconds", "function", "chosen"),
    [(0.05, exact, "other"), (0.099, exact, HOST), (0.2, exact, HOST), (0.01, inexact, HOST), (0.01, absent, HOST)],
)
def test_another_way_has_to_be_there_as_exact_and_faster_by_a_twentieth(ways, seconds, function, chosen):
    ways(other=(function, seconds))
    q, k, v = (each.unflatten(-1, (2, 8)).transpose(1, 2) for each in inputs())
    choice = fastest(lambda *tensors: exact(*tensors), q, k, v, None)
    assert choice.name == chosen
    assert chosen == HOST or choice.times == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["flash_attn_interface", "flash_attn.cute"])
@pytest.mark.parametrize("with_more", [False, True], ids=["a tensor", "a tensor and more"])
def test_packages_of_flash_attention_are_asked_in_their_layout(monkeypatch, name, with_more):
    """A stand-in takes [B, tokens, heads, width], and gives what it is asked for alone or first of several."""

    def flash_attn_func(q, k, v, softmax_scale):
        out = exact(*(each.transpose(1, 2) for each in (q, k, v)), softmax_scale).transpose(1, 2)
        return (out, None) if with_more else out

    package = types.ModuleType(name)
    package.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, name, package)
    way = attention.WAYS["FlashAttention 3" if name == "flash_attn_interface" else "FlashAttention 4"]
    q, k, v = (each.unflatten(-1, (2, 8)).transpose(1, 2) for each in inputs())
    assert torch.equal(way(q, k, v, 0.3), exact(q, k, v, 0.3))


def test_results_that_are_nan_or_of_another_shape_agree_with_nothing():
    x = torch.ones(2, 3)
    assert agrees(x, x) and not agrees(x * float("nan"), x) and not agrees(x[:1], x) and not agrees(1.001 * x, x)


@pytest.mark.parametrize("skip_reshape", [False, True])
@pytest.mark.parametrize("skip_output_reshape", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_what_is_computed_is_what_the_host_computes(ways, skip_reshape, skip_output_reshape, scale):
    calls = []

    def counted(q, k, v, scale):
        calls.append(tuple(q.shape))
        return exact(q, k, v, scale)

    ways(other=(counted, 0.01))
    tensors = inputs()
    if skip_reshape:
        tensors = [each.unflatten(-1, (2, 8)).transpose(1, 2) for each in tensors]
    shaped = {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}
    if scale:
        shaped["scale"] = scale
    override = ChosenAttention()
    expected = attention_pytorch(*tensors, 2, **shaped)
    if scale and torch.equal(expected, attention_pytorch(*tensors, 2, **{**shaped, "scale": None})):
        pytest.skip("this ComfyUI takes no scale")
    result = attention_pytorch(*tensors, 2, **shaped, transformer_options={OVERRIDE: override})
    torch.testing.assert_close(result, expected)
    assert calls == [(1, 2, 7, 8), (2, 2, 7, 8), (2, 2, 7, 8)], "one clip was tried, then all, then used"


def test_a_way_that_takes_one_head_and_not_all_is_not_chosen(ways):
    def of_one_head(q, k, v, scale):
        return exact(q, k, v, scale) if q.shape[1] == 1 else absent(q, k, v, scale)

    ways(other=(of_one_head, 0.01))
    result = attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: ChosenAttention()})
    assert torch.equal(result, attention_pytorch(*inputs(), 2))


def missing(q, k, v, scale):
    import no_such_package  # noqa: F401


def full(q, k, v, scale):
    raise torch.cuda.OutOfMemoryError("full")


@pytest.mark.parametrize("way", [absent, missing])
def test_a_way_that_was_asked_for_and_does_not_run_ends_the_run_with_what_to_do(ways, way):
    ways(other=(way, 0.01))
    what = r"other attention does not run here at 7 x 7 tokens of 8 in torch.float32 \(No .*to fastest"
    with pytest.raises(ValueError, match=what):
        attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: ChosenAttention(fixed="other")})
    ways(other=(full, 0.01))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: ChosenAttention(fixed="other")})


@pytest.mark.parametrize(
    "options",
    [{"mask": torch.zeros(7, 7)}, {"attn_precision": torch.float32}, {"something_new": True}],
    ids=["mask", "upcast", "what no way here knows"],
)
def test_what_only_the_host_knows_to_do_stays_the_hosts(ways, options):
    ways(other=(absent, 0.01))
    tensors = inputs()
    result = attention_pytorch(*tensors, 2, **options, transformer_options={OVERRIDE: ChosenAttention(fixed="other")})
    assert torch.equal(result, attention_pytorch(*tensors, 2, **options))


def test_a_choice_is_kept_for_the_machine_and_said_once(ways, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="DCM")
    ways(other=(exact, 0.05))
    for _ in range(2):
        attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: ChosenAttention()})
    lines = [each.getMessage() for each in caplog.records if "attention at" in each.getMessage()]
    assert lines == ["DCM: attention at 7 tokens: other, 2.00 times as fast as ComfyUI's own"]
    ((machine, kept),) = json.loads((tmp_path / "choices.json").read_text()).items()
    assert torch.__version__ in machine and "cpu" in machine
    assert kept == {"7 x 7 tokens of 8 in torch.float32, beside attention_pytorch": ["other", pytest.approx(2.0)]}
    # Another process takes what was chosen, also where it would now be otherwise.
    monkeypatch.setattr(attention_choice, "_chosen", {})
    monkeypatch.setattr(attention_choice, "fastest", lambda *inputs: Choice(HOST))
    attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: ChosenAttention()})
    assert next(iter(attention_choice._chosen.values())).name == "other"


@pytest.mark.parametrize("damage", ["none", "list", "choice", "machine", "cut"])
def test_a_damaged_file_of_choices_is_made_anew(ways, tmp_path, monkeypatch, damage):
    ways(other=(exact, 0.05))
    file = tmp_path / "choices.json"
    attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: ChosenAttention()})
    whole = file.read_text()
    ((machine, kept),) = json.loads(whole).items()
    shape = next(iter(kept))
    found = {"none": whole, "list": "[]", "cut": whole[:-9]}
    found |= {"choice": json.dumps({machine: {shape: {"name": "other"}}}), "machine": json.dumps({machine: [], "b": 1})}
    file.write_text(found[damage])
    monkeypatch.setattr(attention_choice, "_chosen", {})
    attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: ChosenAttention()})
    assert json.loads(file.read_text())[machine] == kept


def test_an_earlier_override_is_the_one_to_beat_and_a_later_one_is_said(ways):
    ways(other=(absent, 0.01))
    model, seen = world("wan").model(), []

    def earlier(function, *args, **kwargs):
        seen.append(function)
        return function(*args, **kwargs)

    model.model_options["transformer_options"] = {OVERRIDE: earlier}
    chosen = with_attention(with_attention(model))
    override = chosen.model_options["transformer_options"][OVERRIDE]
    assert override.earlier is earlier and model.model_options["transformer_options"][OVERRIDE] is earlier
    attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: override})
    assert len(seen) == 2, "tried, then run"
    assert not lost_attention(chosen)
    chosen.model_options["transformer_options"][OVERRIDE] = earlier
    assert "put DCM Attention behind it" in lost_attention(chosen)[0] and not lost_attention(model)


def test_both_experts_are_sampled_with_it(ways):
    this, calls = world("wan"), []

    def counted(q, k, v, scale):
        calls.append(q.shape)
        return exact(q, k, v, scale)

    ways(other=(counted, 0.01))
    model = this.applied()
    expected = this.sampled(model)
    assert not calls
    torch.testing.assert_close(this.sampled(with_attention(model)), expected, rtol=1e-4, atol=1e-4)
    assert len(calls) >= 4


def test_a_graph_is_traced_with_the_choice_in_it(ways):
    ways(other=(exact, 0.05))
    override, tensors = ChosenAttention(), inputs()

    @torch.compile(backend="eager", fullgraph=True)
    def network(q, k, v):
        return override(attention_pytorch, q, k, v, 2)

    torch.testing.assert_close(network(*tensors), attention_pytorch(*tensors, 2))
    assert next(iter(attention_choice._chosen.values())).name == "other"


def test_without_a_gpu_nothing_changes_and_the_log_says_so(ways, caplog):
    caplog.set_level(logging.INFO, logger="DCM")
    model = world("wan").model()
    for name in ("fastest", HOST, "cuDNN"):
        result, text = dcm_node("DCMAttention").execute(model, name).args
        assert result is model and "no NVIDIA GPU here, so nothing is faster" in text
        assert caplog.messages.pop() == f"DCM: {text}"


def test_newer_hosts_wrap_the_tensors_and_are_answered_all_the_same(ways):
    """As of 0.33 some networks hand their attention single-owner containers."""
    ways(other=(exact, 0.01))
    container = getattr(host_attention, "AttentionTensorContainer", None)
    if container is None:
        pytest.skip("this ComfyUI wraps no tensors")
    tensors = inputs()
    boxes = [container(each) for each in tensors]
    result = attention_pytorch(*boxes, 2, transformer_options={OVERRIDE: ChosenAttention(fixed="other")})
    torch.testing.assert_close(result, attention_pytorch(*tensors, 2))
    assert [box.tensor for box in boxes] == [None] * 3, "nothing is held on to"
