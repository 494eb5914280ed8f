"""300 damaged expert files: each one loads as the same expert, or is refused with the one clear error.

100 of them have a right digest, as a careless exporter or an editor of headers leaves them.
"""

import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from harness.damage import cut, double_key, flip_bit, flip_header_bit, read, write
from harness.diffusers_models import opened, released
from harness.experts import expert, parts, same_meaning, write_as_is
from safetensors.torch import load_file
from torch import Tensor

from dcm_core.backbone.bundle import expert_from_bundle
from dcm_core.backbone.file import BackboneFile
from dcm_core.convert.report import inspect
from dcm_core.errors import ExpertFileError
from dcm_core.expert.check import check
from dcm_core.expert.file import load_expert, save_expert
from dcm_core.expert.layers import Expert
from dcm_core.expert.tensor_names import by_layer
from dcm_core.files.stream import TensorSource

PER_KIND = 20
WHOLE = expert(seed=3)


def fill_with_zeros(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = dice.randrange(len(content))
    stop = dice.randrange(start, len(content)) + 1
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)


def edit_metadata(path: Path, dice: random.Random) -> None:
    header, data = read(path)
    metadata = header["__metadata__"]
    key = dice.choice(sorted(metadata))
    value = metadata.pop(key)
    kind = dice.randrange(3)
    if kind == 1:
        metadata[key] = dice.choice(["", "0", "-1", "1e999", "nan", "true", value[::-1], value + "0", "\x00", "é" * 99])
    elif kind == 2:
        metadata[key.replace("dcm.", dice.choice(["DCM.", "dcm", "dcm.x."]))] = value
    write(path, header, data)


def edit_entry(path: Path, dice: random.Random) -> None:
    header, data = read(path)
    entry = header[dice.choice([key for key in header if key != "__metadata__"])]
    field = dice.choice(sorted(entry))
    wrong = {
        "dtype": ["F64", "I32", "F8_E4M3", "BF16", "F16", "X", 3, None],
        "shape": [[], [0], [-1], [1, 2, 3], [2**62, 4], "shape", [1.5], entry["shape"][::-1], [True], None],
        "data_offsets": [
            [0, 4],
            [0],
            [4, 0],
            [-4, 0],
            [0, 2**63],
            "all",
            [0.0, 4.0],
            None,
            entry["data_offsets"][::-1],
        ],
    }
    entry[field] = dice.choice(wrong[field])
    write(path, header, data)


def swap_or_rename_keys(path: Path, dice: random.Random) -> None:
    header, data = read(path)
    keys = [key for key in header if key != "__metadata__"]
    one, other = dice.sample(keys, 2)
    if dice.random() < 0.5:
        header[one], header[other] = header[other], header[one]
    else:
        renamed = dice.choice([one.upper(), one + ".weight", one.replace("blocks.0", "blocks.9"), "", other])
        header = {renamed if key == one else key: entry for key, entry in header.items()}
    write(path, header, data)


def change_type_or_shape(path: Path, dice: random.Random) -> None:
    """A careless exporter's file: whole and with a right digest, but a tensor is lost, doubled, or misfits
    its pair."""
    tensors, header = parts(WHOLE)
    pairs = sorted(key for key in tensors if "lora_" in key)
    key = dice.choice(pairs)
    tensor = tensors.pop(key)
    changes: list[Callable[[Tensor], dict[str, Tensor]]] = [
        lambda t: {},
        lambda t: {key: t.double()},
        lambda t: {key: t.to(torch.int32)},
        lambda t: {key: t[:0]},
        lambda t: {key: t.reshape(1, *t.shape)},
        lambda t: {key: t.flatten()},
        lambda t: {key: t.clone().fill_(float("nan"))},
        lambda t: {key: t, key.split(".lora_")[0] + ".diff": t.clone()},
        lambda t: {key: t, key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): t.clone()},
        lambda t: {key.replace("lora_", "lora."): t},
        lambda t: {key.removeprefix("diffusion_model."): t},
    ]
    write_as_is(path, tensors | dice.choice(changes)(tensor), header)


def another_kind_of_file(path: Path, dice: random.Random) -> None:
    kind = dice.randrange(4)
    if kind == 0:
        torch.save(parts(WHOLE)[0], path, _use_new_zipfile_serialization=dice.random() < 0.5)
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.write_bytes(dice.randbytes(dice.randrange(1, 3000)))
    else:
        path.write_text(json.dumps(read(path)[0]))


KINDS = [
    flip_bit, flip_header_bit, cut, fill_with_zeros, edit_metadata, edit_entry, swap_or_rename_keys, double_key,
    change_type_or_shape, another_kind_of_file,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(PER_KIND))
@pytest.mark.parametrize("mutate", KINDS, ids=lambda mutate: mutate.__name__)
def test_a_damaged_file_never_loads_as_another_expert(tmp_path, mutate, seed):
    path = tmp_path / "e.safetensors"
    save_expert(path, WHOLE)
    mutate(path, random.Random(f"{mutate.__name__} {seed}"))
    try:
        loaded = load_expert(path)
    except ExpertFileError as error:
        assert str(path) in str(error) and len(str(error)) < 2000
    else:
        assert same_meaning(loaded, WHOLE)


