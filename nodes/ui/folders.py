"""Where expert files are found: models/dcm, and models/loras, since an expert is a LoRA file too."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import folder_paths

from ...dcm_core.files.shards import is_safetensors, open_weights, shard_set
from ...dcm_core.shapes import weights

FOLDER = "dcm"
EXTENSIONS = {".safetensors", ".sft"}  # the host asks for them in lower case, however a file's is written


def state_of(*files: str | os.PathLike) -> str:
    """What is another text once one of these files was written again. Raises FileNotFoundError."""
    states = [os.stat(file) for file in files]
    return " ".join(f"{state.st_mtime_ns}-{state.st_size}" for state in states)


def register() -> None:
    """Make models/dcm known to the host, beside any folder that extra_model_paths.yaml gives the same name."""
    default = os.path.join(folder_paths.models_dir, FOLDER)
    paths, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], EXTENSIONS))
    paths = list(paths) if default in paths else [*paths, default]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, EXTENSIONS)
    with contextlib.suppress(OSError):  # a read-only models folder costs only the empty folder
        os.makedirs(default, exist_ok=True)


def expert_names() -> list[str]:
    """Names to choose from, those in models/dcm first; a name in both folders is listed once."""
    return list(dict.fromkeys([*folder_paths.get_filename_list(FOLDER), *lora_names()]))


def expert_path(name: str) -> str:
    """The file of that name, models/dcm before models/loras. Raises FileNotFoundError naming both folders."""
    path = folder_paths.get_full_path(FOLDER, name) or folder_paths.get_full_path("loras", name)
    if path is None:
        raise FileNotFoundError(
            f"There is no expert file {name!r} in models/{FOLDER} or models/loras. Put it there, "
            "press R in the page to refresh the list, and choose it again."
        )
    return path


def all_lora_names() -> list[str]:
    """The safetensors files of models/loras, and the one that comes with the Shapes world."""
    return list(dict.fromkeys([*lora_names(), weights.style().name]))


def lora_names() -> list[str]:
    """The safetensors files of models/loras."""
    return [name for name in folder_paths.get_filename_list("loras") if is_safetensors(name)]


def lora_path(name: str) -> str:
    """The file of that name in models/loras, or that of Shapes. Raises FileNotFoundError naming the folder."""
    path = folder_paths.get_full_path("loras", name)
    if path is None and name == weights.style().name:
        return str(weights.style())
    if path is None:
        raise FileNotFoundError(
            f"There is no file {name!r} in models/loras. Put the LoRA there, press R in the page to refresh the list, "
            "and choose it again."
        )
    return path


def backbone_names() -> list[str]:
    """Files of models/diffusion_models; a network in several files is listed once.

    It is called by its folder where nothing else is in it, and else by the first of its files.
    """
    files = folder_paths.get_filename_list("diffusion_models")
    sets: dict[str, set[str]] = {}
    for name in files:
        sets.setdefault(os.path.dirname(name), set()).add(shard_set(name) or name)
    names: dict[str, str] = {}  # by what all the files of a network have in common
    for name in sorted(files):
        folder, shards = os.path.dirname(name), shard_set(name)
        alone = shards and folder and len(sets[folder]) == 1
        names.setdefault(shards or name, folder if alone else name)
    return list(names.values())


def backbone_path(name: str) -> str:
    """The file or folder of that name in models/diffusion_models. Raises FileNotFoundError naming the folder."""
    path = folder_paths.get_full_path("diffusion_models", name)
    if path is None and name in backbone_names():
        places = (os.path.join(root, name) for root in folder_paths.get_folder_paths("diffusion_models"))
        path = next(filter(os.path.isdir, places), None)
    if path is None:
        raise FileNotFoundError(
            f"There is no file {name!r} in models/diffusion_models. Put the backbone there, press R in the page to "
            "refresh the list, and choose it again."
        )
    return path


def backbone_files(name: str) -> list[Path]:
    """All files of the backbone of that name. Raises as ``backbone_path``, and as ``open_weights`` where one is
    damaged."""
    path = Path(backbone_path(name))
    return open_weights(path).paths if path.is_dir() or is_safetensors(path) else [path]
