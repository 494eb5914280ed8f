"""Networks built on a family's own that are other models: told by what they have beside it.

They keep the family's names, so that a loader takes them for it. Some work on its latents, and people run them with
speed LoRAs; others have latents of their own, on which its noise levels and experts mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .keymap import KeyMap, Shapes


@dataclass(frozen=True)
class Relative:
    """Another model over a family's network.

    * ``title``: its name, for people.
    * ``signs``: beginnings of parameter names that only it has, in ComfyUI's naming or in diffusers'.
    * ``fits``: for one that has none, whether the shapes (by ComfyUI's names) are its own.
    * ``other_latents``: it does not work on the family's latents, so that nothing of the family's serves it.
    """

    title: str
    signs: tuple[str, ...] = ()
    fits: Callable[[Shapes], bool] | None = None
    other_latents: bool = False

    @property
    def remark(self) -> str:
        """What is worth saying where it runs."""
        return (
            f"this backbone is {self.title}, which DCM has not been tried on: it runs with the noise levels of the "
            "backbone it was made from, and experts and speed LoRAs of that one may do less on it."
        )


def relative_by_names(relatives: Iterable[Relative], names: Iterable[str]) -> Relative | None:
    """The relative with one of these parameter names (without the file's prefix), in either naming."""
    names = list(names)
    for relative in relatives:
        if relative.signs and any(name.startswith(relative.signs) for name in names):
            return relative
    return None


def relative_by_shapes(relatives: Iterable[Relative], keymap: KeyMap, title: str, shapes: Shapes) -> Relative | None:
    """The relative with these shapes, by ComfyUI's names; one without a name for a network with unknown parts."""
    for relative in relatives:
        if relative.fits is not None and relative.fits(shapes):
            return relative
    unknown = [name for name in shapes if not keymap.comfy_names(name)]
    if not unknown:
        return None
    parts = ", ".join(list(dict.fromkeys(re.sub(r"\.\d+\..*", "", name) for name in unknown))[:3])
    return Relative(f"a relative of {title} (it has {parts})")


def latent_channels(shapes: Shapes, output: str, patch: tuple[int, ...]) -> int:
    """Channels of the latents that a network makes: rows of its ``output`` weight over the size of a patch."""
    rows = shapes[output][0]
    for size in patch:
        rows //= size
    return rows
