"""The fastest exact attention: tried on real inputs, kept, and nothing else than attention."""

import json
import logging
import sys
import types

import pytest
import torch
from comfy.ldm.modules import attention as host_attention
from comfy.ldm.modules.attention import attention_pytorch
from dcm_pack.nodes.backbone import attention, attention_choice, attention_inexact
from dcm_pack.nodes.backbone.attention import HOST, Choice, agrees, fastest
from dcm_pack.nodes.backbone.attention_choice import OVERRIDE, ChosenAttention, lost_attention, with_attention
from dcm_pack.nodes.backbone.attention_inexact import Inexact
from harness.worlds import dcm_node, relative, world
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


def test_without_a_gpu_nothing_changes(ways):
    model = world("wan").model()
    for name in ("fastest", HOST, "cuDNN"):
        result, text = dcm_node("DCMAttention").execute(model, name).args
        assert result is model and "no NVIDIA GPU" in text


# --- inexact, on request ---------------------------------------------------------------------------------------------


@pytest.fixture
def rounded(ways, monkeypatch):
    """An inexact way, a percent off and three times as fast as the host's own; the calls of it."""
    ways()
    calls = []

    def inexact(q, k, v, scale):
        calls.append(tuple(q.shape))
        return 1.01 * exact(q, k, v, scale)

    monkeypatch.setitem(attention_inexact.INEXACT, "rounded", inexact)
    monkeypatch.setattr(attention_inexact, "seconds", lambda function, *inputs: 0.1 if function is inexact else 0.3)
    monkeypatch.setattr(attention_inexact, "_HALF", (torch.float32,))
    return calls


def attended(everywhere=False, said=None, **options):
    """What comes out, over exact attention."""
    tell = (lambda text: None) if said is None else said.append
    override = ChosenAttention(fixed=HOST, inexact=Inexact("rounded", everywhere, tell))
    acting = options.pop("acting", None)
    asked = {OVERRIDE: override} | ({attention_inexact.ACTING: acting} if acting else {})
    for _ in range(2):
        result = attention_pytorch(*inputs(), 2, transformer_options=asked, **options)
    return float((result / attention_pytorch(*inputs(), 2)).mean())


def test_an_inexact_way_acts_where_it_is_asked_for_and_says_how_far_off_it_is(rounded):
    said = []
    assert attended(everywhere=True, said=said) == pytest.approx(1.01)
    assert said == ["attention at 7 x 7 tokens: rounded, off by 1.00% from exact attention, 3.00 times as fast as "
                    "ComfyUI's own"]  # fmt: skip
    assert rounded == [(1, 1, 7, 8), (2, 2, 7, 8), (2, 2, 7, 8)], "one head was measured, once"
    assert attended(acting="detail") == pytest.approx(1.01)
    assert attended(acting="semantic") == attended() == pytest.approx(1.0)


def test_an_inexact_way_is_never_taken_where_the_host_forbids_it(rounded, monkeypatch):
    assert attended(everywhere=True, low_precision_attention=False) == pytest.approx(1.0)
    assert attended(everywhere=True, low_precision_attention=True) == pytest.approx(1.01)
    assert attended(everywhere=True, mask=torch.zeros(7, 7)) == pytest.approx(1.0)
    monkeypatch.setattr(attention_inexact, "_HALF", (torch.float16, torch.bfloat16))
    assert attended(everywhere=True) == pytest.approx(1.0), "made for 16 bits"


def test_the_detail_experts_steps_alone_are_sampled_with_it(rounded):
    this = world("wan")
    steps, tell = [], lambda text: None
    model = this.applied()

    def counted(executor, *args, **kwargs):
        before = len(rounded)
        result = executor(*args, **kwargs)
        steps.append(len(rounded) > before)
        return result

    model.add_wrapper("apply_model", counted)
    plain = this.sampled(model)
    steps.clear()
    assert relative(this.sampled(with_attention(model, HOST, Inexact("rounded", False, tell))), plain) > 1e-5
    assert steps == [False, False, True, True]
    steps.clear()
    this.sampled(with_attention(model, HOST, Inexact("rounded", True, tell)))
    assert steps == [True] * 4
    assert torch.equal(this.sampled(model), plain)


def test_inexact_in_detail_steps_that_nobody_has_is_said(rounded):
    this = world("wan")

    def info(model):
        texts = this.text(0), this.text(1)
        return dcm_node("DCMKSampler").execute(model, 0, 4, 1.0, *texts, {"samples": torch.zeros(1, 16, 3, 8, 8)})[1]

    def inexact(model, everywhere):
        return with_attention(model, HOST, Inexact("rounded", everywhere, lambda text: None))

    missing = "rounded is for the detail expert's steps, and no detail expert acts on this MODEL"
    assert missing in info(inexact(this.model(), False)) and missing in info(
        this.baked(inexact(this.applied(), False))[1]
    )
    assert missing not in info(inexact(this.applied(), False)) + info(inexact(this.model(), True))


def test_a_graph_is_traced_with_an_inexact_way_in_it(rounded, caplog):
    caplog.set_level(logging.INFO, logger="DCM")
    override, tensors = ChosenAttention(fixed=HOST, inexact=Inexact("rounded", True, lambda text: None)), inputs()

    @torch.compile(backend="eager", fullgraph=True)
    def network(q, k, v):
        return override(attention_pytorch, q, k, v, 2)

    torch.testing.assert_close(network(*tensors), 1.01 * attention_pytorch(*tensors, 2))
    assert "rounded, off by 1.00% from exact attention, on random numbers" in caplog.text


def test_an_inexact_way_that_is_not_there_is_refused_with_what_to_do(monkeypatch):
    node, model = dcm_node("DCMAttention"), world("wan").model()
    monkeypatch.setattr("dcm_pack.nodes.attention.has_gpu", lambda model: True)
    with pytest.raises(ValueError, match="SageAttention is not there: install the package sageattention, or set"):
        node.execute(model, inexact="SageAttention")
    monkeypatch.setattr(attention_inexact, "_int8", lambda: None)
    with pytest.raises(ValueError, match="ComfyUI's INT8 is not there: update ComfyUI"):
        node.execute(model, inexact="ComfyUI's INT8")
    monkeypatch.setattr(attention_inexact, "_int8", lambda: attention_pytorch)
    result, text = node.execute(model, "cuDNN", "ComfyUI's INT8", "all steps").args
    assert result is not model and text == "attention: cuDNN; ComfyUI's INT8 in all steps, measured there"
    q, k, v = (each.unflatten(-1, (2, 8)).transpose(1, 2) for each in inputs())
    torch.testing.assert_close(attention_inexact.int8_of_the_host(q, k, v, None), exact(q, k, v, None))


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
