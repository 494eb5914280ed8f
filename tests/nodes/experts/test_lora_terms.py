"""Every kind of change that LoRA files hold acts beside the network as ComfyUI puts it into the weights."""

import copy
from dataclasses import replace
from pathlib import Path

import comfy.sd
import pytest
import torch
from comfy.weight_adapter import LoRAAdapter
from dcm_pack.dcm_core.expert.layers import Expert
from dcm_pack.nodes.backbone.host import quantised_formats
from dcm_pack.nodes.experts.lora import add_lora
from harness import packed
from harness.loras import BOTH, LAYERS, PAIRS, STEPS, Maker, all_of, by_two_loaders, sampled, stock
from harness.quantised import FORMATS, quantised
from harness.worlds import World, merge, relative, world


@pytest.fixture(scope="module")
def this():
    return world("wan")


KINDS = {
    **{f"pair, {each}": lambda maker, each=each: all_of(lambda layer: maker.pair(layer, each)) for each in PAIRS},
    "pair, kohya's names": lambda maker: all_of(
        lambda layer: maker.pair(layer, stem="lora_unet_" + layer.replace(".", "_"))
    ),
    "pair, Wan Fun's names": lambda maker: all_of(
        lambda layer: maker.pair(layer, stem="lora_unet__" + layer.replace(".", "_")),
        ("blocks.0.cross_attn.k", "blocks.0.self_attn.q", "blocks.1.ffn.0"),
    ),
    "LoHa": lambda maker: all_of(maker.loha),
    "LoKr": lambda maker: all_of(maker.lokr),
    "DoRA": lambda maker: all_of(lambda layer: maker.dora(layer, maker.pair)),
    "DoRA of a LoHa": lambda maker: all_of(lambda layer: maker.dora(layer, maker.loha)),
    "DoRA of a LoKr": lambda maker: all_of(lambda layer: maker.dora(layer, maker.lokr)),
    "differences": lambda maker: all_of(maker.difference),
    "norms": lambda maker: all_of(maker.difference, ("blocks.0.norm3", "blocks.0.self_attn.norm_q")),
    "convolution": lambda maker: maker.pair("patch_embedding") | _bias(maker.difference("patch_embedding")),
    "new weight": lambda maker: {
        f"diffusion_model.{layer}.set_weight": 0.1 * maker.random(*maker.size(layer)) for layer in LAYERS
    },
}


def _bias(tensors):
    return {key: tensor for key, tensor in tensors.items() if key.endswith("_b")}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_in_each_experts_steps(kind, this, put):
    tensors = KINDS[kind](Maker(this.network))
    model, info = put(this.model(), tensors, *BOTH)
    expected = by_two_loaders(this, tensors)
    assert f"style.safetensors: {len(tensors)} of {len(tensors)} keys act; strength 1 above sigma 0.9765, 0.4" in info
    assert relative(sampled(this, model), expected) <= 1e-4
    if kind != "new weight":  # which the host puts in whole, at any strength
        assert relative(sampled(this, stock(this.model(), tensors, 1.0)), expected) >= 1e-2
    else:
        assert relative(sampled(this, this.model()), expected) >= 1e-2


def test_a_part_of_a_weight(this):
    """As the host's names give it for layers that hold several; none of these families has such names there yet."""
    maker, patches = Maker(this.network), {}
    for first in (0, 64):
        up, down = 0.3 * maker.random(64, 4), 0.3 * maker.random(4, 128)
        key = "diffusion_model.blocks.0.self_attn.q.weight", (0, first, 64)
        patches[key] = LoRAAdapter(set(), (up, down, 4.0, None, None, None))
    stocks = [this.model() for _ in BOTH]
    for model, strength in zip(stocks, BOTH, strict=True):
        model.add_patches(patches, strength)
    model = add_lora(
        this.model(), "parts", Path("parts.safetensors"), patches, {"semantic": BOTH[0], "detail": BOTH[1]}
    )
    expected = this.in_two_runs(*stocks, steps=STEPS)
    assert relative(sampled(this, model), expected) <= 1e-4
    assert relative(sampled(this, stocks[0]), expected) >= 1e-2


def test_an_uneven_pair_in_float16(this, put):
    """Of 1e6 times and 1e-6 times its usual size: ComfyUI multiplies them in float32."""
    tensors = Maker(this.network).pair("blocks.0.self_attn.q")
    for each, scale in (("down", 1e6), ("up", 1e-6)):
        tensors[f"diffusion_model.blocks.0.self_attn.q.lora_{each}.weight"] *= scale

    def half():
        model = this.model(dtype=torch.float16)
        model.model.manual_cast_dtype = None  # computes in float16, which the host would not do on a CPU
        return model

    model, _ = put(half(), tensors, *BOTH)
    expected = this.in_two_runs(*(stock(half(), tensors, strength) for strength in BOTH), steps=STEPS)
    assert relative(sampled(this, model), expected) <= 2e-3
    assert relative(sampled(this, half()), expected) >= 1e-2


@pytest.mark.parametrize("part", ["diff", "diff_b"])
@pytest.mark.parametrize("layer", ["time_embedding.0", "blocks.0.norm3", "patch_embedding"])
def test_a_change_that_float16_has_no_room_for_before_it_has_its_strength(this, put, layer, part):
    module = this.network.get_submodule(layer)
    change = torch.zeros_like(module.weight if part == "diff" else module.bias)
    change.view(-1)[:3] = 8e4
    tensors, strengths = {f"diffusion_model.{layer}.{part}": change}, (1e-5, 2e-5)

    def half():
        model = this.model(dtype=torch.float16)
        model.set_model_compute_dtype(torch.float16)
        return model

    expected = this.in_two_runs(*(stock(half(), tensors, strength) for strength in strengths), steps=STEPS)
    assert relative(sampled(this, put(half(), tensors, *strengths)[0]), expected) <= 2e-3
    assert relative(sampled(this, half()), expected) >= 3e-3


