"""The embedded world in the host, with random weights: what the node wires together, not how well it was trained."""

from dataclasses import replace

import latent_preview
import numpy
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy.ldm.wan.model import WanModel
from comfy.model_patcher import ModelPatcher
from comfy.ops import disable_weight_init
from dcm_pack.dcm_core.expert.file import save_expert
from dcm_pack.dcm_core.expert.layers import Expert
from dcm_pack.dcm_core.families.presets import FAMILIES
from dcm_pack.dcm_core.sampling import euler
from dcm_pack.dcm_core.shapes import autoencoder, captions, render, weights
from harness import tiny
from harness.worlds import dcm_node, full_difference, merge, relative
from safetensors.torch import save_file

import nodes

SHOWN = captions.Attributes("red", "striped", "circle", "left", "fast")
PROMPT = SHOWN.caption()


def network(heads):
    sizes = {"dim": 128, "ffn_dim": 512, "num_layers": 2, "num_heads": heads}
    return WanModel(**sizes, dtype=torch.float32, device="cpu", operations=disable_weight_init)


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """The node's outputs by name, over files of random weights; `truth` is the network they hold."""
    truth = tiny.randomise(network(4), seed=0).requires_grad_(False)
    experts = {
        "semantic": full_difference(truth, "shapes", 1),
        "detail": tiny.random_expert(truth, "wan", "detail", 2),
    }
    header = experts["semantic"].metadata
    experts["detail"] = Expert(type(header)("detail", "shapes", "tiny", header.schedule, 2.0), experts["detail"].layers)
    save_file(truth.state_dict(), tmp_path / "teacher.safetensors")
    for kind, expert in experts.items():
        save_expert(tmp_path / f"{kind}.safetensors", expert)
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    outputs = dcm_node("DCMShapes").execute(2)
    names = ["model", "semantic", "detail", "clip", "vae", "latent"]
    return {name: outputs[number] for number, name in enumerate(names)} | {"truth": truth, "experts": experts}


def encoded(shapes, text):
    return nodes.CLIPTextEncode().encode(shapes["clip"], text)[0]


def test_experts_run_on_the_backbone_with_four_heads(shapes):
    model = dcm_node("DCMApplyExperts").execute(shapes["model"], shapes["detail"], shapes["semantic"])[0]
    texts = encoded(shapes, PROMPT), encoded(shapes, "")
    result = dcm_node("DCMKSampler").execute(model, 3, 4, 1.0, *texts, shapes["latent"])[0]["samples"]
    assert result.shape == (2, 16, 4, 12, 12)

    schedule, text = FAMILIES["shapes"].schedule, captions.encode_text([PROMPT, PROMPT])
    noise = torch.randn(result.shape, generator=torch.manual_seed(3))
    semantic = merge(shapes["truth"].state_dict(), shapes["experts"]["semantic"])
    states = {False: semantic, True: merge(semantic, shapes["experts"]["detail"])}

    def run(heads, always=None):
        net = network(heads).requires_grad_(False)

        def velocity(x, sigma):
            net.load_state_dict(states[bool(schedule.is_detail(sigma).all()) if always is None else always])
            return net(x, 1000 * sigma, text)

        return euler(velocity, noise, schedule.sigmas(4))

    assert relative(result, run(heads=4)) <= 1e-4
    assert relative(result, run(heads=4, always=False)) >= 1e-2
    assert relative(result, run(heads=1)) >= 1e-2, "the number of heads makes no difference"


@pytest.mark.skipif(not hasattr(ModelPatcher, "deepclone_multigpu"), reason="this host uses one GPU only")
def test_a_copy_for_another_gpu_has_the_experts_too(shapes):
    model = dcm_node("DCMApplyExperts").execute(shapes["model"], shapes["detail"], shapes["semantic"])[0]
    texts = encoded(shapes, PROMPT), encoded(shapes, "")
    copy = model.deepclone_multigpu(torch.device("cpu"))
    assert copy.model is not model.model
    results = [
        dcm_node("DCMKSampler").execute(m, 3, 4, 1.0, *texts, shapes["latent"])[0]["samples"]
        for m in (model, copy, shapes["model"])
    ]
    assert torch.equal(results[0], results[1])
    assert relative(results[2], results[0]) > 1e-2


