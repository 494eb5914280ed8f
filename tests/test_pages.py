"""The pages that people read: links lead somewhere, and tables are those of the measurements."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from harness.hosts import ROOT
from harness.workflows import WORKFLOWS

OWN = "https://github.com/dcm-video/dcm-video/blob/main/"
HELP = ROOT / "web" / "docs"
README_LINES = 150
PAGES = [
    *ROOT.glob("*.md"),
    ROOT / "training" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(HELP.rglob("*.md")),
]


def text_of(page: Path) -> str:
    """Without what stands in code, where brackets are no links and # is no heading."""
    return re.sub(r"^```.*?^```|`[^`\n]+`", "code", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> set[str]:
    return set(re.findall(r"\]\(([^()\s]+)\)", text_of(page)))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    shown = (re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in shown}


def place(page: Path, target: str) -> Path:
    """The file that a link leads to. ComfyUI takes the pictures of all help pages from beside the English ones."""
    if target.startswith(OWN):
        return ROOT / target.removeprefix(OWN)
    folder = HELP if HELP in page.parents and target.endswith(".png") else page.parent
    return folder / target if target else page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    own = [link for link in links(page) if link.startswith(OWN) or not re.match(r"https?:|mailto:", link)]
    wrong = []
    for link in own:
        target, _, anchor = unquote(link).partition("#")
        leads_to = place(page, target)
        if not leads_to.exists() or (anchor and anchor not in anchors(leads_to)):
            wrong.append(link)
    assert not wrong


def test_links_are_found_at_all():
    assert "docs/real_weights.md#licences" in links(ROOT / "README.md")
    assert "row-by-row-ablatepy" in anchors(ROOT / "docs" / "evidence.md")


def test_the_readme_is_short_and_leads_to_every_page_of_docs():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= README_LINES
    reached = {
        link.partition("#")[0] for page in (ROOT / "README.md", ROOT / "training" / "README.md") for link in links(page)
    }
    missing = {page.name for page in (ROOT / "docs").glob("*.md")} - {Path(link).name for link in reached}
    assert not missing


@pytest.mark.parametrize(("page", "results", "count"), [("memory", "memory", 2), ("evidence", "shapes", 1)])
def test_tables_are_those_of_the_measurements(page, results, count):
    shown = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    written = (ROOT / "benchmarks" / "results" / f"{results}.md").read_text("utf-8").split("\n\n")
    tables = [part for part in written if part.startswith("|")][:count]
    assert len(tables) == count and all(table in shown for table in tables)


def test_the_readmes_figures_are_those_of_the_table():
    """Each row of the short table has the figures of a row of the whole one."""
    whole = (ROOT / "docs" / "evidence.md").read_text("utf-8")
    rows = [re.findall(r"[\d.]+%? \([\d.-]+\)", line) for line in (ROOT / "README.md").read_text("utf-8").splitlines()]
    rows = [figures for figures in rows if figures]
    assert len(rows) == 5
    for figures in rows:
        assert any(all(figure in line for figure in figures) for line in whole.splitlines()), figures


def test_every_workflow_and_its_files_are_on_a_page():
    nodes, weights = ((ROOT / "docs" / f"{page}.md").read_text("utf-8") for page in ("nodes", "real_weights"))
    files = [*(ROOT / "workflows").glob("*.json")]
    addresses = {found for file in files for found in re.findall(r'"url": ?"([^"]+)"', file.read_text("utf-8"))}
    shards = {address for address in addresses if "-of-0000" in address}  # which one command downloads
    assert addresses and not {file.name for file in files if f"`{file.name}`" not in nodes}
    assert not {address for address in addresses - shards if address not in weights}


def test_notes_have_no_code_which_nodes_2_0_draws_blue_on_brown():
    """There it cannot be read; a command is bold instead."""
    nodes = [node for file in WORKFLOWS for node in json.loads(file.read_text("utf-8"))["nodes"]]
    notes = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    assert len(notes) == len(WORKFLOWS) and not [note for note in notes if "`" in note]