def test_hunyuan_video_by_the_names_of_its_trainer(put):
    this = world("hunyuan_video")
    maker = Maker(this.network)
    stems = {
        "double_blocks.0.img_attn.qkv": "transformer.double_blocks.0.img_attn_qkv",
        "single_blocks.0.modulation.lin": "transformer.single_blocks.0.modulation.linear",
        "double_blocks.0.txt_mlp.0": "transformer.double_blocks.0.txt_mlp.fc1",
    }
    tensors = {key: each for layer, stem in stems.items() for key, each in maker.pair(layer, "peft", stem).items()}
    model, info = put(this.model(), tensors, *BOTH)
    assert "9 of 9 keys act" in info
    expected = by_two_loaders(this, tensors)
    assert relative(sampled(this, model), expected) <= 1e-4
    assert relative(sampled(this, stock(this.model(), tensors, 1.0)), expected) >= 1e-2


def test_bare_parameters_act_too(this, put):
    """The stock loader leaves them out."""

    change = 0.3 * Maker(this.network).random(1, 6, 128)
    tensors = {"diffusion_model.blocks.0.modulation.diff": change}
    changed = Expert(this.detail.metadata, {}, {"blocks.0.modulation": change})
    models = []
    for strength in BOTH:
        model = this.model()
        model.model.diffusion_model.load_state_dict(merge(this.network.state_dict(), changed, strength))
        models.append(model)
    assert relative(sampled(this, put(this.model(), tensors, 1.0, 1.0)[0]), sampled(this, models[0])) <= 1e-5
    expected = this.in_two_runs(*models, steps=STEPS)
    twice, _ = put(put(this.model(), tensors, 0.5, 0.2)[0], tensors, 0.5, 0.2)
    assert relative(sampled(this, twice), expected) <= 1e-5
    assert relative(sampled(this, models[0]), expected) >= 1e-3


OVER_FEW_BITS = ("pair, kohya", "LoKr", "differences", "norms")


@pytest.mark.parametrize("kind", [*OVER_FEW_BITS, "DoRA"])
def test_over_weights_stored_in_fp8(kind, this, put):
    """Where the stock loader's result is rounded to fp8 again."""
    tensors = KINDS[kind](Maker(this.network))
    stored = this.model(dtype=torch.float8_e4m3fn)
    fp8 = over_weights(this, stored.model.diffusion_model.state_dict())
    model, _ = put(stored, tensors, *BOTH)
    expected = by_two_loaders(fp8, tensors)
    assert relative(sampled(this, model), expected) <= 1e-4
    assert relative(sampled(this, fp8.model()), expected) >= 1e-2


def over_weights(this, state):
    """The world over other weights, in float32."""
    network = copy.deepcopy(this.network)
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return replace(this, network=network)


class Packed(World):
    """Over Linear weights in blocks of 8 bits, as ComfyUI-GGUF has them."""

    def packed_model(self):
        return packed.loaded(self.network)

    @classmethod
    def of(cls, this):
        network = copy.deepcopy(this.network)
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data = packed.unpack(packed.pack(module.weight), torch.float32)
        return cls(this.family, network, this.semantic, this.detail)


@pytest.mark.parametrize("kind", OVER_FEW_BITS)
def test_over_packed_weights(kind, this, put):
    over, tensors = Packed.of(this), KINDS[kind](Maker(this.network))
    model, _ = put(over.packed_model(), tensors, *BOTH)
    expected = by_two_loaders(over, tensors)
    assert relative(sampled(over, model), expected) <= 1e-4
    assert relative(sampled(over, over.model()), expected) >= 1e-2


@pytest.mark.parametrize("kind", ["DoRA", "new weight"])
def test_what_needs_weights_is_refused_over_packed_ones(kind, this, put):
    over, tensors = Packed.of(this), KINDS[kind](Maker(this.network))
    with pytest.raises(ValueError, match=r"weights of .*blocks.0.self_attn.q.weight, .* packed here .* the same value"):
        put(over.packed_model(), tensors, *BOTH)
    model, _ = put(over.packed_model(), tensors, 1.0, 1.0)
    assert relative(sampled(over, model), sampled(over, stock(over.model(), tensors, 1.0))) <= 1e-4


@pytest.mark.skipif(not quantised_formats(), reason="this host reads no quantised layers")
@pytest.mark.parametrize("form", ["fp8_e4m3", "int8"])
def test_over_quantised_layers(form, this, put):
    """Those of ComfyUI's own kinds, feed-forward layers in int8 among them, which it runs past their forward."""
    over = quantised(this.network, FORMATS[form])
    plain = over_weights(this, over.plain)
    tensors = all_of(Maker(this.network).pair, (*LAYERS, "blocks.0.ffn.2")) | Maker(this.network).lokr("blocks.1.ffn.2")
    model = comfy.sd.load_diffusion_model_state_dict(over.with_confs)
    expected = by_two_loaders(plain, tensors)
    assert relative(sampled(this, put(model, tensors, *BOTH)[0]), expected) <= 0.02
    assert relative(sampled(this, plain.model()), expected) >= 0.1
