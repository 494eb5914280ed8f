"""Wan 2.1 / 2.2: diffusers' ``WanTransformer3DModel`` and ComfyUI's ``WanModel``.

Nothing is fused and nothing swapped. Note that diffusers' ``norm2`` (the affine norm before cross-attention) is
ComfyUI's ``norm3``.
"""

from collections.abc import Callable

from ..schedule.experts import ExpertSchedule, Threshold
from ..schedule.grid import NoiseGrid
from .blocks import Sizes
from .family import Family, Pair, Published
from .keymap import KeyMap, Row, Shapes, layers
from .relatives import Channels, Relative

_ATTENTION = (("attn1", "self_attn"), ("attn2", "cross_attn"))
_PROJECTIONS = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
_IMAGE_PROJECTIONS = (("add_k_proj", "k_img"), ("add_v_proj", "v_img"))
_NORMS = (("norm_q", "norm_q"), ("norm_k", "norm_k"))

SIZES = Sizes("patch_embedding.weight", ("blocks.{i}",), {(1536, 30): "1.3B", (5120, 40): "14B", (3072, 30): "5B"})


def channels(shapes: Shapes) -> Channels:
    return Channels.of(shapes, "patch_embedding.weight", "head.head.weight")


def variant(shapes: Shapes) -> str:
    """Version, task and size by the shapes of the weights, under ComfyUI's names.

    Wan 2.2 A14B is two backbones of Wan 2.1's shape; its image-to-video ones take no image embedding.
    """
    made, inputs = SIZES.name(shapes), shapes["patch_embedding.weight"][1]
    if channels(shapes).outputs == 48:
        return f"Wan 2.2 {made}"
    if "img_emb.proj.0.weight" in shapes:
        return f"Wan 2.1 I2V {made}"
    if inputs == 16:
        return f"Wan 2.1 T2V {made}" + (" (or one expert of Wan 2.2 A14B)" if made == "14B" else "")
    return "Wan 2.2 I2V A14B (one expert)" if made == "14B" else f"Wan I2V {made}"


def has_channels(made: tuple[int, ...], taken: tuple[int, ...]) -> Callable[[Shapes], bool]:
    """Does a backbone make one of these numbers of channels, and take one of those?"""

    def has(shapes: Shapes) -> bool:
        found = channels(shapes)
        return found.outputs in made and found.inputs in taken

    return has


def makes_other_latents(shapes: Shapes) -> bool:
    """Wan 2.1's have 16 channels, those of Wan 2.2 5B have 48."""
    return channels(shapes).outputs not in (None, 16, 48)


def takes_other_channels(shapes: Shapes) -> bool:
    """Text to video takes its latents alone, image to video 20 channels more of 16."""
    found = channels(shapes)
    return found.inputs is not None and (found.inputs, found.outputs) not in ((16, 16), (36, 16), (48, 48))


def layer(name: str) -> tuple[str, str]:
    return f"{name}.weight", f"{name}.bias"


RELATIVES = (
    Relative(
        "Wan VACE",
        signs=("vace_blocks.", *layer("vace_patch_embedding")),
        needs=layer("vace_blocks.0.before_proj"),
    ),
    Relative(
        "Wan Camera",
        signs=layer("control_adapter.conv"),
        needs=(*layer("control_adapter.residual_blocks.0.conv1"), *layer("control_adapter.residual_blocks.0.conv2")),
    ),
    Relative(
        "Wan S2V",
        signs=("casual_audio_encoder.",),
        needs=("audio_injector.", "frame_packer.", "trainable_cond_mask.", *layer("cond_encoder")),
    ),
    Relative(
        "Wan HuMo",
        signs=layer("audio_proj.audio_proj_glob_1.layer"),
        needs=(
            *layer("audio_proj.audio_proj_glob_2.layer"),
            *layer("audio_proj.audio_proj_glob_3.layer"),
            *layer("audio_proj.audio_proj_glob_norm.layer"),
            "blocks.0.audio_cross_attn_wrapper.",
        ),
    ),
    Relative(
        "Wan Animate",
        signs=("face_adapter.", "motion_encoder.", *layer("pose_patch_embedding")),
        needs=("face_encoder.",),
    ),
    Relative("Wan SCAIL 2", signs=layer("patch_embedding_mask"), needs=layer("patch_embedding_pose")),
    Relative("Wan SCAIL", signs=layer("patch_embedding_pose")),
    Relative(
        "WanDancer",
        signs=layer("patch_embedding_global"),
        needs=(
            "head_global.modulation",
            *layer("head_global.head"),
            "img_emb_refimage.",
            "music_encoder.",
            "music_injector.",
            *layer("music_projection"),
        ),
    ),
    Relative("Wan Fun Control", signs=layer("ref_conv"), fits=has_channels(made=(16,), taken=(48, 52))),
    Relative("a relative of Wan", fits=makes_other_latents, other_latents=True, parts="latents of other channels"),
    Relative("a relative of Wan", fits=takes_other_channels, parts="other input channels"),
)


