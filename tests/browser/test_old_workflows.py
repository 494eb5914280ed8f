"""The workflows of former versions on the real page: every value is still where it was."""

import pytest
from harness.browser import drop_workflows, missing
from harness.old_workflows import FOLDERS, IDS, OLD_WORKFLOWS, of


@pytest.fixture(scope="module")
def opened(server, tmp_path_factory):
    """Each folder of old workflows dropped on the page: (folder, name) -> what was seen."""
    if lacks := missing():
        pytest.skip(f"no browser: missing {', '.join(lacks)}")
    seen = {}
    for folder in FOLDERS:
        files = [workflow.file for workflow in of(folder)]
        dropped = drop_workflows(server.address, files, run=[], screenshots=tmp_path_factory.mktemp("old"))
        seen |= {(folder, name): page for name, page in dropped.items()}
    return seen


@pytest.mark.parametrize("workflow", OLD_WORKFLOWS, ids=IDS)
def test_the_page_sends_of_an_old_workflow_what_it_sent(workflow, opened, client):
    """Inputs that are new since have their defaults, with which the host tests run the old prompt."""
    page = opened[workflow.folder, workflow.name]
    assert not page["missing"]
    described = client.get_json("/object_info")
    for node_id, before in workflow.prompt.items():
        if before["class_type"] == "SaveLatent":  # which stands for what decodes them
            continue
        now = page["prompt"][node_id]
        assert now["class_type"] == before["class_type"]
        kept = {name: now["inputs"].get(name) for name in before["inputs"]}
        assert kept == before["inputs"], f"node {node_id}, {before['class_type']}"
        if now["class_type"].startswith("DCM"):
            assert widgets(now)[: len(widgets(before))] == widgets(before), "new widgets stand behind the old ones"
            new = {name: now["inputs"][name] for name in now["inputs"].keys() - before["inputs"].keys()}
            assert new == {name: default(described[now["class_type"]], name) for name in new}


def widgets(node: dict) -> list[str]:
    """In their order, which is how a workflow's file counts them; what is no link."""
    return [name for name, value in node["inputs"].items() if not isinstance(value, list)]


def default(node: dict, name: str):
    inputs = node["input"].get("required", {}) | node["input"].get("optional", {})
    kind, options = inputs[name]
    choices = kind if isinstance(kind, list) else options.get("options", [None])
    return options.get("default", choices[0] if choices else None)
