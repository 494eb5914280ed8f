"""100 damaged bundles: each one gives the same backbone and expert, or is refused with a clear error that names it."""

import math
import random
from functools import cache
from pathlib import Path

import pytest
import torch
from harness.damage import cut, double_key, flip_header_bit
from harness.diffusers_models import released
from harness.experts import same_meaning
from safetensors.torch import load_file, save_file
from torch import Tensor

from dcm_core.backbone.bundle import expert_from_bundle
from dcm_core.backbone.file import BackboneFile
from dcm_core.convert.report import inspect
from dcm_core.errors import ExpertFileError, LayoutError
from dcm_core.expert.layers import Expert

PER_KIND = 20
BUNDLES = ("wan t2v", "hunyuan_video t2v")

bundle = cache(released)


def lose(path: Path, dice: random.Random) -> None:
    tensors = load_file(path)
    del tensors[dice.choice(sorted(tensors))]
    save_file(tensors, path)


def change_one(path: Path, dice: random.Random) -> None:
    """Shape, name, dtype or numbers of a tensor of the expert."""
    tensors = load_file(path)
    key = dice.choice([key for key in sorted(tensors) if ".lora_" in key or "_lora." in key])
    tensor = tensors.pop(key)
    infinite = tensor.clone()
    infinite.view(-1)[dice.randrange(tensor.numel())] = dice.choice([math.nan, math.inf])
    changes = [
        {key: infinite},
        {key: tensor[:-1].contiguous()},
        {key: tensor[None]},
        {key: torch.cat([tensor, tensor])},
        {key: tensor.to(torch.int8)},
        {key: tensor.bool()},
        {key.replace("lora", "dora"): tensor},
        {key.replace("lora1", "lora2"): tensor} if "lora1" in key else {f"{key}.more": tensor},
        {key.replace(".0.", ".9.").replace("proj_out_lora", "out_lora").replace("condition", "uncondition"): tensor},
    ]
    changed = dice.choice(changes)
    save_file(tensors | (changed if key not in changed or changed[key] is not tensor else {}), path)


KINDS = [lose, change_one, flip_header_bit, cut, double_key]


def opened(path: Path) -> tuple[Expert, dict[str, Tensor]]:
    """(detail expert, backbone)"""
    with BackboneFile.open(path) as file:
        recipes = file.recipes("comfy")
        return expert_from_bundle(file), {name: file.build(recipe) for name, recipe in recipes.items()}


@pytest.mark.parametrize("seed", range(PER_KIND))
@pytest.mark.parametrize("mutate", KINDS, ids=lambda mutate: mutate.__name__)
def test_a_damaged_bundle_never_loads_as_another(tmp_path, mutate, seed):
    dice = random.Random(f"{mutate.__name__} {seed}")
    name = dice.choice(BUNDLES)
    path, sound = tmp_path / "b.safetensors", tmp_path / "sound.safetensors"
    save_file(bundle(name), sound)
    save_file(bundle(name), path)
    mutate(path, dice)
    try:
        inspect(path)
    except (ExpertFileError, LayoutError) as error:
        assert len(str(error)) < 3000
    try:
        expert, backbone = opened(path)
    except (ExpertFileError, LayoutError) as error:
        assert len(str(error)) < 3000
    else:
        whole, true = opened(sound)
        assert same_meaning(expert, whole)
        assert backbone.keys() == true.keys() and all(torch.equal(backbone[key], true[key]) for key in true)


def test_there_are_a_hundred():
    assert len(KINDS) * PER_KIND == 100


@pytest.mark.parametrize("name", BUNDLES)
def test_the_order_of_a_bundle_and_a_prefix_do_no_harm(tmp_path, name):
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(bundle(name), paths[0])
    save_file({f"model.diffusion_model.{key}": tensor for key, tensor in reversed(bundle(name).items())}, paths[1])
    (one, backbone), (other, again) = map(opened, paths)
    assert same_meaning(one, other) and backbone.keys() == again.keys()
