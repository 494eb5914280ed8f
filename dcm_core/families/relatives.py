"""Networks built on a family's own that are other models: told by what they have beside it.

They keep the family's names, so that a loader takes them for it. Some work on its latents, and people run them with
speed LoRAs; others have latents of their own, on which its noise levels and experts mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from math import prod

from .keymap import KeyMap, Shapes


@dataclass(frozen=True)
class Relative:
    """Another model over a family's network.

    * ``title``: its name, for people; ``parts``: what it was told by, where it has none.
    * ``signs``: beginnings of parameter names that only it has, in ComfyUI's naming or in diffusers'. Where it is told
      by one of them, it has them all, and ``needs`` too: beginnings of names that others may have.
    * ``fits``: whether the shapes (by ComfyUI's names) are its own.
    * ``other_latents``: it does not work on the family's latents, so that nothing of the family's serves it.
    """

    title: str
    signs: tuple[str, ...] = ()
    fits: Callable[[Shapes], bool] = lambda shapes: False
    other_latents: bool = False
    parts: str = ""
    needs: tuple[str, ...] = ()

    def named(self, size: str = "") -> str:
        """Its name and size, for people."""
        return " ".join(filter(None, (self.title, size, self.parts and f"(it has {self.parts})")))

    def lost(self, names: Collection[str]) -> list[str]:
        """What a file with these parameter names lacks of all that only it has."""

        def has(*beginnings: str) -> bool:
            return any(name.startswith(beginnings) for name in names)

        parts = (*self.signs, *self.needs) if has(*self.signs) else ()
        return [part.rstrip(".") for part in parts if not has(part)]

    @property
    def untranslated(self) -> str:
        """Why it cannot be written in diffusers' layout."""
        return f"this is {self.named()}, whose names in diffusers DCM does not know: use it in ComfyUI as it is."

    @property
    def remark(self) -> str:
        """What is worth saying where it runs."""
        return (
            f"this backbone is {self.named()}, which DCM has not been tried on: it runs with the noise levels of the "
            "backbone it was made from, and experts and speed LoRAs of that one may do less on it."
        )

    def refusal(self, known: str) -> str:
        """Why it does not run: for one with other latents. ``known``: the family's title."""
        return (
            f"this is {self.named()}, another model than {known}: its latents are others, so that the noise levels and "
            f"experts of {known} mean nothing on it. Take a {known} backbone, or sample this one without DCM's nodes."
        )


@dataclass(frozen=True)
class Channels:
    """Channels a network takes and makes, by its first and last layer's weights.

    ``inputs`` is None where the first layer is not there or is packed, ``outputs`` likewise.
    """

    inputs: int | None
    outputs: int | None

    @classmethod
    def of(cls, shapes: Shapes, first: str, last: str) -> Channels:
        """Of a first layer that is a convolution over patches."""
        into, out = shapes.get(first, ()), shapes.get(last, ())
        if len(into) < 4 or not out:
            return cls(None, None)
        return cls(into[1], out[0] // prod(into[2:]))


def find_relative(
    relatives: Iterable[Relative], names: Collection[str], shapes: Shapes | None = None
) -> Relative | None:
    """The relative with one of these parameter names, in either naming, or with these shapes by ComfyUI's names."""
    for relative in relatives:
        if relative.signs and any(name.startswith(relative.signs) for name in names):
            return relative
        if shapes is not None and relative.fits(shapes):
            return relative
    return None


def unknown_relative(keymap: KeyMap, title: str, names: Iterable[str]) -> Relative | None:
    """One without a name, for a network that has whole parts which the family's has not."""
    known: dict[str, bool] = {}
    for name in names:  # asked for each part once: a network's blocks have the same ones
        part = _part(name)
        known[part] = known.get(part) or bool(keymap.known([name]))
    strange = [part for part in known if not known[part]]
    if not strange:
        return None
    shown = [part.removesuffix(".weight").removesuffix(".bias") for part in strange]
    return Relative(f"a relative of {title}", parts=", ".join([*dict.fromkeys(shown)][:3]))


def _part(name: str) -> str:
    """Down to the second piece, and without a block's number: a new module of each block is a part too."""
    return ".".join(re.sub(r"\.\d+(?=\.)", "", name, count=1).split(".")[:2])
