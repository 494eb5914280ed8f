"""The whole way from a collection to a cache: look, plan, embed captions, decode and encode clips, sum up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.buckets import Size, usual
from ..data.cache import CachedClip, CacheIndex
from ..errors import ConfigError
from ..output import alone, require_writable
from .clips import Clip, named
from .encoder import Encoder
from .filters import Dropped
from .first_frames import FirstFrame, first_frames, labels
from .manifest import Entry, read_collection
from .pixels import decoded, shown
from .scan import ClipRules, Scanned, plan, scan
from .sheet import ContactSheet
from .summary import Summary
from .work import ordered
from .write import ShardWriter, ready_folder, require_room

_UNCHECKED = "", "black", "static", "black static"  # what latents may not have been checked for, the least first
_FRAME = 2  # a first frame is told by no more than so many times the latents of a clip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to prepare and how.

    ``data``: none for prompts alone. ``caption``: of files without one. ``prompts``: embedded beside the captions.
    ``pictures``: first frames of prompts, which are their captions, for image to video. ``workers``: processes that
    decode.
    """

    data: Path | None
    output: Path
    backbone: str
    rules: ClipRules
    caption: str = ""
    negative: str = ""
    prompts: tuple[str, ...] = ()
    pictures: tuple[Entry, ...] = ()
    black: bool = True
    static: bool = True
    workers: int = 0
    shard_bytes: int = 256 << 20
    dry_run: bool = False

    @property
    def unchecked(self) -> str:
        """What clips are not checked for."""
        return " ".join(name for name, asked in (("black", self.black), ("static", self.static)) if not asked)


def prepare(settings: Settings, encoder: Encoder) -> Summary:
    """Fill the cache with what it does not hold yet, and write its index, a summary and a contact sheet.

    A dry run decodes and filters, and encodes nothing. Raises ConfigError, and OSError with the remedy.
    """
    if settings.data is None and not settings.prompts and not settings.pictures:
        raise ConfigError("Nothing to prepare: name videos with --data, or --prompts to train on the teacher's paths.")
    if settings.data and settings.data.resolve() == settings.output.resolve():
        raise ConfigError("--output is the folder of the videos themselves: name another, which may be inside it.")
    require_writable(settings.output, "--output")
    with alone(settings.output, "--output"):
        writer = ShardWriter(settings.output, encoder.fingerprint, settings.shard_bytes)
        return _Preparation(settings, encoder, writer).run()