def test_teacher_runs_in_the_stock_ksampler(shapes):
    texts = encoded(shapes, PROMPT), encoded(shapes, "")
    (latent,) = nodes.common_ksampler(shapes["model"], 0, 3, 2.0, "euler", "simple", *texts, shapes["latent"])
    assert torch.isfinite(latent["samples"]).all()
    assert shapes["model"].get_model_object("model_sampling").shift == FAMILIES["shapes"].schedule.grid.shift


def test_text_nodes_take_the_clip(shapes):
    ((text, options),) = encoded(shapes, PROMPT)
    assert torch.equal(text, captions.encode_text([PROMPT]))
    assert options == {}
    assert not encoded(shapes, "")[0][0].any()
    with pytest.raises(ValueError, match="Did you mean 'striped'"):
        encoded(shapes, "a red stripped circle moving left fast")


def test_image_nodes_take_the_vae(shapes):
    clip = render.render_clips([SHOWN], torch.Generator().manual_seed(0))
    frames = (clip[0].movedim(0, -1) + 1) / 2
    (latent,) = nodes.VAEEncode().encode(shapes["vae"], frames)
    assert latent["samples"].shape == (1, 16, 4, 12, 12)
    (images,) = nodes.VAEDecode().decode(shapes["vae"], latent)
    assert images.shape == frames.shape
    assert (images - frames).abs().mean() < 0.03
    (tiled,) = nodes.VAEDecodeTiled().decode(shapes["vae"], latent, 512)
    assert torch.equal(tiled, images)


def test_previews_have_the_true_colours(shapes, monkeypatch):
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    latent_format = shapes["model"].model.latent_format
    previewer = latent_preview.get_previewer(torch.device("cpu"), latent_format)
    for colour in captions.COLOURS:
        clip = render.render_clips([replace(SHOWN, colour=colour)], torch.Generator().manual_seed(0))
        picture = previewer.decode_latent_to_preview(latent_format.process_in(autoencoder.encode(clip)))
        shown = torch.from_numpy(numpy.array(picture)) / 255
        true = (clip[0, :, :4].mean(1).unflatten(1, (12, 2)).unflatten(3, (12, 2)).mean((2, 4)).movedim(0, -1) + 1) / 2
        assert (shown - true).abs().mean() < 0.02


def test_experts_are_chosen_by_their_number_of_steps(shapes, tmp_path):
    def put(kind, steps):
        one = shapes["experts"][kind]
        named = Expert(replace(one.metadata, trained_steps=steps), one.layers, one.parameters)
        save_expert(tmp_path / f"{kind}_{steps}steps.safetensors", named)

    def choices():
        (steps,) = (each for each in dcm_node("DCMShapes").define_schema().inputs if each.id == "steps")
        assert steps.default == "4"
        return steps.options

    def numbers(steps):
        semantic, detail = dcm_node("DCMShapes").execute(1, **({"steps": steps} if steps else {})).args[1:3]
        return semantic.metadata.trained_steps, detail and detail.metadata.trained_steps

    assert choices() == ["4"] and numbers(None) == (None, None), "the pair for any number of steps serves for 4"
    for kind, steps in (("semantic", 2), ("detail", 2), ("semantic", 1), ("semantic", 4)):
        put(kind, steps)
    assert choices() == ["1", "2", "4"]
    assert numbers("2") == (2, 2) and numbers("1") == (1, None)
    assert numbers(None) == (None, None), "not half of a pair"
    put("detail", 4)
    assert numbers(None) == numbers("4") == (4, 4)
    with pytest.raises(FileNotFoundError, match="semantic_8steps.safetensors is missing"):
        numbers("8")


def test_missing_weights_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="teacher.safetensors is missing"):
        dcm_node("DCMShapes").execute(1)
