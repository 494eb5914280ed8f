"""Prepared videos: the latents and text embeddings that ``training/prepare.py`` wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import Field
from torch import Tensor

from ..config import DataConfig, Section, build
from ..errors import ConfigError
from .batch import Conditions
from .bucketed import BucketedData, Frame, Text, require_one_shape
from .cache import FRAME, CachedTensors, CacheIndex, read_index


class VideosOptions(Section):
    """Which cache, and what stands for no caption."""

    cache: str = Field(description="The folder that `training/prepare.py` wrote.")
    negative_prompt: bool = Field(
        default=False,
        description="Guide away from the negative prompt that the cache was made with, instead of from no caption.",
    )
    fingerprint: str | None = Field(
        default=None,
        description="What `fingerprint` in the cache's index.json has to be, so that no cache of other encoders takes "
        "its place.",
    )
    encoders: str | None = Field(
        default=None,
        description="Folder or hub name of the autoencoder that shows validation clips: the preparation's `--weights`.",
    )


class VideosData(BucketedData):
    """The clips of a cache, a bucket a batch, every clip once an epoch."""

    Options = VideosOptions

    def __init__(self, config: DataConfig):
        self.options = build(self.Options, config.options, "data.options")
        self.folder = Path(self.options.cache)
        self.index = read_index(self.folder)
        _check(config, self.options, self.index)
        self.tensors = CachedTensors(self.folder, self.index.shards)
        self.tensors.check()
        self.made_for, self.encoders = self.index.backbone, self.options.encoders
        self.empty = self._embedded("")
        self.away = self._embedded(self.index.negative) if self.options.negative_prompt else self.empty
        self.told_of_image = frozenset(self._framed(next(iter(self.index.frames))) if self.index.frames else ())
        super().__init__(config, [clip.size for clip in self.index.clips])
        for bucket in dict.fromkeys(self.buckets):
            same = [clip for clip in self.index.clips if clip.size == bucket]
            require_one_shape({clip.source: self.tensors.shape(clip.latents, "latents") for clip in same})

    def latents(self, number: int) -> Tensor:
        """Normalised latents [C, T, H, W] of a clip."""
        return self.tensors.read(self.index.clips[number].latents, ["latents"])["latents"].float()

    def text(self, number: int) -> Text:
        """The embedded caption of a clip."""
        return self.tensors.read(self.index.clips[number].text)

    def first_frame(self, number: int) -> Frame:
        """What is told of the first frame of a clip."""
        return self.tensors.read(self.index.clips[number].latents, FRAME)

    def usual_shape(self) -> tuple[int, int, int, int]:
        """The same, and of a cache of prompts alone what was asked for."""
        if self.index.clips:
            return super().usual_shape()
        channels, frames, height, width = self.index.shape
        return channels, frames, height, width

    def identities(self) -> list[str]:
        """The names of its items, which follow from their content, and of what guidance leads away from."""
        away = self.index.texts[self.index.negative if self.options.negative_prompt else ""]
        return [*(f"{clip.latents} {clip.text}" for clip in self.index.clips), away]

    def shown(self, number: int) -> str:
        """The file of a clip."""
        return self.index.clips[number].source

    @property
    def prompts(self) -> list[str]:
        """The captions of the clips, and the prompts that were prepared beside them; those with a first frame of the
        usual size where there are first frames."""
        if self.index.frames:
            return list(self.index.frames)
        return [text for text in self.index.texts if text not in ("", self.index.negative)]

    def conditions(self, captions: list[str], dropped: Collection[int] = ()) -> Conditions:
        """Of captions, B in number; of no caption alone, the text. Raises ValueError for one that it does not hold."""
        framed = self.told_of_image and captions != [""]
        frames = [self._framed(caption) if framed else {} for caption in captions]
        texts = [self.empty if place in dropped else self._embedded(each) for place, each in enumerate(captions)]
        return self.told([{**text, **frame} for text, frame in zip(texts, frames, strict=True)])

    def frames_of(self, captions: Sequence[str]) -> str:
        """Their items are named by content: a caption whose picture was replaced has another."""
        if not self.index.frames:
            return ""
        items = "\0".join(self.index.frames.get(caption, "") for caption in captions)
        return hashlib.sha256(items.encode()).hexdigest()[:16]

    def _framed(self, caption: str) -> Frame:
        if caption not in self.index.frames:
            raise ValueError(
                f"{caption!r} has no first frame of the usual size in {self.folder}: write it into a table beside the "
                "path of an image, and run training/prepare.py as before, with --prompts TABLE."
            )
        return self.tensors.read(self.index.frames[caption], FRAME)

    def _embedded(self, caption: str) -> Text:
        if caption not in self.index.texts:
            raise ValueError(
                f"{caption!r} is not embedded in {self.folder}: write it into a text file and run training/prepare.py "
                "as before, with --prompts FILE."
            )
        return self.tensors.read(self.index.texts[caption])


def _check(config: DataConfig, options: VideosOptions, index: CacheIndex) -> None:
    if options.fingerprint not in (None, index.fingerprint):
        raise ConfigError(
            f"data.options.cache={options.cache!r} was made with another autoencoder or other text encoders: its "
            f"fingerprint is {index.fingerprint}, and data.options.fingerprint says {options.fingerprint}."
        )
    if not index.clips and (config.source != "teacher" or not index.shape):
        raise ConfigError(
            f"data.options.cache={options.cache!r} holds no clips; its summary.txt says why. On prompts alone trains "
            "data.source=teacher."
        )
    if options.negative_prompt and not index.negative:
        raise ConfigError(
            f"data.options.negative_prompt: {options.cache!r} was made without one; run training/prepare.py as before, "
            "with --negative-prompt."
        )


DATA = VideosData
