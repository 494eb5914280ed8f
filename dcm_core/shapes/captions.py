"""The attributes of a Shapes clip, their caption grammar, and the weightless text encoder.

A caption reads ``a red striped circle moving left fast``: colour, texture, shape, direction, speed.
"""

import difflib
import hashlib
import itertools
from dataclasses import dataclass, fields

import torch
from torch import Tensor

COLOURS = ("red", "green", "blue", "yellow")
TEXTURES = ("plain", "striped", "dotted")
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = ("left", "right", "up", "down")
SPEEDS = ("slowly", "fast")
VOCABULARY = ("a", *COLOURS, *TEXTURES, *SHAPES, "moving", *DIRECTIONS, *SPEEDS)

TEXT_TOKENS = 8  # constant: the host pads prompts of different length against each other
TEXT_WIDTH = 4096  # what Wan's text embedder takes


@dataclass(frozen=True)
class Attributes:
    """What a clip shows. Every field is one of the words listed above."""

    colour: str
    texture: str
    shape: str
    direction: str
    speed: str

    def caption(self) -> str:
        return f"a {self.colour} {self.texture} {self.shape} moving {self.direction} {self.speed}"


ATTRIBUTES = tuple(field.name for field in fields(Attributes))
ALL_ATTRIBUTES = tuple(Attributes(*words) for words in itertools.product(COLOURS, TEXTURES, SHAPES, DIRECTIONS, SPEEDS))


def split_words(caption: str) -> list[str]:
    """The words of a caption, checked against the vocabulary.

    Raises ValueError for an unknown word (with the nearest known one) or too many words.
    """
    words = caption.lower().replace(",", " ").replace(".", " ").split()
    for word in words:
        if word not in VOCABULARY:
            nearest = difflib.get_close_matches(word, VOCABULARY, 1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(
                f"The Shapes world does not know the word {word!r}.{hint} It knows: {' '.join(VOCABULARY)}. "
                "A full prompt is 'a red striped circle moving left fast'; the negative prompt stays empty."
            )
    if len(words) > TEXT_TOKENS:
        raise ValueError(f"{caption!r} has {len(words)} words; the Shapes world takes at most {TEXT_TOKENS}.")
    return words


def word_vector(word: str) -> Tensor:
    """The fixed vector [TEXT_WIDTH] of a word: unit normals seeded by the word itself, so no weights are needed."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "big")
    return torch.randn(TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))


_TABLE: dict[str, Tensor] = {}


def encode_text(captions: list[str]) -> Tensor:
    """Captions to text states [B, TEXT_TOKENS, TEXT_WIDTH]; an empty caption is all zeros (unconditional)."""
    out = torch.zeros(len(captions), TEXT_TOKENS, TEXT_WIDTH)
    for row, caption in zip(out, captions, strict=True):
        for position, word in enumerate(split_words(caption)):
            if word not in _TABLE:
                _TABLE[word] = word_vector(word)
            row[position] = _TABLE[word]
    return out
