"""Recognising a speed LoRA: by the passport in its header, else by its name in the table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .passport import Passport, read_passport
from .speed_presets import find_preset

# Where trainers write what they call a file.
_TITLES = ("modelspec.title", "ss_output_name")
# Not in "low rank" and the like, but in "HIGH_rank64".
_OTHER_WORDS = r"rank(?![-_. ]?\d)|v?ram|res(?:olution)?(?![a-z])|quality"
_SIDE = re.compile(rf"(?:^|[-_. ])(high|low)(?:[-_. ]?noise|(?![-_. ]?(?:{_OTHER_WORDS}))(?=[-_. ]|$))")


@dataclass(frozen=True)
class SpeedLora:
    """A LoRA whose noise levels are known. ``why`` ends the sentence that says which: "by its file's name".

    ``strength``: what it is loaded with; None where nobody tells.
    """

    passport: Passport
    why: str
    strength: float | None = None

    @property
    def title(self) -> str:
        return self.passport.title

    @property
    def is_misused(self) -> bool:
        """Is its strength less than half of the one that it is made for, or more than three times that?

        Up to three times is usual at high noise, against the slow motion of Wan 2.2 with LoRAs made for 2.1.
        """
        meant = self.passport.strength
        return meant is not None and self.strength is not None and not 0.5 <= self.strength / meant <= 3


def recognise(header: Mapping[str, str], name: str = "") -> SpeedLora | None:
    """The speed LoRA that a file is by its header or, where that says nothing, by its name; None for an unknown one.

    ``name``: the file's, with its folders before it where they are known. Raises ValueError for a passport that is
    unreadable or contradicts itself, and for a name that fits several rows of the table.
    """
    if passport := read_passport(header):
        title = passport.title or name.replace("\\", "/").rpartition("/")[2] or "this LoRA"
        return SpeedLora(replace(passport, title=title), "by its own metadata")
    for known, why in ((name, "by its file's name"), *((header.get(key, ""), "by its title") for key in _TITLES)):
        if preset := find_preset(known):
            return SpeedLora(replace(preset, expert=side_of(known)), why)
    return None


def side_of(name: str) -> str:
    """ "high" or "low" where a file's name, or else its folder's, says which model of a pair it is for, or nothing."""
    folder, _, own = name.replace("\\", "/").lower().rpartition("/")
    for part in (own, folder.rpartition("/")[2]):
        sides = {*_SIDE.findall(part)}
        if sides:
            return sides.pop() if len(sides) == 1 else ""
    return ""
