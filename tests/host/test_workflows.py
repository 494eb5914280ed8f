"""Every shipped workflow runs in the real host, as the real page would send it."""

import json

import pytest
from harness.workflows import NAMES, WORKFLOWS, node_of, place_checkpoints, with_stand_ins

# Loaders of files that anyone can download -> the model folder they read.
PUBLIC_FILES = {
    "DCMLoadBackbone": "diffusion_models",
    "UNETLoader": "diffusion_models",
    "CLIPLoader": "text_encoders",
    "DualCLIPLoader": "text_encoders",
    "VAELoader": "vae",
}


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
def test_workflow_says_where_its_public_files_are(workflow):
    """Each loader of a public file carries its address and folder, so that the page can offer the download."""
    assert workflow.with_suffix(".jpg").exists()
    for node in json.loads(workflow.read_text("utf-8"))["nodes"]:
        if node["type"] in PUBLIC_FILES:
            models = node["properties"]["models"]
            files = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
            assert [model["name"] for model in models] == files
            assert all(model["url"].endswith("/" + model["name"]) for model in models)
            assert {model["directory"] for model in models} == {PUBLIC_FILES[node["type"]]}


def test_every_node_of_the_pack_is_in_a_workflow(client):
    used = {node["type"] for file in WORKFLOWS for node in json.loads(file.read_text("utf-8"))["nodes"]}
    offered = {name for name, node in client.get_json("/object_info").items() if node["category"] == "DCM"}
    assert offered and not offered - used
