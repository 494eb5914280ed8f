"""HunyuanVideo: diffusers' ``HunyuanVideoTransformer3DModel`` and ComfyUI's ``HunyuanVideo``.

ComfyUI has q, k and v in one layer, and in the single blocks the first layer of the MLP below them. The last
modulation has shift before scale there, and scale before shift in diffusers. The scales of the query and key norms
are written as ``.scale``: newer hosts call them ``.weight``, and take both on loading.
"""

from collections.abc import Mapping

from ..schedule.experts import ExpertSchedule, Threshold
from ..schedule.grid import NoiseGrid
from .family import Family, Published
from .keymap import KeyMap, Row, blocks_of, layers

_DOUBLE, _OURS = "transformer_blocks.{i}", "double_blocks.{i}"
_SINGLE = "single_transformer_blocks.{i}"
_REFINER = "context_embedder.token_refiner.refiner_blocks.{i}"
_TXT_IN = "txt_in.individual_token_refiner.blocks.{i}"


def _qkv(module: str) -> tuple[str, ...]:
    return tuple(f"{module}.to_{part}" for part in "qkv")


def _norm(diffusers: str, comfy: str) -> Row:
    return Row(f"{diffusers}.weight", f"{comfy}.scale", also=f"{comfy}.weight")


def _embedder(diffusers: str, comfy: str) -> tuple[Row, ...]:
    return (
        *layers(f"{diffusers}.linear_1", f"{comfy}.in_layer"),
        *layers(f"{diffusers}.linear_2", f"{comfy}.out_layer"),
    )


def variant(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Task and size by the shapes of the weights, under ComfyUI's names.

    Image-to-video by an image in the first frame's place (16 channels) is of text-to-video's shape.
    """
    width, channels = shapes["img_in.proj.weight"][:2]
    double, single = (blocks_of(f"{stem}_blocks.{{i}}", shapes) for stem in ("double", "single"))
    size = "13B" if (width, double, single) == (3072, 20, 40) else f"of width {width}, {double} + {single} blocks"
    return f"HunyuanVideo {'T2V' if channels == 16 else 'I2V'} {size}"


KEYMAP = KeyMap(
    "hunyuan_video",
    (
        *layers("x_embedder.proj", "img_in.proj"),
        *_embedder("time_text_embed.timestep_embedder", "time_in"),
        *_embedder("time_text_embed.guidance_embedder", "guidance_in"),
        *_embedder("time_text_embed.text_embedder", "vector_in"),
        # The text refiner
        *_embedder("context_embedder.time_text_embed.timestep_embedder", "txt_in.t_embedder"),
        *_embedder("context_embedder.time_text_embed.text_embedder", "txt_in.c_embedder"),
        *layers("context_embedder.proj_in", "txt_in.input_embedder"),
        *layers(f"{_REFINER}.norm1", f"{_TXT_IN}.norm1"),
        *layers(f"{_REFINER}.norm2", f"{_TXT_IN}.norm2"),
        *layers(_qkv(f"{_REFINER}.attn"), f"{_TXT_IN}.self_attn.qkv"),
        *layers(f"{_REFINER}.attn.to_out.0", f"{_TXT_IN}.self_attn.proj"),
        *layers(f"{_REFINER}.ff.net.0.proj", f"{_TXT_IN}.mlp.0"),
        *layers(f"{_REFINER}.ff.net.2", f"{_TXT_IN}.mlp.2"),
        *layers(f"{_REFINER}.norm_out.linear", f"{_TXT_IN}.adaLN_modulation.1"),
        # Blocks with an image and a text stream
        *layers(f"{_DOUBLE}.norm1.linear", f"{_OURS}.img_mod.lin"),
        *layers(f"{_DOUBLE}.norm1_context.linear", f"{_OURS}.txt_mod.lin"),
        *layers(_qkv(f"{_DOUBLE}.attn"), f"{_OURS}.img_attn.qkv"),
        *layers(tuple(f"{_DOUBLE}.attn.add_{part}_proj" for part in "qkv"), f"{_OURS}.txt_attn.qkv"),
        *layers(f"{_DOUBLE}.attn.to_out.0", f"{_OURS}.img_attn.proj"),
        *layers(f"{_DOUBLE}.attn.to_add_out", f"{_OURS}.txt_attn.proj"),
        _norm(f"{_DOUBLE}.attn.norm_q", f"{_OURS}.img_attn.norm.query_norm"),
        _norm(f"{_DOUBLE}.attn.norm_k", f"{_OURS}.img_attn.norm.key_norm"),
        _norm(f"{_DOUBLE}.attn.norm_added_q", f"{_OURS}.txt_attn.norm.query_norm"),
        _norm(f"{_DOUBLE}.attn.norm_added_k", f"{_OURS}.txt_attn.norm.key_norm"),
        *layers(f"{_DOUBLE}.ff.net.0.proj", f"{_OURS}.img_mlp.0"),
        *layers(f"{_DOUBLE}.ff.net.2", f"{_OURS}.img_mlp.2"),
        *layers(f"{_DOUBLE}.ff_context.net.0.proj", f"{_OURS}.txt_mlp.0"),
        *layers(f"{_DOUBLE}.ff_context.net.2", f"{_OURS}.txt_mlp.2"),
        # Blocks with one stream
        *layers(f"{_SINGLE}.norm.linear", "single_blocks.{i}.modulation.lin"),
        *layers((*_qkv(f"{_SINGLE}.attn"), f"{_SINGLE}.proj_mlp"), "single_blocks.{i}.linear1"),
        *layers(f"{_SINGLE}.proj_out", "single_blocks.{i}.linear2"),
        _norm(f"{_SINGLE}.attn.norm_q", "single_blocks.{i}.norm.query_norm"),
        _norm(f"{_SINGLE}.attn.norm_k", "single_blocks.{i}.norm.key_norm"),
        *layers("norm_out.linear", "final_layer.adaLN_modulation.1", swapped=True),
        *layers("proj_out", "final_layer.linear"),
    ),
    # Of the text, only the refiner's attention: the text stream of the double blocks stays, and so does what the
    # single blocks do after attention.
    low_rank=(
        f"{_TXT_IN}.self_attn.qkv",
        f"{_TXT_IN}.self_attn.proj",
        f"{_OURS}.img_attn.qkv",
        f"{_OURS}.img_attn.proj",
        "single_blocks.{i}.linear1",
    ),
    replaced=(
        *(f"{name}.{part}" for name in ("time_in", "guidance_in", "vector_in") for part in ("in_layer", "out_layer")),
        "final_layer.adaLN_modulation.1",
        "final_layer.linear",
    ),
    variant=variant,
    recognised_by=layers("context_embedder.proj_in", "txt_in.input_embedder")[0],
    # The text refiner is shared by both experts, but for its adapter.
    twins=("time_text_embed", "norm_out", "proj_out"),
    optional=("guidance_in.",),
)

FAMILIES = (
    Family(
        name="hunyuan_video",
        title="HunyuanVideo",
        keymap=KEYMAP,
        schedule=ExpertSchedule(NoiseGrid(shift=17.0, points=50), kappa_index=37),
        published=Published(Threshold(982.0), {4: (1.0, 0.992, 0.9818, 0.9124)}),
        host_class="HunyuanVideo",
        input_layer="img_in.proj",
        embedded_guidance=True,
    ),
)
