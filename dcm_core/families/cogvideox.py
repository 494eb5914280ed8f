"""CogVideoX: diffusers' ``CogVideoXTransformer3DModel`` and ComfyUI's class of the same name.

Nothing is fused and nothing swapped. 2B has neither of the tables of positions; 5B image-to-video has learned ones;
1.5 image-to-video embeds a second number beside the timestep (``ofs``).
"""

from dataclasses import replace

from ..schedule.experts import ExpertSchedule
from ..schedule.grid import NoiseGrid
from .blocks import Sizes
from .family import Family
from .keymap import KeyMap, Row, Shapes, layers
from .relatives import Channels, Relative

_PROJECTIONS = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "attn_out"))

_HEADS_OF_2B = 30
_PATCH_OF_1_5 = 2 * 2 * 2
SIZES = Sizes("patch_embed.proj.weight", ("blocks.{i}",), {(1920, 30): "2B", (3072, 42): "5B"})


def is_2b(shapes: Shapes) -> bool:
    """2B has 30 heads, 5B and 1.5 have 48."""
    return shapes["patch_embed.proj.weight"][0] // shapes["blocks.0.norm_q.weight"][0] == _HEADS_OF_2B


def channels(shapes: Shapes) -> Channels:
    """Patches of two frames (1.5) are projected by a linear layer, those of one frame by a convolution."""
    into, out = shapes.get("patch_embed.proj.weight", ()), shapes.get("proj_out.weight", ())
    if len(into) == 2 and out:
        return Channels(into[1] // _PATCH_OF_1_5, out[0] // _PATCH_OF_1_5)
    return Channels.of(shapes, "patch_embed.proj.weight", "proj_out.weight")


def variant(shapes: Shapes) -> str:
    """Version, task and size by the shapes of the weights, under ComfyUI's names."""
    patches = shapes["patch_embed.proj.weight"]
    version, inputs = ("1.0", patches[1]) if len(patches) == 4 else ("1.5", patches[1] // _PATCH_OF_1_5)
    task = {16: "T2V", 32: "I2V"}.get(inputs, f"with {inputs} channels")
    return f"CogVideoX {version} {task} {SIZES.name(shapes)}"


RELATIVES = (
    Relative(
        "a relative of CogVideoX",
        fits=lambda shapes: channels(shapes).outputs not in (None, 16),
        other_latents=True,
        parts="latents of other channels",
    ),
    Relative("ConsisID", signs=("local_facial_extractor.", "perceiver_cross_attention.")),
    # CogVideoX-Fun, and VOID, which was made from it.
    Relative("CogVideoX Inpaint", fits=lambda shapes: channels(shapes).inputs == 48),
    Relative(
        "a relative of CogVideoX",
        fits=lambda shapes: channels(shapes).inputs not in (None, 16, 32),
        parts="other input channels",
    ),
)


KEYMAP = KeyMap(
    "cogvideox",
    (
        *layers("patch_embed.proj", "patch_embed.proj"),
        *layers("patch_embed.text_proj", "patch_embed.text_proj"),
        *layers("time_embedding.linear_1", "time_embedding_linear_1"),
        *layers("time_embedding.linear_2", "time_embedding_linear_2"),
        *(
            row
            for norm in ("norm1", "norm2")
            for part in ("linear", "norm")
            for row in layers(f"transformer_blocks.{{i}}.{norm}.{part}", f"blocks.{{i}}.{norm}.{part}")
        ),
        *(
            row
            for theirs, ours in _PROJECTIONS
            for row in layers(f"transformer_blocks.{{i}}.attn1.{theirs}", f"blocks.{{i}}.{ours}")
        ),
        *layers("transformer_blocks.{i}.attn1.norm_q", "blocks.{i}.norm_q"),
        *layers("transformer_blocks.{i}.attn1.norm_k", "blocks.{i}.norm_k"),
        *layers("transformer_blocks.{i}.ff.net.0.proj", "blocks.{i}.ff_proj"),
        *layers("transformer_blocks.{i}.ff.net.2", "blocks.{i}.ff_out"),
        *layers("norm_final", "norm_final"),
        *layers("norm_out.linear", "norm_out.linear"),
        *layers("norm_out.norm", "norm_out.norm"),
        *layers("proj_out", "proj_out"),
        Row("patch_embed.pos_embedding", "patch_embed.pos_embedding"),
        *layers("ofs_embedding.linear_1", "ofs_embedding_linear_1"),
        *layers("ofs_embedding.linear_2", "ofs_embedding_linear_2"),
    ),
    low_rank=tuple(f"blocks.{{i}}.{ours}" for _, ours in _PROJECTIONS),
    # No experts were published for CogVideoX. These are the layers replaced in the published ones of HunyuanVideo:
    # the embedding of the timestep, the last modulation and the output.
    replaced=("time_embedding_linear_1", "time_embedding_linear_2", "norm_out.linear", "proj_out"),
    variant=variant,
    size=SIZES.name,
    doubt=SIZES.doubt,
    recognised_by=layers("transformer_blocks.0.norm1.norm", "blocks.0.norm1.norm")[0],
    twins=("time_embedding", "norm_out", "proj_out"),
    optional=("patch_embed.pos_embedding", "ofs_embedding_linear"),
)

# No experts were published for CogVideoX. The boundary is this project's choice: the grid index that HunyuanVideo's
# have, which is timestep 759. 5B (and 1.5, and image-to-video) have SNR shift 1, 2B has 3.
_COGVIDEOX = Family(
    name="cogvideox",
    title="CogVideoX",
    called=r"cogvideo",
    keymap=KEYMAP,
    schedule=ExpertSchedule(NoiseGrid(shift=1.0, points=50, prediction="v_prediction"), kappa_index=37),
    host_class="CogVideoX",
    host_since="0.20",
    host_patch="cogvideox",
    input_layer="patch_embed.proj",
    belongs=lambda shapes: not is_2b(shapes),
    relatives=RELATIVES,
)
FAMILIES = (
    _COGVIDEOX,
    replace(
        _COGVIDEOX,
        name="cogvideox_2b",
        schedule=ExpertSchedule(NoiseGrid(shift=3.0, points=50, prediction="v_prediction"), kappa_index=37),
        belongs=is_2b,
    ),
)
