"""Backbones by their name on the hub of Hugging Face."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from dcm_core.files.shards import is_safetensors

from .errors import ConfigError

_NAME = re.compile(r"(?P<model>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<folder>transformer\w*))?")


def is_name(weights: str) -> bool:
    """``owner/name``, or one network of a pair: ``owner/name/transformer_2``."""
    return _NAME.fullmatch(weights) is not None and not is_safetensors(weights)


def downloaded(weights: str) -> Path:
    """The folder of that backbone, downloaded where it is not yet in the hub's cache.

    Raises ConfigError for a pair of networks, and where the hub is out of reach, with what to download by hand.
    """
    match = _NAME.fullmatch(weights)
    if match is None:
        raise ConfigError(f"{weights} is no name on the hub: those are of the form owner/name.")
    model, folder = match["model"], match["folder"]
    pair = [] if folder else [file.parent.name for file in _files(model, ["transformer*/config.json"])]
    if len(pair) > 1:
        names = " or ".join(f"{model}/{each}" for each in sorted(pair))
        raise ConfigError(f"{model} holds a pair of networks: name one of them, {names}.")
    folder = folder or "".join(pair)
    patterns = [f"{folder}/*.json", f"{folder}/*.safetensors"] if folder else ["diffusion_pytorch_model*"]
    files = _files(model, patterns, folder)
    if not any(file.suffix == ".safetensors" for file in files):
        raise ConfigError(f"{model} has no network in the layout of diffusers: download its file, and name that.")
    return files[0].parent


def fetched(model: str, patterns: list[str], by_hand: str) -> Path:
    """The folder of a model with its files that fit these patterns, downloaded where they are not in the hub's cache.

    Raises ConfigError where the hub is out of reach or has no such model, with what to do ``by_hand``.
    """
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"There is no file or folder {model}, and from the hub it cannot be downloaded: {reason}. {by_hand}"
        ) from None


def _files(model: str, patterns: list[str], folder: str = "") -> list[Path]:
    by_hand = (
        f"By hand: download the folder {folder or 'transformer'} of https://huggingface.co/{model}/tree/main, and name "
        "it in the place of this one."
    )
    root = fetched(model, patterns, by_hand)
    return sorted(file for pattern in patterns for file in root.glob(pattern))
