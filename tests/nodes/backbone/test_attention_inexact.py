"""Inexact attention, on request: where it is asked for, and how far off it is said to be."""

import logging

import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from dcm_pack.nodes.backbone import attention_inexact
from dcm_pack.nodes.backbone.attention import HOST
from dcm_pack.nodes.backbone.attention_choice import OVERRIDE, ChosenAttention, with_attention
from dcm_pack.nodes.backbone.attention_inexact import Inexact
from harness.attention import exact, inputs
from harness.worlds import dcm_node, relative, world


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
