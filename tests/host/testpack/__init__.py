"""Test-only nodes: stand-ins for what is too large for a test, and ways to look into a run."""


async def comfy_entrypoint():
    from .nodes import TestExtension

    return TestExtension()
