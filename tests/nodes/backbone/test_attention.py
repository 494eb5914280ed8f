"""The fastest exact attention: tried on real inputs, kept, and nothing else than attention."""

import json
import logging

import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from dcm_pack.nodes.backbone import attention, attention_choice
from dcm_pack.nodes.backbone.attention import HOST, Choice, agrees, fastest
from dcm_pack.nodes.backbone.attention_choice import OVERRIDE, ChosenAttention, lost_attention, with_attention
from harness.worlds import dcm_node, world
from torch.nn.functional import scaled_dot_product_attention


def exact(q, k, v, scale):
    return scaled_dot_product_attention(q, k, v, scale=scale)


def inexact(q, k, v, scale):
    return exact(q.bfloat16(), k.bfloat16(), v.bfloat16(), scale).to(q)


def absent(q, k, v, scale):
    raise RuntimeError("No valid execution plans built.")


@pytest.fixture
def ways(monkeypatch, tmp_path):
    """Stand-ins for the ways of a GPU by name, with the seconds that each takes (0.1 the host's own)."""
    taken = {}

    def put(**ways):
        named = {name: function for name, (function, _) in ways.items()}
        taken.update({function: seconds for function, seconds in ways.values()})
        attention.WAYS.clear()
        attention.WAYS.update(named)

    monkeypatch.setattr(attention, "seconds", lambda function, *inputs: taken.get(function, 0.1))
    monkeypatch.setattr(attention_choice, "SMALL", 0)
    monkeypatch.setattr(attention_choice, "choices_file", lambda: tmp_path / "choices.json")
    monkeypatch.setattr(attention_choice, "_chosen", {})
    before = dict(attention.WAYS)
    yield put
    attention.WAYS.clear()
    attention.WAYS.update(before)


def inputs(tokens=7, heads=2, width=8, batch=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, tokens, heads * width, generator=generator) for _ in range(3)]


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
    assert calls == [(1, 1, 7, 8), (2, 2, 7, 8), (2, 2, 7, 8)], "one head of one clip was tried, then all, then used"


def test_a_way_that_takes_one_head_and_not_all_is_not_chosen(ways):
    def of_one_head(q, k, v, scale):
        return exact(q, k, v, scale) if q.shape[1] == 1 else absent(q, k, v, scale)

    ways(other=(of_one_head, 0.01))
    result = attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: ChosenAttention()})
    assert torch.equal(result, attention_pytorch(*inputs(), 2))


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
    with pytest.raises(RuntimeError, match="No valid execution plans"):
        attention_pytorch(*tensors, 2, transformer_options={OVERRIDE: ChosenAttention(fixed="other")})


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
    assert len(seen) == 2, "tried on one head, then run"
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


def test_without_a_gpu_nothing_changes(ways):
    model = world("wan").model()
    for name in ("fastest", HOST, "cuDNN"):
        result, text = dcm_node("DCMAttention").execute(model, name).args
        assert result is model and "no NVIDIA GPU" in text
