"""Every shipped workflow runs in the real host, as the real page would send it."""

import json

import pytest
from harness.workflows import NAMES, WORKFLOWS, node_of, place_checkpoints, with_stand_ins


@pytest.fixture
def prompt(request, dropped, server, checkpoints):
    prompt = with_stand_ins(dropped[request.param]["prompt"])
    place_checkpoints(prompt, server.models, checkpoints)
    return prompt


@pytest.mark.parametrize("prompt", NAMES, indirect=True)
def test_workflow_makes_a_video(prompt, client):
    run = client.run(prompt)
    assert run.status == "success", run.error
    (file,) = run.files(node_of(prompt, "SaveVideo"))
    assert file["filename"].endswith(".mp4")
    assert len(client.view(file)) > 1000


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=NAMES)
def test_workflow_names_its_models(workflow):
    """A loader with a file that is on the net says where, in the words of its own widget."""
    assert workflow.with_suffix(".jpg").exists()
    for node in json.loads(workflow.read_text("utf-8"))["nodes"]:
        for model in node["properties"].get("models", []):
            assert model["name"] in node["widgets_values"]
            assert model["url"].endswith(model["name"])
            assert model["directory"] in ("diffusion_models", "text_encoders", "vae")


def test_every_node_of_the_pack_is_in_a_workflow(client):
    used = {node["type"] for file in WORKFLOWS for node in json.loads(file.read_text("utf-8"))["nodes"]}
    offered = {name for name, node in client.get_json("/object_info").items() if node["category"] == "DCM"}
    assert offered and not offered - used
