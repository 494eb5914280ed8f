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

from ..data.cache import CachedClip, CacheIndex
from ..errors import ConfigError
from .clips import Clip, make, named
from .encoder import Encoder
from .filters import Dropped, Unfit, check_pixels
from .manifest import Entry, read_collection
from .scan import ClipRules, Scanned, plan, scan
from .sheet import ContactSheet
from .summary import Summary
from .work import ordered
from .write import ShardWriter, ready_folder, require_room


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to prepare and how.

    ``data``: none for prompts alone. ``caption``: of files without one. ``prompts``: embedded beside the captions.
    ``workers``: processes that decode.
    """

    data: Path | None
    output: Path
    backbone: str
    rules: ClipRules
    caption: str = ""
    negative: str = ""
    prompts: tuple[str, ...] = ()
    black: bool = True
    static: bool = True
    workers: int = 0
    shard_bytes: int = 256 << 20
    dry_run: bool = False


def prepare(settings: Settings, encoder: Encoder) -> Summary:
    """Fill the cache with what it does not hold yet, and write its index, a summary and a contact sheet.

    A dry run decodes and filters, and encodes nothing. Raises ConfigError, and OSError with the remedy.
    """
    if settings.data is None and not settings.prompts:
        raise ConfigError("Nothing to prepare: name videos with --data, or --prompts to train on the teacher's paths.")
    if settings.data and settings.data.resolve() == settings.output.resolve():
        raise ConfigError("--output is the folder of the videos themselves: name another, which may be inside it.")
    ready_folder(settings.output)
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
        require_room(settings.output, self._room(clips))
        if not settings.dry_run:
            clips = self._embedded(clips)
        sheet = ContactSheet(clips)
        clips = list(self._encoded(clips, sheet))
        if not settings.dry_run:
            self._index(clips).save(settings.output)
        captions = {*settings.prompts, *(clip.entry.caption for clip in clips)}
        summary = Summary(files, clips, self.dropped, len(captions))
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
        shapes = [self.encoder.size_rule.latent_shape(clip.size) for clip in clips if not self._there(clip)]
        return sum(4 * math.prod(shape) for shape in shapes)

    def _there(self, clip: Clip) -> bool:
        return clip.name(self.encoder.fingerprint) in self.writer.shards

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
        prompts = dict.fromkeys(self.settings.prompts, "--prompts")
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
        decode = partial(decoded, black=settings.black, static=settings.static)
        found = ordered(decode, [clip for clip in clips if not self._there(clip)], settings.workers)
        for clip in tqdm(clips, "clips", ncols=80, disable=None):
            pixels = None if self._there(clip) else next(found)
            if isinstance(pixels, Dropped):
                self.dropped.append(pixels)
                continue
            if pixels is not None:
                sheet.take(clip, pixels)
                if not settings.dry_run:
                    self.writer.add(clip.name(self.encoder.fingerprint), {"latents": self._latents(clip, pixels)})
            yield clip
        self.writer.flush()

    def _finish(self, sheet: ContactSheet, clips: list[Clip]) -> None:
        """Clips of former runs are decoded once more to be shown."""
        lacking = sheet.lacks(set(clips))
        decode = partial(decoded, black=False, static=False)
        for clip, pixels in zip(lacking, ordered(decode, lacking, self.settings.workers), strict=True):
            if not isinstance(pixels, Dropped):
                sheet.take(clip, pixels)
        sheet.save(self.settings.output / "contact_sheet.png", len(clips))

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
        if not latents.isfinite().all():
            raise FloatingPointError(f"The latents of {clip.entry.source} are not finite; nothing of them was kept.")
        return latents

    def _index(self, clips: list[Clip]) -> CacheIndex:
        cached = [
            CachedClip(
                latents=clip.name(self.encoder.fingerprint),
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
        items = [*(each.latents for each in cached), *texts.values()]
        return CacheIndex(
            backbone=self.settings.backbone,
            fingerprint=self.encoder.fingerprint,
            negative=self.settings.negative,
            clips=cached,
            texts=texts,
            shards={item: self.writer.shards[item] for item in items},
            shape=list(self.encoder.size_rule.latent_shape(self.settings.rules.sizes[0])),
        )


def decoded(clip: Clip, black: bool, static: bool) -> np.ndarray | Dropped:
    """The pixels of a clip, or why it is not used."""
    try:
        pixels = make(clip)
        check_pixels(pixels, black, static)
        return pixels
    except Unfit as error:
        where = f" at {clip.begin / clip.fps:.1f} s" if clip.begin else ""
        return Dropped(clip.entry.source + where, error.reason, str(error))
    except OSError as error:
        return Dropped(clip.entry.source, "unreadable", f"it cannot be opened ({error.strerror})")
