"""The training set that the authors of DCM published: raw latents and text embeddings of HunyuanVideo, as .pt files.

``FOLDER/videos2caption.json`` lists files in ``latent``, ``prompt_embed`` and ``prompt_attention_mask``. Latents are as
the autoencoder drew them, [16, T, H, W] or [1, 16, T, H, W]. An embedding [257, 4096] is the pooled text, padded with
zeros, and 256 tokens, of which the mask [256] says which there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from pydantic import Field
from torch import Tensor

from ..config import DataConfig, Positive, Section, build
from ..errors import ConfigError
from .base import left_out
from .batch import Conditions
from .bucketed import BucketedData, Text

_POOLED = 768  # width of CLIP's pooled text
_TEXT = "prompt_embed", "prompt_attention_mask"  # the folders of a text's two files
_END = 4096  # bytes of a .pt file that is a zip archive: its directory, with the checksums of all that is in it


class PublishedOptions(Section):
    """Where the set is, and what it leaves open."""

    folder: str = Field(description="The folder with `videos2caption.json`.")
    scale: Positive = Field(default=0.476986, description="Factor from raw latents to those of the network.")
    unconditional: str | None = Field(
        default=None,
        description="A pair of files of the empty caption, `prompt_embed/NAME` and `prompt_attention_mask/NAME`: NAME. "
        "The set has none.",
    )
    encoders: str | None = Field(
        default=None, description="Folder or hub name of the autoencoder that shows validation clips."
    )


class PublishedData(BucketedData):
    """The published clips, those of one shape a batch, every clip once an epoch.

    The authors stood zeros with a mask of nothing in for the empty caption, of which attention makes NaN. Without
    ``unconditional`` it is one token of zeros here, which will do for a network whose guidance is embedded, and
    captions cannot be dropped.
    """

    Options = PublishedOptions
    made_for = "hunyuan_video"

    def __init__(self, config: DataConfig):
        self.options = build(self.Options, config.options, "data.options")
        self.folder, self.encoders = Path(self.options.folder), self.options.encoders
        if config.text_dropout and self.options.unconditional is None:
            raise ConfigError(
                "data.text_dropout: the published set has no embedding of the empty caption. Set it to 0, or name one "
                "in data.options.unconditional."
            )
        self.items = _listed(self.folder)
        self.empty = self.away = self._of_no_caption()
        self.stands_in = self.options.unconditional is None
        super().__init__(config, [tuple(self._raw(item).shape) for item in self.items])

    def latents(self, number: int) -> Tensor:
        """Normalised latents [C, T, H, W] of a clip."""
        return self._raw(self.items[number]).float() * self.options.scale

    def text(self, number: int) -> Text:
        """The embedded caption of a clip, without its padding."""
        return self._read(self.items[number]["prompt_embed_path"], self.items[number]["prompt_attention_mask"])

    def shown(self, number: int) -> str:
        """The file of a clip's latents."""
        return self.items[number]["latent_path"]

    @cached_property
    def content(self) -> str:
        """As for others, by names and shapes, and behind it, where checkpoints of before say nothing, by its files."""
        told = "\0".join(self._files()).encode("utf-8", "surrogatepass")
        return f"{super().content}, files {hashlib.sha256(told).hexdigest()[:12]}"

    def _files(self) -> list[str]:
        """Digests of its files in their order, of each of which little is read."""
        items = [(each["latent_path"], each["prompt_embed_path"], each["prompt_attention_mask"]) for each in self.items]
        files = [file for item in items for file in zip(("latent", *_TEXT), item, strict=True)]
        if name := self.options.unconditional:
            files += [(kind, name) for kind in _TEXT]
        return [_identity(self.folder / kind / name) for kind, name in files]

    @property
    def prompts(self) -> list[str]:
        """The captions of the clips."""
        return list(dict.fromkeys(item["caption"] for item in self.items if item["caption"]))

    def conditions(self, captions: list[str], dropped: Collection[int] = ()) -> Conditions:
        """Of captions, B in number. Raises ValueError for one that the set does not hold."""
        captions = left_out(captions, dropped)
        numbers = {item["caption"]: number for number, item in enumerate(self.items)}
        if unknown := [caption for caption in captions if caption and caption not in numbers]:
            raise ValueError(f"{unknown[0]!r} is no caption of {self.folder}; use one of its videos2caption.json.")
        return self.told([self.text(numbers[caption]) if caption else self.empty for caption in captions])

    def _raw(self, item: Mapping[str, Any]) -> Tensor:
        path = self.folder / "latent" / item["latent_path"]
        latents = _load(path)
        latents = latents[0] if latents.ndim == 5 and len(latents) == 1 else latents
        if latents.ndim != 4:
            raise ConfigError(f"{path} is {list(latents.shape)}, which is no clip's latents [C, T, H, W].")
        return latents

    def _read(self, embedding: str, mask: str) -> Text:
        path = self.folder / "prompt_embed" / embedding
        embedded, there = _load(path), _load(self.folder / "prompt_attention_mask" / mask).reshape(-1).bool()
        if embedded.ndim != 2 or len(embedded) != len(there) + 1 or not there.any():
            raise ConfigError(f"{path} and its mask are {list(embedded.shape)} and {list(there.shape)}, not a text's.")
        return {"text": embedded[1:][there], "pooled": embedded[0, :_POOLED]}

    def _of_no_caption(self) -> Text:
        if name := self.options.unconditional:
            return self._read(name, name)
        some = self.text(0)
        return {"text": torch.zeros_like(some["text"][:1]), "pooled": torch.zeros_like(some["pooled"])}


def _listed(folder: Path) -> list[dict[str, Any]]:
    path = folder / "videos2caption.json"
    try:
        items = json.loads(path.read_text("utf-8"))
        keys = {"latent_path", "prompt_embed_path", "prompt_attention_mask", "caption"}
        if items and all(keys <= item.keys() for item in items):
            return items
    except FileNotFoundError:
        raise ConfigError(f"There is no {path.absolute()}: data.options.folder has to be the published set.") from None
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    raise ConfigError(f"{path} is no list of published clips, each with {', '.join(sorted(keys))}.")


def _load(path: Path) -> Tensor:
    """A tensor of a .pt file, of which nothing is run. Raises OSError where it cannot be read."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the pickle machinery raises of many kinds
        raise OSError(f"{path} cannot be read as a tensor ({type(error).__name__}): download it again.") from None
    if not isinstance(found, Tensor):
        raise OSError(f"{path} holds no tensor: download it again.")
    return found


def _identity(path: Path) -> str:
    """Changes with the content of a .pt file, of whatever version. Raises OSError where it cannot be read."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            # one of PyTorch before 1.6 is read whole: it has no directory, and ends with the zeros that pad a text
            file.seek(max(0, size - _END) if is_zipfile(file) else 0)
            return f"{path.name} {size} {hashlib.sha256(file.read()).hexdigest()}"
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}): download it again.") from None


DATA = PublishedData
