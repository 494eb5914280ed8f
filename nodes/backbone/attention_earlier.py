"""An attention override that another node has put into a MODEL before DCM Attention: the way to beat, and to equal.

It may compute something else with another setting, in some blocks or at some noise levels only, though it is called the
same and was exact where it was timed. So another way is compared with it once more for each MODEL, in each block that
the host tells and for each expert, by one head, and the first difference gives it its place back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .attention import WAYS, Attention, agrees
from .attention_inexact import ACTING

_BLOCK = "block_index"  # among the transformer options of newer hosts

log = logging.getLogger("DCM")


class Earlier:
    """``override``: as the host calls it, with its own function first."""

    def __init__(self, override: Callable[..., Tensor]):
        self.override = override
        self._compared: set[tuple[Any, ...]] = set()
        self._differs = False

    @property
    def name(self) -> str:
        """What a choice beside it is kept under; others may be called the same."""
        return type(self.override).__name__ + "." + getattr(self.override, "__qualname__", "")

    def is_equalled(
        self, name: str, own: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float | None, told: Mapping[str, Any]
    ) -> bool:
        """Does the way of this name give what ``own``, the override, gives? Tensors [B, heads, tokens, width];
        ``told``: the transformer options of the call."""
        place = name, q.shape[2], k.shape[2], told.get(_BLOCK), told.get(ACTING)
        if not self._differs and place not in self._compared:
            self._compared.add(place)
            head = q[:1, :1], k[:1, :1], v[:1, :1], scale
            self._differs = not agrees(WAYS[name](*head), own(*head))
            if self._differs:
                log.warning(
                    "DCM: what another node has put in attention's place computes something else than %s here, and "
                    "keeps it: take that node out, or choose a way in DCM Attention.",
                    name,
                )
        return not self._differs
