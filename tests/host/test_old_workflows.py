"""What the page sent of the workflows of former versions still gives the same latents, bit for bit."""

import pytest
import torch
from harness.old_workflows import IDS, OLD_WORKFLOWS, recorded, run_old, run_plain


@pytest.fixture(scope="module")
def plain(client, checkpoints):
    """What stock nodes give with the same networks."""
    return run_plain(client, checkpoints)


@pytest.mark.parametrize("workflow", OLD_WORKFLOWS, ids=IDS)
def test_an_old_workflow_gives_the_latents_that_it_gave(workflow, client, server, checkpoints, plain):
    if not workflow.runs_with(checkpoints):
        pytest.skip("CogVideoX needs ComfyUI 0.20 or newer")
    expected = recorded(workflow.folder, server.host.version)
    given = run_old(workflow.prompt, client, server.models, checkpoints)
    assert given
    # Another processor, PyTorch or ComfyUI may round otherwise, in stock nodes too.
    rounds_alike = all(torch.equal(latent, expected[name]) for name, latent in plain.items())
    for node, latent in given.items():
        then = expected[f"{workflow.name} {node}"]
        assert torch.equal(latent, then) or not rounds_alike, f"node {node}: {float((latent - then).abs().max())} apart"
        assert torch.allclose(latent, then, rtol=0, atol=1e-3 * float(then.std())), f"node {node} gives another video"
