"""Which files belong to a network, and what is said where that is not plain."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dcm_core.errors import ExpertFileError
from dcm_core.files.shards import open_weights

TENSORS = {f"blocks.{number}.weight": torch.full((2, 3), float(number)) for number in range(4)}
SHARDS = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def sharded(folder, index=True):
    folder.mkdir(parents=True, exist_ok=True)
    table = {name: SHARDS[number % 2] for number, name in enumerate(TENSORS)}
    for shard in SHARDS:
        save_file({name: TENSORS[name] for name, there in table.items() if there == shard}, folder / shard)
    if index:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder


def content(path):
    with open_weights(path) as source:
        return {name: float(source.read(name).mean()) for name in sorted(source.infos)}


WHOLE = {name: float(tensor.mean()) for name, tensor in TENSORS.items()}


def test_every_way_of_naming_a_network_leads_to_all_its_tensors(tmp_path):
    model = sharded(tmp_path / "model" / "transformer")
    loose = sharded(tmp_path / "loose", index=False)
    (tmp_path / "one").mkdir()
    save_file(TENSORS, tmp_path / "one" / "any name.safetensors")
    for path in (
        tmp_path / "model",
        model,
        model / INDEX,
        model / SHARDS[1],
        loose,
        loose / SHARDS[0],
        tmp_path / "one",
        tmp_path / "one" / "any name.safetensors",
    ):
        assert content(path) == WHOLE, path


def test_a_missing_shard_is_named(tmp_path):
    for folder in (sharded(tmp_path / "a"), sharded(tmp_path / "b", index=False)):
        (folder / SHARDS[1]).unlink()
        with pytest.raises(ExpertFileError, match="not beside it: .*00002-of-00002"):
            open_weights(folder)


def test_an_index_that_lies_is_refused(tmp_path):
    folder = sharded(tmp_path)
    save_file({"other.weight": torch.zeros(1)}, folder / SHARDS[1])
    with pytest.raises(ExpertFileError, match=r"disagree about blocks\.1\.weight, blocks\.3\.weight, other"):
        open_weights(folder)
    (folder / INDEX).write_text("{}")
    with pytest.raises(ExpertFileError, match="no index of safetensors shards"):
        open_weights(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = sharded(tmp_path, index=False)
    save_file(TENSORS, folder / SHARDS[1])
    with pytest.raises(ExpertFileError, match=r"repeats tensors .*blocks\.0\.weight"):
        open_weights(folder)


def test_a_folder_that_leaves_a_choice_says_between_what(tmp_path):
    for name in ("high", "low"):
        save_file(TENSORS, tmp_path / f"{name}.safetensors")
    with pytest.raises(ExpertFileError, match=r"more than one network.*high\.safetensors, low\.safetensors"):
        open_weights(tmp_path)
    pair = tmp_path / "pair"
    sharded(pair / "transformer")
    sharded(pair / "transformer_2")
    with pytest.raises(ExpertFileError, match="pair of networks.*transformer_2"):
        open_weights(pair)
    assert content(pair / "transformer_2") == WHOLE
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExpertFileError, match=r"no \.safetensors file"):
        open_weights(tmp_path / "empty")


def renamed(folder, rename):
    for file in list(folder.iterdir()):
        file.rename(file.with_name(rename(file.name)))
    return folder


SPELLINGS = {
    "upper case": str.upper,
    "one of them in upper case": lambda name: name.replace("2-of-00002.safetensors", "2-OF-00002.SafeTensors"),
    "no zeros before": lambda name: name.replace("0000", ""),
    "two digits": lambda name: name.replace("0000", "0"),
    "another ending": lambda name: name.replace(".safetensors", ".sft"),
}


@pytest.mark.parametrize("rename", SPELLINGS.values(), ids=SPELLINGS)
def test_shards_are_found_however_their_names_are_written(tmp_path, rename):
    folder = renamed(sharded(tmp_path, index=False), rename)
    for path in (folder, *folder.iterdir()):
        assert content(path) == WHOLE, path


def test_an_index_in_upper_case_leads_to_files_in_another_one(tmp_path):
    upper = renamed(sharded(tmp_path / "upper"), str.upper)
    assert content(upper) == content(upper / INDEX.upper()) == WHOLE
    shards = sharded(tmp_path / "shards")
    (shards / SHARDS[0]).rename(shards / SHARDS[0].upper())
    assert content(shards) == WHOLE


def test_an_index_of_half_of_the_files_says_which_it_leaves_out(tmp_path):
    folder = sharded(tmp_path)
    table = json.loads((folder / INDEX).read_text())["weight_map"]
    half = {name: there for name, there in table.items() if there == SHARDS[0]}
    (folder / INDEX).write_text(json.dumps({"weight_map": half}))
    for second in (True, False):
        with pytest.raises(ExpertFileError, match=f"names only 1 of the 2 files .*leaves out {SHARDS[1]}.*the index"):
            open_weights(folder)
        assert not second or content(folder / SHARDS[0]) == WHOLE
        (folder / SHARDS[1]).unlink(missing_ok=True)


def test_an_index_of_missing_files_says_what_to_do(tmp_path):
    folder = sharded(tmp_path)
    for shard in SHARDS:
        (folder / shard).unlink()
    with pytest.raises(ExpertFileError, match=f"not beside it: {SHARDS[0]}, {SHARDS[1]}. Download them into the same"):
        open_weights(folder)


def test_a_number_at_the_end_of_a_name_makes_no_shard(tmp_path):
    save_file(TENSORS, tmp_path / "wan-2.safetensors")
    assert content(tmp_path / "wan-2.safetensors") == WHOLE
