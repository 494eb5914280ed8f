"""Every shipped workflow runs in the real host, as the real page would send it."""

import json

import pytest
from harness.workflows import NAMES, WORKFLOWS, node_of, place_checkpoints, with_stand_ins

# Loaders of files that anyone can download -> the model folder they read.
PUBLIC_FILES = {
    "DCMLoadBackbone": "diffusion_models",
    "UNETLoader": "diffusion_models",
    "CLIPVisionLoader": "clip_vision",
    "CLIPLoader": "text_encoders",
    "DualCLIPLoader": "text_encoders",
    "VAELoader": "vae",
}
SAVERS = {"SaveVideo": ".mp4", "SaveAnimatedWEBP": ".webp"}
# What the log says of a workflow's run: who takes which noise levels, and of motion.json how its video moves.
SAID = {
    "motion": "of the reference's motion: slow.",
    "shapes_lora_per_expert": "SemE 2 steps",
    "wan21_released_bundle": "SemE 3 steps 1.000 0.992 0.982 | DetE 3 steps 0.949 0.905 0.810",
    "hunyuanvideo_released_bundle": "SemE 2 steps 1.000 0.992 | DetE 2 steps 0.982 0.912",
    "wan21_speed_lora": "wan2.1 lightx2v: 4 steps 1.000 0.938 0.833 0.625 (by its file's name)",
    "wan22_high_low_pair": "1.000 0.938 | low noise 2 steps 0.833 0.625 (wan2.2 lightning by its file's name)",
    "cogvideox_dual_expert": "SemE 2 steps 999 879 | DetE 2 steps 759 379",
    "wan21_i2v_dual_expert": "SemE 2 steps 1.000 0.989 | DetE 2 steps 0.975 0.905",
    "baked_experts_guider": "high noise 3 steps 1.000 0.992 0.982 | low noise 3 steps 0.949 0.905 0.810",
    "wan21_t2v_dual_expert": "SemE 2 steps 1.000 0.989 | DetE 2 steps 0.975 0.905",
    "hunyuanvideo_dual_expert": "SemE 2 steps 1.000 0.992 | DetE 2 steps 0.982 0.912",
}


@pytest.fixture
def prompt(request, dropped, server, checkpoints):
    if "cogvideox" in request.param and "cogvideox" not in checkpoints:
        pytest.skip("CogVideoX needs ComfyUI 0.20 or newer")
    prompt = with_stand_ins(dropped[request.param]["prompt"])
    place_checkpoints(prompt, server.models, checkpoints)
    return prompt


@pytest.mark.parametrize(("name", "prompt"), [(name, name) for name in NAMES], indirect=["prompt"], ids=NAMES)
def test_workflow_makes_a_video(name, prompt, client, server):
    before = server.log.stat().st_size
    run = client.run(prompt)
    assert run.status == "success", run.error
    (saver,) = {node["class_type"] for node in prompt.values()} & SAVERS.keys()
    (file,) = run.files(node_of(prompt, saver))
    assert file["filename"].endswith(SAVERS[saver])
    assert len(client.view(file)) > 1000
    said = server.log.read_bytes()[before:].decode(errors="replace")
    assert SAID.get(name, "") in said
    has_attention = any(node["class_type"] == "DCMAttention" for node in prompt.values())
    assert ("nothing is faster: the MODEL stays as it is" in said) == has_attention, "the tests run on a CPU"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=NAMES)
def test_workflow_says_where_its_public_files_are(workflow):
    """Each loader of a public file carries its address and folder, so that the page can offer the download."""
    assert workflow.with_suffix(".jpg").exists()
    for node in json.loads(workflow.read_text("utf-8"))["nodes"]:
        if node["type"] in PUBLIC_FILES:
            models, chosen = node["properties"]["models"], node["widgets_values"]
            # Of a network in several files, the folder is chosen.
            assert all(model["name"] in chosen or model["name"].rpartition("/")[0] in chosen for model in models)
            assert len(models) >= sum(str(value).endswith(".safetensors") for value in chosen) and models
            assert all(model["url"].endswith("/" + model["name"].rpartition("/")[2]) for model in models)
            assert {model["directory"] for model in models} == {PUBLIC_FILES[node["type"]]}
            assert all(len(model["hash"]) == 64 for model in models if model.get("hash_type") == "SHA256")


def test_every_node_of_the_pack_is_in_a_workflow(client):
    used = {node["type"] for file in WORKFLOWS for node in json.loads(file.read_text("utf-8"))["nodes"]}
    offered = {name for name, node in client.get_json("/object_info").items() if node["category"] == "DCM"}
    assert offered and not offered - used
