"""What the nodes say about themselves: tooltips, help pages and translations agree with the schemas."""

import asyncio
import json
import re
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


@pytest.mark.parametrize("page", ["{}.md", "{}/zh.md"])
def test_help_pages_show_their_node_and_lead_to_help(page):
    """The page of the host takes pictures from beside the English text, whatever the language."""
    for name in SCHEMAS:
        text = (ROOT / "web" / "docs" / page.format(name)).read_text("utf-8")
        assert f"]({name}.png)" in text and "/docs/troubleshooting.md)" in text, name
        picture = ROOT / "web" / "docs" / f"{name}.png"
        assert 1_000 < picture.stat().st_size < 60_000, "run `python scripts/pictures.py`"


def test_troubleshooting_names_nodes_and_settings_that_there_are():
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    named = set(re.findall(r"\*(DCM [^*]+)\*", text))
    assert named and named <= {schema.display_name for schema in SCHEMAS.values()}
    settings = {each for each in re.findall(r"`([^`]+)`", text) if not each.startswith("--")}
    assert settings and settings <= {each.id for schema in SCHEMAS.values() for each in schema.inputs}


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
