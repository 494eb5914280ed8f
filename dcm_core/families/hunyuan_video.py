"""HunyuanVideo: diffusers' ``HunyuanVideoTransformer3DModel`` and ComfyUI's ``HunyuanVideo``.

ComfyUI has q, k and v in one layer, and in the single blocks the first layer of the MLP below them. The last
modulation has shift before scale there, and scale before shift in diffusers. The scales of the query and key norms
are written as ``.scale``: newer hosts call them ``.weight``, and take both on loading.
"""

from ..schedule.experts import ExpertSchedule, Threshold
from ..schedule.grid import NoiseGrid
from .blocks import Sizes
from .family import Family, Published
from .keymap import KeyMap, Row, Shapes, layers
from .relatives import Channels, Relative

_DOUBLE, _OURS = "transformer_blocks.{i}", "double_blocks.{i}"
_SINGLE = "single_transformer_blocks.{i}"
_REFINER = "context_embedder.token_refiner.refiner_blocks.{i}"
_TXT_IN = "txt_in.individual_token_refiner.blocks.{i}"

SIZES = Sizes("img_in.proj.weight", (_OURS, "single_blocks.{i}"), {(3072, 20, 40): "13B"})


def _qkv(module: str) -> tuple[str, ...]:
    return tuple(f"{module}.to_{part}" for part in "qkv")


def _norm(diffusers: str, comfy: str) -> Row:
    return Row(f"{diffusers}.weight", f"{comfy}.scale", also=f"{comfy}.weight")


def _embedder(diffusers: str, comfy: str) -> tuple[Row, ...]:
    return (
        *layers(f"{diffusers}.linear_1", f"{comfy}.in_layer"),
        *layers(f"{diffusers}.linear_2", f"{comfy}.out_layer"),
    )


def channels(shapes: Shapes) -> Channels:
    return Channels.of(shapes, "img_in.proj.weight", "final_layer.linear.weight")


def variant(shapes: Shapes) -> str:
    """Task and size by the shapes of the weights, under ComfyUI's names.

    Image-to-video by an image in the first frame's place (16 channels) is of text-to-video's shape.
    """
    task = "T2V" if shapes["img_in.proj.weight"][1] == 16 else "I2V"
    return f"HunyuanVideo {task} {SIZES.name(shapes)}"


def makes_images(shapes: Shapes) -> bool:
    """Patches have a time of their own in a network for videos; the refiner of images makes 64 channels."""
    return len(shapes.get("img_in.proj.weight", ())) == 4 or channels(shapes).outputs == 64


def takes_other_channels(shapes: Shapes) -> bool:
    """Text to video takes its latents alone, image to video an image's and a mask beside them."""
    return channels(shapes).inputs not in (None, 16, 33)


RELATIVES = (
    Relative(
        "HunyuanVideo 1.5",
        signs=("cond_type_embed", "vision_in.", "image_embedder."),
        fits=lambda shapes: channels(shapes).outputs == 32,
        other_latents=True,
    ),
    Relative("HunyuanImage 2.1", signs=("byt5_in.", "context_embedder_2."), fits=makes_images, other_latents=True),
    Relative(
        "a relative of HunyuanVideo",
        fits=lambda shapes: channels(shapes).outputs not in (None, 16),
        other_latents=True,
        parts="latents of other channels",
    ),
    Relative("FramePack", signs=("clean_x_embedder.",)),
    Relative("SkyReels I2V", fits=lambda shapes: channels(shapes).inputs == 32),
    Relative("a relative of HunyuanVideo", fits=takes_other_channels, parts="other input channels"),
)
# As Tencent's own files have them: (piece, ComfyUI's), in the order in which ComfyUI reads them so.
_TENCENT = (
    ("txt_in.t_embedder.mlp.0.", "txt_in.t_embedder.in_layer."),
    ("txt_in.t_embedder.mlp.2.", "txt_in.t_embedder.out_layer."),
    ("txt_in.c_embedder.linear_1.", "txt_in.c_embedder.in_layer."),
    ("txt_in.c_embedder.linear_2.", "txt_in.c_embedder.out_layer."),
    ("_mod.linear.", "_mod.lin."),
    ("_attn_qkv.", "_attn.qkv."),
    ("mlp.fc1.", "mlp.0."),
    ("mlp.fc2.", "mlp.2."),
    ("_attn_q_norm.weight", "_attn.norm.query_norm.weight"),
    ("_attn_k_norm.weight", "_attn.norm.key_norm.weight"),
    (".q_norm.weight", ".norm.query_norm.weight"),
    (".k_norm.weight", ".norm.key_norm.weight"),
    ("_attn_proj.", "_attn.proj."),
    (".modulation.linear.", ".modulation.lin."),
    ("_in.mlp.2.", "_in.out_layer."),
    ("_in.mlp.0.", "_in.in_layer."),
)


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
    size=SIZES.name,
    doubt=SIZES.doubt,
    recognised_by=layers("context_embedder.proj_in", "txt_in.input_embedder")[0],
    # The text refiner is shared by both experts, but for its adapter.
    twins=("time_text_embed", "norm_out", "proj_out"),
    optional=("guidance_in.",),
    spellings=_TENCENT,
)

FAMILIES = (
    Family(
        name="hunyuan_video",
        title="HunyuanVideo",
        called=r"hunyuan[-_ ]?video|framepack|^hv(?![a-z])",
        keymap=KEYMAP,
        schedule=ExpertSchedule(NoiseGrid(shift=17.0, points=50), kappa_index=37),
        published=Published(Threshold(982.0), {4: (1.0, 0.992, 0.9818, 0.9124)}, bf16_timesteps=True),
        host_class="HunyuanVideo",
        input_layer="img_in.proj",
        relatives=RELATIVES,
        embedded_guidance=True,
    ),
)
