"""What every kind of layer says of itself, and that a new kind needs three places to work everywhere."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from harness.diffusers_models import opened, random_state
from harness.experts import UNTOLD, metadata, same_meaning
from torch import Tensor, nn

from dcm_core.backbone.bundle import bundle_tensors
from dcm_core.convert.expert_stream import save_in_parts
from dcm_core.convert.report import inspect
from dcm_core.expert import sidecar, tensor_names, terms
from dcm_core.expert.check import check
from dcm_core.expert.file import load_expert, save_expert
from dcm_core.expert.layers import Difference, Expert, FusedLowRank, Layer, LowRank, Replacement, frobenius
from dcm_core.expert.merge import layers_of, merged, with_difference

IN, OUT, RANK = 6, 24, 2
BASE = {"weight": torch.randn(OUT, IN), "bias": torch.randn(OUT)}


def tensor(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


LAYERS = {
    "low-rank pair": LowRank(tensor(RANK, IN), tensor(OUT, RANK), 3.0),
    "fused low-rank pairs": FusedLowRank(tensor(3 * RANK, IN), tensor(3 * IN, RANK), 3.0, OUT),
    "difference": Difference(tensor(OUT, IN), tensor(OUT)),
    "new weight": Replacement(tensor(OUT, IN), tensor(OUT)),
}


def changed(layer: Layer) -> dict[str, Tensor]:
    """The layer's tensors with the change in them, spelled out once more."""
    made = {name: value.clone() for name, value in BASE.items()}
    if isinstance(layer, LowRank):
        made["weight"] += layer.alpha / RANK * layer.up @ layer.down
    elif isinstance(layer, FusedLowRank):
        for k in range(3):
            up, down = layer.up[k * IN : (k + 1) * IN], layer.down[k * RANK : (k + 1) * RANK]
            made["weight"][k * IN : (k + 1) * IN] += layer.alpha / RANK * up @ down
    elif isinstance(layer, Difference):
        made = {"weight": made["weight"] + layer.weight, "bias": made["bias"] + layer.bias}
    else:
        made = {"weight": layer.weight, "bias": layer.bias}
    return made


@pytest.mark.parametrize("title", LAYERS)
def test_a_layer_says_what_it_does(title):
    layer = LAYERS[title]
    delta, made = layer.delta(BASE), changed(layer)
    assert layer.title == title
    assert layer.shapes == {name: tuple(tensor.shape) for name, tensor in delta.items()}
    for name, difference in delta.items():
        assert difference.dtype == torch.float32
        torch.testing.assert_close(BASE[name] + difference, made[name])
    if layer.replaces:
        assert layer.norm() is None
    else:
        whole = torch.cat([difference.flatten() for difference in delta.values()])
        assert layer.norm() == pytest.approx(float(whole.norm()), rel=1e-5)
        assert layer.delta({}).keys() == delta.keys()  # no backbone needed


@pytest.mark.parametrize("title", LAYERS)
def test_pairs_and_tensors_are_the_whole_of_it(title):
    """What a host that knows low-rank pairs over rows and whole tensors makes of them."""
    layer = LAYERS[title]
    made = {name: value.clone() for name, value in BASE.items()}
    for name, value in layer.tensors.items():
        made[name] = value if layer.replaces else made[name] + value
    for first, pair in layer.pairs:
        made["weight"][first : first + len(pair.up)] += pair.scale * pair.up @ pair.down
    for name, value in changed(layer).items():
        torch.testing.assert_close(made[name], value)


@pytest.mark.parametrize("title", LAYERS)
def test_every_tensor_of_a_layer_is_mapped_and_nothing_else(title):
    layer = LAYERS[title]
    half = layer.map(lambda value: value.half())
    assert type(half) is type(layer) and half.shapes == layer.shapes
    for name, value in ((each.name, getattr(layer, each.name)) for each in fields(layer)):
        same = getattr(half, name)
        assert same.dtype == torch.float16 if isinstance(value, Tensor) else same == value
    bias_only = Difference(bias=tensor(OUT)).map(torch.zeros_like)
    assert bias_only.weight is None and not bias_only.bias.any()


def test_tensors_by_name_become_the_layers_they_belong_to():
    tensors = {
        "a.weight": tensor(2, 3),
        "a.bias": tensor(2),
        "b.0.weight": tensor(4),
        "b.modulation": tensor(1, 2),
    }
    layers, parameters = layers_of(tensors)
    assert layers.keys() == {"a", "b.0"} and parameters == {"b.modulation": tensors["b.modulation"]}
    assert layers["a"].tensors == {"weight": tensors["a.weight"], "bias": tensors["a.bias"]}
    new, _ = layers_of({name: tensors[name] for name in ("a.weight", "a.bias")}, Replacement)
    assert type(new["a"]) is Replacement and new["a"].tensors == layers["a"].tensors