@dataclass
class _Preparation:
    settings: Settings
    encoder: Encoder
    writer: ShardWriter
    texts: dict[str, str] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)

    def run(self) -> Summary:
        settings = self.settings
        entries, self.dropped = read_collection(settings.data, settings.caption) if settings.data else ([], [])
        files = len(entries) + len(self.dropped)
        scanned = self._scan(entries)
        clips, unfit = plan(scanned, settings.rules)
        self.dropped += unfit
        pictures = list(self._scan(list(settings.pictures)))
        require_room(settings.output, self._room(clips))
        if not settings.dry_run:
            clips = self._embedded(clips)
        ready_folder(settings.output)
        sheet = ContactSheet(clips)
        clips = list(self._encoded(clips, sheet))
        firsts = self._first_frames(pictures, clips)
        if not settings.dry_run:
            self._index(clips, firsts).save(settings.output)
        captions = {clip.entry.caption for clip in clips}
        prompts = {*settings.prompts, *(first.clip.entry.caption for first in firsts)}
        summary = Summary(files, clips, self.dropped, len(captions), len(prompts), settings.dry_run)
        summary.save(settings.output)
        self._finish(sheet, clips)
        return summary

    def _scan(self, entries: list[Entry]) -> Iterator[Scanned]:
        found = ordered(scan, entries, self.settings.workers)
        for each in tqdm(found, "looking at files", len(entries), ncols=80, disable=None):
            if isinstance(each, Dropped):
                self.dropped.append(each)
            else:
                yield each

    def _room(self, clips: list[Clip]) -> int:
        """Bytes of the latents that are not there yet, were they of 32 bits."""
        latents = sum(self._bytes(clip.size) for clip in clips if not self._there(clip))
        return (1 + _FRAME) * latents if self.encoder.takes_image else latents

    def _bytes(self, size: Size) -> int:
        return 4 * math.prod(self.encoder.size_rule.latent_shape(size))

    def _there(self, clip: Clip) -> bool:
        return self._item(clip) in self.writer.shards

    def _checked(self, clip: Clip) -> bool:
        """Whether it is there, and was checked for all that this run leaves out."""
        enough = [each for each in _UNCHECKED if set(each.split()) <= set(self.settings.unchecked.split())]
        return any(clip.name(self.encoder.fingerprint, each) in self.writer.shards for each in enough)

    def _item(self, clip: Clip) -> str:
        """What its latents are called where they are, or will be."""
        names = [clip.name(self.encoder.fingerprint, each) for each in (*_UNCHECKED, self.settings.unchecked)]
        return next((name for name in names if name in self.writer.shards), names[-1])

    def _embedded(self, clips: list[Clip]) -> list[Clip]:
        """Embed all captions; the clips whose captions could be."""
        captions = list(dict.fromkeys(clip.entry.caption for clip in clips))
        for caption, option in self._prompts().items():
            if reason := self._embed(caption):
                raise ConfigError(f"{option}: {reason}")
        wrong: dict[str, str] = {}
        for caption in tqdm(captions, "embedding captions", ncols=80, disable=None):
            if reason := self._embed(caption):
                wrong[caption] = reason
        self.writer.flush()
        refused = {clip.entry: wrong[clip.entry.caption] for clip in clips if clip.entry.caption in wrong}
        self.dropped += [Dropped(entry.source, "bad caption", reason) for entry, reason in refused.items()]
        return [clip for clip in clips if clip.entry not in refused]

    def _prompts(self) -> dict[str, str]:
        """What is embedded whatever the clips are, and the option that asks for it."""
        asked = [*self.settings.prompts, *(entry.caption for entry in self.settings.pictures)]
        prompts = dict.fromkeys(asked, "--prompts")
        return prompts | {self.settings.negative: "--negative-prompt", "": "the empty caption"}

    def _embed(self, caption: str) -> str:
        """What is wrong with a caption, or nothing. Alone: what its neighbours are must not change a bit of it."""
        item = named("text", caption, self.encoder.fingerprint)
        if item not in self.writer.shards:
            try:
                self.writer.add(item, self.encoder.texts([caption])[0])
            except ValueError as error:
                return str(error)
        self.texts[caption] = item
        return ""

    def _encoded(self, clips: list[Clip], sheet: ContactSheet) -> Iterator[Clip]:
        """Decode and encode what is not there yet; the clips that are there in the end, in their order."""
        settings = self.settings
        decode = partial(shown if settings.dry_run else decoded, black=settings.black, static=settings.static)
        found = ordered(decode, [clip for clip in clips if not self._checked(clip)], settings.workers)
        for clip in tqdm(clips, "clips", ncols=80, disable=None):
            pixels = None if self._checked(clip) else next(found)
            if isinstance(pixels, Dropped):
                self.dropped.append(pixels)
                continue
            if pixels is not None:
                sheet.take(clip, pixels)
                if not settings.dry_run and not self._there(clip):
                    told = {"latents": self._latents(clip, pixels), **self._told_of(clip, pixels, clip.size.frames)}
                    self.writer.add(self._item(clip), told)
            yield clip
        self.writer.flush()

    def _first_frames(self, pictures: list[Scanned], clips: list[Clip]) -> list[FirstFrame]:
        """Encode the pictures of prompts that are not there yet, at the size of most clips; those that are there."""
        settings, fingerprint, size = self.settings, self.encoder.fingerprint, self._usual(clips)
        firsts, unfit = first_frames(pictures, settings.rules, size)
        self.dropped += unfit
        lacking = {name: first for first in firsts if (name := first.name(fingerprint)) not in self.writer.shards}
        require_room(settings.output, _FRAME * self._bytes(size) * len(lacking))
        decode = partial(decoded, black=False, static=False)
        found = ordered(decode, [first.clip for first in lacking.values()], settings.workers)
        wrong = set()
        for name, pixels in zip(
            lacking, tqdm(found, "first frames", len(lacking), ncols=80, disable=None), strict=True
        ):
            if isinstance(pixels, Dropped):
                self.dropped.append(pixels)
                wrong.add(name)
            elif not settings.dry_run:
                self.writer.add(name, self._told_of(lacking[name].clip, pixels, size.frames))
        self.writer.flush()
        firsts = [first for first in firsts if first.name(fingerprint) not in wrong]
        if settings.pictures and not (firsts or clips):
            raise ConfigError(f"--prompts: none of its first frames can be used: {self.dropped[0].detail}.")
        return firsts

    def _usual(self, clips: list[Clip]) -> Size:
        """The size of most clips, or what was asked for."""
        return usual([clip.size for clip in clips]) if clips else self.settings.rules.sizes[0]

    def _finish(self, sheet: ContactSheet, clips: list[Clip]) -> None:
        """Clips of former runs are decoded once more to be shown."""
        lacking = sheet.lacks(set(clips))
        decode = partial(shown, black=False, static=False)
        for clip, pixels in zip(lacking, ordered(decode, lacking, self.settings.workers), strict=True):
            if not isinstance(pixels, Dropped):
                sheet.take(clip, pixels)
        sheet.save(self.settings.output / "contact_sheet.jpg", len(clips))

    def _latents(self, clip: Clip, pixels: np.ndarray) -> Tensor:
        """One clip at a time: what shares a batch must not change a bit of it."""
        frames = torch.from_numpy(pixels).permute(3, 0, 1, 2).unsqueeze(0)
        latents = self.encoder.latents(frames)[0]
        promised = self.encoder.size_rule.latent_shape(clip.size)
        if tuple(latents.shape) != promised:
            raise ConfigError(
                f"The autoencoder makes latents {list(latents.shape)} of clips {clip.size}, not {list(promised)} as "
                f"{self.settings.backbone} has them: it belongs to another backbone."
            )
        return _sound(latents, clip)

    def _told_of(self, clip: Clip, pixels: np.ndarray, frames: int) -> dict[str, Tensor]:
        """Of the first frame of a clip of so many."""
        told = self.encoder.first_frame(torch.from_numpy(pixels[0]).permute(2, 0, 1), frames)
        return {name: _sound(tensor, clip) for name, tensor in told.items()}

    def _index(self, clips: list[Clip], firsts: list[FirstFrame]) -> CacheIndex:
        cached = [
            CachedClip(
                latents=self._item(clip),
                text=self.texts[clip.entry.caption],
                caption=clip.entry.caption,
                size=clip.size,
                source=clip.entry.source,
                begin=clip.begin,
                fps=clip.fps,
            )
            for clip in clips
        ]
        texts = {caption: self.texts[caption] for caption in [*self._prompts(), *(each.caption for each in cached)]}
        frames = self._frames(clips, firsts)
        texts |= {label: texts[caption] for label, (caption, _) in frames.items()}
        items = [*(each.latents for each in cached), *texts.values(), *(item for _, item in frames.values())]
        return CacheIndex(
            backbone=self.settings.backbone,
            fingerprint=self.encoder.fingerprint,
            negative=self.settings.negative,
            clips=cached,
            texts=texts,
            shards={item: self.writer.shards[item] for item in items},
            shape=list(self.encoder.size_rule.latent_shape(self.settings.rules.sizes[0])),
            frames={label: item for label, (_, item) in frames.items()},
        )

    def _frames(self, clips: list[Clip], firsts: list[FirstFrame]) -> dict[str, tuple[str, str]]:
        """By what prompts with first frames are called, the caption and the item that has the frame."""
        fingerprint, size = self.encoder.fingerprint, self._usual(clips)
        found = [(first.clip.entry, first.name(fingerprint)) for first in firsts]
        if self.encoder.takes_image:
            found += [(clip.entry, self._item(clip)) for clip in clips if clip.size == size]
        called = labels((entry.caption, entry.source) for entry, _ in found)
        return {label: (entry.caption, item) for label, (entry, item) in zip(called, found, strict=True)}


def _sound(tensor: Tensor, clip: Clip) -> Tensor:
    if not tensor.isfinite().all():
        raise FloatingPointError(f"The latents of {clip.entry.source} are not finite; nothing of them was kept.")
    return tensor
