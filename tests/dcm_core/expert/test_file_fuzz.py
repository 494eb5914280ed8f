"""200 damaged expert files: each one loads as the same expert, or is refused with the one clear error."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness.experts import expert, parts, same_meaning, write_as_is
from torch import Tensor

from dcm_core.errors import ExpertFileError
from dcm_core.expert.file import load_expert, save_expert

PER_KIND = 20
WHOLE = expert(seed=3)

Content = tuple[dict, bytes]


def read(path: Path) -> Content:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path: Path, header: dict | str, data: bytes) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def flip_bit(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def flip_header_bit(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(8 + int.from_bytes(content[:8], "little"))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def cut(path: Path, dice: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(len(content))])


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


def double_key(path: Path, dice: random.Random) -> None:
    header, data = read(path)
    key = dice.choice(sorted(header))
    again = json.dumps({key: header[key]})
    write(path, json.dumps(header)[:-1] + "," + again[1:], data)


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


def test_there_are_two_hundred():
    assert len(KINDS) * PER_KIND == 200
