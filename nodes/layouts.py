"""Which layout a backbone file has, told from its tensor names alone."""

from safetensors import SafetensorError, safe_open

# A name that occurs in this layout only, and what the layout is. Bundles come first: they are diffusers files too.
_OTHER_LAYOUTS = (
    (".lora_A.", "a DCM bundle as released (backbone and adapters in one file)"),
    ("condition_embedder.", "a Wan backbone in diffusers layout"),
    ("context_embedder.time_text_embed.", "a HunyuanVideo backbone in diffusers layout"),
)


def reject_other_layouts(path: str) -> None:
    """Raises ValueError for a backbone that is not in ComfyUI layout; files of other formats are the host's affair."""
    if not path.endswith(".safetensors"):
        return
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it is damaged or cut off. Download it again."
        ) from error
    for mark, layout in _OTHER_LAYOUTS:
        if any(mark in name for name in names):
            raise ValueError(
                f"{path} is {layout}. This version loads backbones in ComfyUI layout only: take the "
                "repackaged file from huggingface.co/Comfy-Org, and the experts as files of their own."
            )