KEYMAP = KeyMap(
    "wan",
    (
        *layers("patch_embedding", "patch_embedding"),
        *layers("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        *layers("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        *layers("condition_embedder.time_proj", "time_projection.1"),
        *layers("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        *layers("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        *(
            row
            for diffusers, comfy in _ATTENTION
            for theirs, ours in _PROJECTIONS
            for row in layers(f"blocks.{{i}}.{diffusers}.{theirs}", f"blocks.{{i}}.{comfy}.{ours}")
        ),
        *(
            Row(f"blocks.{{i}}.{diffusers}.{theirs}.weight", f"blocks.{{i}}.{comfy}.{ours}.weight")
            for diffusers, comfy in _ATTENTION
            for theirs, ours in _NORMS
        ),
        *layers("blocks.{i}.norm2", "blocks.{i}.norm3"),
        *layers("blocks.{i}.ffn.net.0.proj", "blocks.{i}.ffn.0"),
        *layers("blocks.{i}.ffn.net.2", "blocks.{i}.ffn.2"),
        Row("blocks.{i}.scale_shift_table", "blocks.{i}.modulation"),
        Row("scale_shift_table", "head.modulation"),
        *layers("proj_out", "head.head"),
        # Image-to-video: the image embedding and its keys and values in cross-attention.
        *layers("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
        *layers("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
        *layers("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
        *layers("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
        Row("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
        *(
            row
            for theirs, ours in _IMAGE_PROJECTIONS
            for row in layers(f"blocks.{{i}}.attn2.{theirs}", f"blocks.{{i}}.cross_attn.{ours}")
        ),
        Row("blocks.{i}.attn2.norm_added_k.weight", "blocks.{i}.cross_attn.norm_k_img.weight"),
    ),
    low_rank=tuple(f"blocks.{{i}}.{ours}.{part}" for _, ours in _ATTENTION for _, part in _PROJECTIONS),
    replaced=(
        "time_embedding.0",
        "time_embedding.2",
        "time_projection.1",
        "text_embedding.0",
        "text_embedding.2",
        "head.head",
    ),
    variant=variant,
    size=SIZES.name,
    doubt=SIZES.doubt,
    recognised_by=layers("condition_embedder.time_proj", "time_projection.1")[0],
    # The modulation tables are shared by both experts; the twin of the last norm has no weights.
    twins=("condition_embedder", "norm_out", "proj_out"),
    optional=(
        "img_emb.",
        "img_emb.emb_pos",
        *(f"blocks.{{i}}.cross_attn.{part}" for part in ("k_img.", "v_img.", "norm_k_img.")),
    ),
)

FAMILIES = (
    Family(
        name="wan",
        title="Wan",
        called=r"(?<![a-z])wan(?![a-z])",
        keymap=KEYMAP,
        schedule=ExpertSchedule(NoiseGrid(shift=17.0, points=50), kappa_index=34),
        published=Published(Threshold(979.0), {6: (1.0, 0.992, 0.982, 0.949, 0.905, 0.810)}),
        host_class="WAN21",
        input_layer="patch_embedding",
        relatives=RELATIVES,
        # Wan 2.2 A14B. Its own inference code gives a step to the high-noise model iff timestep >= boundary
        # (github.com/Wan-Video/Wan2.2, wan/configs/wan_t2v_A14B.py and wan_i2v_A14B.py). The shift is the one that
        # its 4-step LoRAs are made for.
        pair=Pair(
            text=0.875,
            image=0.900,
            grid=NoiseGrid(shift=5.0, points=50),
            preset="wan2.2 lightning",
        ),
    ),
)
