"""What the nodes say about themselves: tooltips, help pages and translations agree with the schemas."""

import asyncio
import json
from pathlib import Path

import dcm_pack
import pytest
from dcm_pack.nodes.ui.folders import EXTENSIONS
from harness.hosts import load_script

ROOT = Path(dcm_pack.__file__).parent


async def all_nodes():
    extension = await dcm_pack.comfy_entrypoint()
    return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in await extension.get_node_list()}


SCHEMAS = asyncio.run(all_nodes())


def translation(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def test_english_texts_are_what_the_command_writes():
    written = (ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8")
    assert written == load_script("locales").texts_of(SCHEMAS.values()), "run `python scripts/locales.py`"


def test_every_text_is_translated():
    def paths(tree, prefix=()):
        if isinstance(tree, str):
            return {prefix} if tree.strip() else set()
        return {path for key, branch in tree.items() for path in paths(branch, (*prefix, key))}

    assert paths(translation("zh")) == paths(translation("en"))


@pytest.mark.parametrize("page", ["{}.md", "{}/zh.md"])
def test_help_pages_name_every_input(page):
    for name, schema in SCHEMAS.items():
        text = (ROOT / "web" / "docs" / page.format(name)).read_text("utf-8")
        assert text.startswith("# ")
        missing = [i.id for i in schema.inputs if f"`{i.id}`" not in text]
        assert not missing, f"{name}: {missing}"


def test_every_ending_of_an_expert_file_is_told():
    (tooltip,) = (each.tooltip for each in SCHEMAS["DCMLoadExpert"].inputs if each.id == "expert_name")
    pages = [(ROOT / "web" / "docs" / page).read_text("utf-8") for page in ("DCMLoadExpert.md", "DCMLoadExpert/zh.md")]
    translated = translation("zh")["DCMLoadExpert"]["inputs"]["expert_name"]["tooltip"]
    for text in (tooltip, translated, *pages):
        assert all(ending in text for ending in EXTENSIONS), text


def test_the_shapes_page_knows_the_words_of_the_captions():
    from dcm_pack.dcm_core.shapes import captions

    for page in ("DCMShapes.md", "DCMShapes/zh.md"):
        text = (ROOT / "web" / "docs" / page).read_text("utf-8")
        kinds = (captions.COLOURS, captions.TEXTURES, captions.SHAPES, captions.DIRECTIONS, captions.SPEEDS)
        assert all(", ".join(words) in text for words in kinds)
