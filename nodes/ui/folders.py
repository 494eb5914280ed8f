"""Where expert files are found: models/dcm, and models/loras, since an expert is a LoRA file too."""

from __future__ import annotations

import contextlib
import os
import re

import folder_paths

FOLDER = "dcm"
EXTENSIONS = {".safetensors"}
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")


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
    loras = [name for name in folder_paths.get_filename_list("loras") if os.path.splitext(name)[1] in EXTENSIONS]
    return list(dict.fromkeys([*folder_paths.get_filename_list(FOLDER), *loras]))


def expert_path(name: str) -> str:
    """The file of that name, models/dcm before models/loras. Raises FileNotFoundError naming both folders."""
    path = folder_paths.get_full_path(FOLDER, name) or folder_paths.get_full_path("loras", name)
    if path is None:
        raise FileNotFoundError(
            f"There is no expert file {name!r} in models/{FOLDER} or models/loras. Put the .safetensors file there, "
            "press R in the page to refresh the list, and choose it again."
        )
    return path


def backbone_names() -> list[str]:
    """Files of models/diffusion_models; a network in several files is listed once, by its folder."""
    names = []
    for name in folder_paths.get_filename_list("diffusion_models"):
        shard = _SHARD.search(name)
        names.append((os.path.dirname(name) or name) if shard else name)
    return list(dict.fromkeys(names))


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
