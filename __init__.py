"""DCM for ComfyUI: the Dual-Expert Consistency Model (arXiv 2506.03123), videos in 4 steps. The host's entry."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI. The nodes are imported here, so that this package imports without a host."""
    from .nodes import DCMExtension

    return DCMExtension()
