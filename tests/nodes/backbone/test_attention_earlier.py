"""DCM Attention behind a node that has an attention of its own: what that computes is never lost in silence."""

import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from dcm_pack.nodes.attention import DCMAttention
from dcm_pack.nodes.backbone import attention_choice
from dcm_pack.nodes.backbone.attention import HOST
from dcm_pack.nodes.backbone.attention_choice import OVERRIDE, ChosenAttention
from dcm_pack.nodes.backbone.attention_inexact import ACTING
from harness.attention import exact, inputs
from harness.worlds import dcm_node, relative, world


@pytest.fixture
def faster(ways):
    """A way that is twice as fast and exact; its calls, but those on one head."""
    calls = []

    def other(q, k, v, scale):
        if q.shape[1] > 1:
            calls.append(None)
        return exact(q, k, v, scale)

    ways(other=(other, 0.05))
    return calls


def scaling(strength, where=lambda told: True):
    """What a node makes: an override that changes the result where it acts."""

    def override(function, *args, **kwargs):
        out = function(*args, **kwargs)
        return (1 + strength) * out if where(kwargs.get("transformer_options") or {}) else out

    return override


def attended(override, **told):
    """How many times the plain attention comes out."""
    result = attention_pytorch(*inputs(), 2, transformer_options={OVERRIDE: override, **told})
    return float((result / attention_pytorch(*inputs(), 2)).mean())


def test_where_it_is_exact_the_faster_way_takes_its_place(faster):
    assert attended(ChosenAttention(scaling(0.0))) == pytest.approx(1.0) and faster


def test_another_setting_of_the_node_is_not_taken_for_the_one_that_was_exact(faster, caplog):
    """Both overrides are called the same, in this process and in the file of choices."""
    attended(ChosenAttention(scaling(0.0)))
    faster.clear()
    for _ in range(2):
        chosen = ChosenAttention(scaling(0.5))
        assert attended(chosen) == attended(chosen) == pytest.approx(1.5) and not faster
        assert caplog.text.count("computes something else than other here, and keeps it") == 1
        caplog.clear()
        attention_choice._chosen.clear()


@pytest.mark.parametrize("place", [{ACTING: "detail"}, {"block_index": 1}], ids=str)
def test_one_that_acts_in_some_calls_only_gets_its_place_back(faster, place):
    ((name, value),) = place.items()
    chosen = ChosenAttention(scaling(0.5, lambda told: told.get(name) == value))
    assert attended(chosen) == pytest.approx(1.0) and faster
    assert attended(chosen, **place) == pytest.approx(1.5)
    faster.clear()
    assert attended(chosen) == pytest.approx(1.0) and not faster, "it is trusted no more"


def test_a_graph_holds_the_earlier_one(faster):
    chosen, tensors = ChosenAttention(scaling(0.5)), inputs()
    attended(ChosenAttention(scaling(0.0)))

    @torch.compile(backend="eager", fullgraph=True)
    def network(q, k, v):
        return chosen(attention_pytorch, q, k, v, 2)

    torch.testing.assert_close(network(*tensors), 1.5 * attention_pytorch(*tensors, 2))


def test_in_the_detail_experts_steps_of_a_run(faster, caplog):
    """In a network, where nothing but the expert tells them apart."""
    this = world("wan")
    model = this.applied()
    options = model.model_options["transformer_options"] = dict(model.model_options.get("transformer_options", {}))
    options[OVERRIDE] = scaling(0.5, lambda told: told.get(ACTING) == "detail")
    expected = this.sampled(model)
    assert relative(this.without_detail(), expected) > 1e-2
    assert relative(this.sampled(attention_choice.with_attention(model)), expected) <= 1e-5
    assert caplog.text.count("computes something else") == 1


@pytest.mark.parametrize(
    ("way", "inexact", "said"),
    [
        ("fastest", "never", "what another node has put there is tried as ComfyUI's own"),
        ("cuDNN", "never", "what another node has put there is left out"),
        (HOST, "SageAttention", "what another node has put there is kept as ComfyUI's own"),
    ],
)
def test_the_node_says_what_becomes_of_it(monkeypatch, way, inexact, said):
    monkeypatch.setattr("dcm_pack.nodes.attention.has_gpu", lambda model: True)
    monkeypatch.setattr("dcm_pack.nodes.attention.require", lambda name: None)
    model = world("wan").model()
    model.model_options["transformer_options"] = {OVERRIDE: scaling(0.0)}
    assert f"; {said}" in dcm_node("DCMAttention").execute(model, way, inexact)[1]
    assert "another node" not in DCMAttention.execute(world("wan").model(), way, inexact)[1]
