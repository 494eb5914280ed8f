"""Wan 2.1 / 2.2: diffusers' ``WanTransformer3DModel`` and ComfyUI's ``WanModel``.

Nothing is fused and nothing swapped. Note that diffusers' ``norm2`` (the affine norm before cross-attention) is
ComfyUI's ``norm3``.
"""

from . import KeyMap, Row, layers

_ATTENTION = (("attn1", "self_attn"), ("attn2", "cross_attn"))
_PROJECTIONS = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
_IMAGE_PROJECTIONS = (("add_k_proj", "k_img"), ("add_v_proj", "v_img"))
_NORMS = (("norm_q", "norm_q"), ("norm_k", "norm_k"))

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
)