def test_there_are_three_hundred():
    assert len(KINDS) * PER_KIND == 200
    assert len(REDIGESTED) * PER_KIND == 100


Parts = tuple[dict[str, Tensor], dict[str, str]]


@cache
def bundled(name: str) -> tuple[BackboneFile, Expert]:
    """A complete detail expert, and the backbone that it is laid over."""
    bundle = opened(released(name))
    return bundle, expert_from_bundle(bundle)


def recounted(tensors: dict[str, Tensor], header: dict[str, str]) -> Parts:
    """With as many layers in the header as there are, if all of them can be told."""
    try:
        return tensors, header | {"dcm.layers": str(len(by_layer(tensors)))}
    except ExpertFileError:
        return tensors, header


def lose(tensors: dict[str, Tensor], header: dict[str, str], dice: random.Random) -> Parts:
    for key in dice.sample(sorted(tensors), dice.choice([1, 1, 2, 5])):
        del tensors[key]
    return recounted(tensors, header)


def misname(tensors: dict[str, Tensor], header: dict[str, str], dice: random.Random) -> Parts:
    key = dice.choice(sorted(tensors))
    names = [
        key + "x",
        key.replace("diffusion_model.", "diffusion_model.x."),
        key.upper(),
        re.sub(r"\d", "7", key, count=1),
    ]
    other = dice.choice([name for name in names if name not in tensors])
    tensors[other] = tensors.pop(key)
    return recounted(tensors, header)


def misshape(tensors: dict[str, Tensor], header: dict[str, str], dice: random.Random) -> Parts:
    key = dice.choice([key for key in sorted(tensors) if tensors[key].ndim])
    tensor = tensors[key]
    changes = [tensor[:-1], tensor[None], torch.cat([tensor, tensor]), tensor.new_zeros(*tensor.shape, 1)]
    tensors[key] = dice.choice(changes).contiguous()
    return tensors, header


def spoil(tensors: dict[str, Tensor], header: dict[str, str], dice: random.Random) -> Parts:
    key = dice.choice(sorted(tensors))
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[dice.randrange(tensors[key].numel())] = dice.choice([math.nan, math.inf, -math.inf])
    return tensors, header


def contradict(tensors: dict[str, Tensor], header: dict[str, str], dice: random.Random) -> Parts:
    wrong = {
        "dcm.rank": ["3", "0", "four", "400"],
        "dcm.alpha": ["7.5", "nan", "-8.0", ""],
        "dcm.layers": ["1", "", "all"],
        "dcm.parameters": ["head.modulation", "x"],
        "dcm.complete": ["perhaps", "True"],
        "dcm.expert": ["semantic", "both", ""],
        "dcm.family": ["cogvideox", ""],
        "dcm.base_fingerprint": ["wan:0:0", "hunyuan_video:0:0"],
        "dcm.kappa_index": ["1", "x"],
        "dcm.shift": ["1.0", "x"],
        "dcm.format": ["2.0", "one"],
        "dcm.guidance": ["six", "-1", "inf"],
        "dcm.embedded_guidance": ["six", "-1", "nan"],
    }
    key = dice.choice(sorted(wrong))
    return tensors, header | {key: dice.choice(wrong[key])}


REDIGESTED = [lose, misname, misshape, spoil, contradict]


@pytest.mark.parametrize("seed", range(PER_KIND))
@pytest.mark.parametrize("mutate", REDIGESTED, ids=lambda mutate: mutate.__name__)
def test_a_wrong_file_with_a_right_digest_is_never_laid_over_a_backbone(tmp_path, mutate, seed):
    """Structure, shape, header or finiteness: told when it is read, or by what it does not fit."""
    dice = random.Random(f"{mutate.__name__} {seed}")
    bundle, whole = bundled(dice.choice(["wan t2v", "hunyuan_video t2v"]))
    path = tmp_path / "e.safetensors"
    save_expert(path, whole, compact=dice.random() < 0.5)
    tensors, header = mutate(load_file(path), TensorSource([path]).metadata, dice)
    write_as_is(path, tensors, header)
    try:
        inspect(path)  # no other error than these
    except ValueError as error:
        assert len(str(error)) < 3000
    with pytest.raises(ExpertFileError):
        check(load_expert(path), bundle.shapes, bundle.norms, whole.metadata.family).raise_if_wrong()


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("name", ["wan t2v", "hunyuan_video t2v"])
def test_what_does_no_harm_gives_an_equal_expert(tmp_path, name, compact):
    bundle, whole = bundled(name)
    path = tmp_path / "e.safetensors"
    save_expert(path, whole, compact=compact)
    tensors, header = load_file(path), TensorSource([path]).metadata
    respelt = {key.replace(".lora_A.", ".lora_down.").replace(".lora_B.", ".lora_up."): t for key, t in tensors.items()}
    harmless = (
        (dict(reversed(tensors.items())), header),
        (respelt, header),
        (tensors, header | {"modelspec.author": "me", "dcm.something_new": "yes"}),
    )
    for changed in harmless:
        write_as_is(path, *changed)
        loaded = load_expert(path)
        assert check(loaded, bundle.shapes, bundle.norms, whole.metadata.family).ok
        assert same_meaning(replace(loaded, metadata=whole.metadata), whole)
