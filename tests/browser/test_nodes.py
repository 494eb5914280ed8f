"""The nodes on the real page: what they show before and after a run, and that a file of older sockets still fits."""

from __future__ import annotations

import json

import pytest
from harness.browser import look_at_nodes, missing
from harness.fixtures import NO_BROWSER
from harness.server import PACK
from harness.workflows import IN_ORDER, NAMES, WORKFLOWS, node_of

# What of a node's settings is shown where the page folds the others: the host's newest way to draw nodes.
FIRST_CHOICES = {"DCMShapes": ["batch_size", "steps"], "DCMKSampler": ["seed", "steps"], "DCMApplyExperts": []}
OLDEST = "0.3.64"


@pytest.fixture(scope="module")
def seen(server, tmp_path_factory) -> dict:
    """The first workflow, as it was saved before DCM Apply Experts had its two sockets in the order of the experts."""
    if lacks := missing():
        pytest.skip(NO_BROWSER.format(", ".join(lacks)))
    (shapes,) = (file for file in WORKFLOWS if file.stem == "shapes")
    file = tmp_path_factory.mktemp("saved") / "older.json"
    workflow = with_older_sockets(json.loads(shapes.read_text("utf-8")))
    (world,) = (node for node in workflow["nodes"] if node["type"] == "DCMShapes")
    world["widgets_values"][0] = 2  # clips, which no other test asks for: a node that is not run again shows nothing
    file.write_text(json.dumps(workflow))
    return look_at_nodes(server.address, file, modern=server.host.version != OLDEST)


def with_older_sockets(workflow: dict) -> dict:
    """The same graph, saved with the detail expert's socket before the semantic one's."""
    (node,) = (node for node in workflow["nodes"] if node["type"] == "DCMApplyExperts")
    order = ["model", "detail_expert", "semantic_expert"]
    node["inputs"].sort(key=lambda each: order.index(each["name"]) if each["name"] in order else len(order))
    for place, each in enumerate(node["inputs"]):
        for link in workflow["links"]:
            if link[0] == each["link"]:
                link[4] = place
    return workflow


def test_experts_of_an_older_file_keep_their_sockets(seen):
    prompt = seen["prompt"]
    shapes, inputs = node_of(prompt, "DCMShapes"), prompt[node_of(prompt, "DCMApplyExperts")]["inputs"]
    assert inputs["semantic_expert"] == [shapes, 1] and inputs["detail_expert"] == [shapes, 2]
    assert seen["end"] == "execution_success"


def test_only_the_first_choices_are_shown(seen, server):
    shown = {kind: seen["nodes"][kind]["widgets"] for kind in FIRST_CHOICES}
    if server.host.version == OLDEST:  # its page folds nothing
        assert len(shown["DCMKSampler"]) == 12
    else:
        assert shown == FIRST_CHOICES


def test_lines_break_between_words(seen):
    assert seen["broken"] == []


def test_the_noise_levels_are_drawn_on_their_node(seen):
    assert seen["nodes"]["DCMSigmas"]["pictures"] == 1


def test_the_list_of_workflows_begins_with_those_that_need_no_download(seen):
    listed = seen["templates"][PACK]
    assert listed == IN_ORDER and sorted(listed) == NAMES