@pytest.mark.parametrize(("dtype", "result"), [(torch.bfloat16, torch.bfloat16), (torch.float8_e4m3fn, torch.float32)])
def test_a_difference_is_added_in_float32_and_never_rounded_to_one_byte(dtype, result):
    base, difference = torch.full((3,), 256.0).to(dtype), torch.full((3,), 1.5, dtype=torch.bfloat16)
    total = with_difference(base, difference)
    assert total.dtype == result
    assert total.equal(torch.full((3,), 257.5).to(result))
    assert with_difference(base, difference, -2.0).equal(torch.full((3,), 253.0).to(result))


# --- a new kind: what follows stands for its class in layers, its term in sidecar and its keys in tensor_names ------


@dataclass(eq=False, frozen=True)
class Outer(Layer):
    """The product of a column [out] and a row [in], added to the weight."""

    column: Tensor
    row: Tensor

    title = "outer product"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (len(self.column), len(self.row))}

    @property
    def pairs(self) -> list[tuple[int, LowRank]]:
        return [(0, LowRank(self.row[None], self.column[:, None], 1.0))]


class OuterTerm(terms.LayerTerm):
    def __init__(self, name: str, layer: Outer):
        super().__init__(name, layer.shapes, column=layer.column, row=layer.row)

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        return y.add_((x @ self.cast("row", x))[..., None] * self.cast("column", x), alpha=strength)

    def beside(self, rows: int) -> terms.Work:
        return terms.Work(2 * rows * (OUT + IN), rows * (2 * OUT + IN))

    def within(self) -> terms.Work:
        return terms.Work(2 * OUT * IN, 2 * OUT * IN)

    def merged(self, weight: Tensor, bias: Tensor | None, strength: float) -> tuple[Tensor, Tensor | None]:
        return weight.addr(self.cast("column", weight), self.cast("row", weight), alpha=strength), bias


FORM = tensor_names.FileForm("an outer product", {"column": ".outer_column", "row": ".outer_row"})


@pytest.fixture
def outer(monkeypatch):
    """An expert with such a layer, in a pack that knows it."""
    monkeypatch.setitem(terms.TERMS, Outer, OuterTerm)
    monkeypatch.setitem(tensor_names.FILE_FORMS, Outer, FORM)
    tensor_names._reading.cache_clear()
    yield Expert(
        metadata(base_fingerprint="", **UNTOLD), {"q": Outer(tensor(OUT), tensor(IN))}, {"table": tensor(1, 2)}
    )
    tensor_names._reading.cache_clear()


def test_a_new_kind_goes_through_files_checks_merges_and_the_sidecar(outer, tmp_path):
    save_expert(tmp_path / "a.safetensors", outer)
    save_in_parts(tmp_path / "b.safetensors", outer)
    assert all(same_meaning(load_expert(tmp_path / f"{name}.safetensors"), outer) for name in "ab")
    (told, _) = inspect(tmp_path / "a.safetensors")["layers"]
    change = torch.outer(outer.layers["q"].column, outer.layers["q"].row)
    assert told["change"] == "outer product" and told["norm"] == pytest.approx(frobenius(change), rel=1e-5)
    report = check(outer, {"q.weight": (OUT, IN), "q.bias": (OUT,), "table": (1, 2)})
    assert report.ok and report.norms["q"] == pytest.approx(frobenius(change), rel=1e-5)
    assert check(outer, {"q.weight": (OUT, IN + 1)}).misshaped.keys() == {"q.weight"}

    net = nn.ModuleDict({"q": nn.Linear(IN, OUT)}).requires_grad_(False)
    net.register_parameter("table", nn.Parameter(torch.zeros(1, 2)))
    whole = merged(net.state_dict(), outer)
    torch.testing.assert_close(whole["q.weight"], net["q"].weight + change)
    x = tensor(3, IN)
    with sidecar.Sidecar(outer).active(net):
        inside = net["q"](x)
    torch.testing.assert_close(inside, nn.functional.linear(x, whole["q.weight"], whole["q.bias"]))


def test_half_of_a_new_kind_and_a_mixture_with_another_are_refused(outer, tmp_path):
    keys = {role: f"diffusion_model.q{suffix}" for role, suffix in FORM.suffixes.items()}
    assert tensor_names.to_tensors(outer).keys() == {*keys.values(), "diffusion_model.table.diff"}
    own = {(Outer, role): tensor(4) for role in keys}
    with pytest.raises(ValueError, match="q: an outer product without its outer_row tensor"):
        tensor_names.from_tensors({"q": {(Outer, "column"): tensor(4)}}, [])
    with pytest.raises(ValueError, match="q: it has both a difference and an outer product"):
        tensor_names.from_tensors({"q": own | {(Difference, "weight"): tensor(4, 4)}}, [])


def test_a_new_kind_goes_into_a_bundle_as_the_pair_it_is(outer):
    state = random_state("wan t2v")
    width = state["blocks.0.attn1.to_q.weight"].shape[0]
    one = Expert(outer.metadata, {"blocks.0.self_attn.q": Outer(tensor(width), tensor(width))})
    tensors = bundle_tensors(opened(state), one)
    down, up = (tensors[f"blocks.0.attn1.to_q.lora_{part}.lora1.weight"] for part in "AB")
    layer = one.layers["blocks.0.self_attn.q"]
    torch.testing.assert_close(2.0 * up @ down, torch.outer(layer.column, layer.row))
