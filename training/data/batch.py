"""One training batch, and what a network is told beside latents and a noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Conditions:
    """What a network is told; whatever its backbone does not take is None.

    * ``text`` [B, L, D]: embedded captions; ``mask`` [B, L], bool: which of the L are tokens and no padding, None for
      all; ``pooled`` [B, P]: the captions as one vector each
    * ``guidance`` [B]: the scale that a guidance-distilled network is told
    * ``image`` [B, C, T, H, W]: channels beside the latents; ``vision`` [B, N, D]: an embedded first frame
    """

    text: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    guidance: Tensor | None = None
    image: Tensor | None = None
    vision: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)

    def to(self, device: torch.device | str) -> Conditions:
        return self._each(lambda tensor: tensor.to(device))

    def cast(self, dtype: torch.dtype) -> Conditions:
        """The same in what a network computes in. Guidance stays as it is: bfloat16 would make 6016 of 6000."""
        cast = self._each(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
        return replace(cast, guidance=self.guidance)

    def rows(self, index: slice | Tensor) -> Conditions:
        """Those of some samples of the batch."""
        return self._each(lambda tensor: tensor[index])

    def joined(self, other: Conditions) -> Conditions:
        """The samples of both, which have the same fields; the shorter texts are padded, and masked there."""
        both = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        one, two = (each.text.shape[1] for each in (self, other))
        if one != two or not (self.mask is None and other.mask is None):
            more, less = max(one, two) - one, max(one, two) - two
            both["text"] = pad(self.text, (0, 0, 0, more)), pad(other.text, (0, 0, 0, less))
            both["mask"] = pad(self.there(), (0, more)), pad(other.there(), (0, less))
        return Conditions(**{name: torch.cat(pair) for name, pair in both.items() if pair[0] is not None})

    def there(self) -> Tensor:
        """[B, L], bool: which of the text are tokens and no padding."""
        return self.text.new_ones(self.text.shape[:2], dtype=torch.bool) if self.mask is None else self.mask

    def told(self, guidance: float | None) -> Conditions:
        """The same with this embedded guidance for every sample."""
        scales = None if guidance is None else self.text.new_full((len(self),), guidance, dtype=torch.float32)
        return replace(self, guidance=scales)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if value is not None})


@dataclass(frozen=True)
class Batch:
    """``latents`` [B, C, T, H, W], normalised; some of the conditions are dropped to the unconditional ones."""

    latents: Tensor
    conditions: Conditions

    def rows(self, index: slice) -> Batch:
        """Those of some samples of the batch."""
        return Batch(self.latents[index], self.conditions.rows(index))

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.latents.to(device), self.conditions.to(device))
